import assert from "node:assert/strict";
import test from "node:test";
import { decodeCounts, fillMask, laneOfMask, MADE, maskOfLane, MaskStore, maskTitle, PROMPTED, STALE, stretches, tintMask, wantedFrames } from "../../../../editor/canvas/static/masks.js";
import { holds } from "../../../../editor/canvas/static/hover.js";
import { Model } from "../../../../editor/canvas/static/model.js";
import { clickGesture, clickUnder, nextBrush, promptBox } from "../../../../editor/canvas/static/prompts.js";

const SIZE = { width: 200, height: 100 };

test("COCO's run lengths are read as the server writes them", () => {
  assert.deepEqual(decodeCounts("52203"), [5, 2, 2, 2, 5]);
  const runs = [0, 3, 4, 1000, 90, 7, 50000, 1];
  const code = (values) => values.map((value, index) => {
    let rest = index > 2 ? value - values[index - 2] : value;
    let text = "";
    for (let more = true; more;) {
      let digit = rest & 31;
      rest >>= 5;
      more = digit & 16 ? rest !== -1 : rest !== 0;
      if (more) digit |= 32;
      text += String.fromCharCode(digit + 48);
    }
    return text;
  }).join("");
  assert.deepEqual(decodeCounts(code(runs)), runs);
});

test("runs go down the columns, and a mask has a firm edge and a tint inside", () => {
  const mask = fillMask([4, 2, 4, 2, 3], [5, 3]);
  assert.deepEqual([...mask], [0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, 0, 0]);
  const full = fillMask([0, 25], [5, 5]);
  full[0] = 0;
  const pixels = tintMask(full, [5, 5], [244, 63, 94], false);
  assert.equal(pixels[3], 0);
  assert.deepEqual([...pixels.slice(4, 8)], [244, 63, 94, 255]);
  assert.deepEqual([...pixels.slice(4 * 12, 4 * 12 + 4)], [244, 63, 94, 112]);
  assert.notDeepEqual([...tintMask(full, [5, 5], [244, 63, 94], true).slice(4 * 12, 4 * 12 + 3)], [244, 63, 94]);
});

test("a place lies in a mask's runs or does not", () => {
  const runs = [4, 2, 4, 2, 3];
  const mask = fillMask(runs, [5, 3]);
  for (let at = 0; at < 15; at += 1) assert.equal(holds(runs, [5, 3], [((at % 3) + 0.5) / 3, (Math.floor(at / 3) + 0.5) / 5]), mask[at] === 1);
  assert.ok(!holds(runs, [5, 3], [1, 0.2]) && !holds(runs, [5, 3], [-0.1, 0.2]));
});

test("stretches of frames, names of lanes", () => {
  assert.deepEqual(stretches([0, 1, 1, 0, 1], (each) => each & MADE), [[1, 3], [4, 5]]);
  assert.deepEqual(["boxes", 3, "mask:target", "mask:2"].map(maskOfLane), [null, null, "target", 2]);
  assert.equal(maskOfLane(laneOfMask(0)), 0);
  assert.deepEqual(["target", 0].map(maskTitle), ["Target", "In front 1"]);
});

test("a press marks the thing, what is beside it, or takes a mark away", () => {
  const base = { layer: 0, mask: "target", frame: 4, reach: 6, size: SIZE, isNegative: false };
  const prompt = { clicks: [[0.5, 0.5, 1], [0.52, 0.5, 0]] };
  assert.deepEqual(clickGesture({ ...base, at: [50, 25] }), { kind: "add_click", layer: 0, mask: "target", frame: 4, at: [0.25, 0.25], foreground: true });
  assert.equal(clickGesture({ ...base, at: [50, 25], isNegative: true }).foreground, false);
  assert.deepEqual(clickGesture({ ...base, prompt, at: [103, 50] }), { kind: "remove_click", layer: 0, mask: "target", frame: 4, click: 1 });
  assert.equal(clickUnder(prompt.clicks, [120, 50], 6, SIZE), -1);
  assert.deepEqual(clickGesture({ ...base, at: [-5, 120] }).at, [0, 1]);
});

test("a box prompt stays in the picture and means something", () => {
  assert.deepEqual(promptBox([150, 80], [-20, 20], SIZE, 2), [0, 0.2, 0.75, 0.8]);
  assert.equal(promptBox([50, 50], [52, 80], SIZE, 2), null);
  assert.equal(promptBox([250, 150], [260, 190], SIZE, 2), null);
  assert.ok(nextBrush(24, 1) > 24 && nextBrush(24, -1) < 24);
  assert.deepEqual([nextBrush(300, 1), nextBrush(2, -1)], [300, 2]);
});

test("the frame that is looked at comes first, what is known is not asked for again", () => {
  const slot = { versions: [5, 0, 7, 8], flags: [MADE, 0, MADE, MADE | STALE], frames: new Map([[0, { version: 5 }], [2, { version: 6 }]]) };
  assert.deepEqual(wantedFrames(0, slot, 4, true), [2, 3]);
  assert.deepEqual(wantedFrames(0, slot, 4, false), [0, 2, 3]);
  assert.deepEqual(wantedFrames(1, slot, 4, true), [2, 3]);
  slot.flags[1] = PROMPTED;
  assert.deepEqual(wantedFrames(1, slot, 4, true), [1, 2, 3]);
  assert.deepEqual(wantedFrames(2, { versions: [], flags: null, frames: new Map() }, 4, false), [2]);
});

function scene() {
  const masks = { target: { prompts: { 4: { clicks: [[0.5, 0.5, 1]] } }, edits: [7], path: null, grow_px: 0, feather_px: 0 }, holdouts: [] };
  const layer = { name: "cup", kind: "replace", boxes: null, trajectories: [], reference: null, motion: null, masks };
  return { clip: { key: "k", digest: "d", num_frames: 10, width: 200, height: 100, fps: 24 }, range: [0, 10], layers: [layer] };
}

test("masks have lanes of their own in the model", () => {
  const model = new Model(() => {});
  model.takeScene(scene());
  assert.deepEqual(model.masksOf(0), ["target"]);
  assert.equal(model.maskName, "target");
  model.select({ lane: "mask:target" });
  assert.deepEqual(model.framesOf(0, "mask:target"), [4, 7]);
  assert.ok(model.hasKey(0, "mask:target", 4) && model.trajectory === null && model.showsMasks);
  model.select({ lane: "mask:0" });
  assert.equal(model.maskName, 0);
  model.select({ lane: "mask:1" });
  assert.equal(model.lane, "boxes", "there is only one next hold-out");
});

test("the store asks for what it lacks, takes answers in and tells how a track ended", async () => {
  const model = new Model(() => {});
  model.takeScene(scene());
  model.options.tool = "mask";
  const pack = (bytes) => Buffer.from(bytes).toString("base64");
  const versions = new Uint32Array(10);
  versions[4] = 9;
  const states = { versions: pack(versions.buffer), flags: pack([0, 0, 0, 0, MADE | PROMPTED, 0, 0, 0, 0, 0]) };
  const mask = { frame: 4, version: 9, size: [5, 3], counts: "4240O" };
  const sent = [];
  const said = [];
  const answers = [
    { segmenter: "s", slots: [{ digest: "a", states, masks: [] }], job: { number: 1, state: "running", made: 1, total: 3, note: "" }, fault: null },
    { segmenter: "s", slots: [{ digest: "a", states: null, masks: [mask] }], job: { number: 1, state: "ended", made: 3, total: 3, note: "Done so." }, fault: null },
  ];
  const store = new MaskStore(model, {
    say: (sentence) => said.push(sentence), changed: () => {},
    send: async (path, message) => { sent.push(message); return answers[Math.min(sent.length, answers.length) - 1]; },
  });
  store.reset("T");
  model.goTo(3);
  await store.poll();
  model.goTo(4);
  await store.poll();
  for (let turn = 0; turn < 20; turn += 1) await new Promise((done) => { setTimeout(done, 5); });
  assert.deepEqual(sent[0].slots[0].frames, [3]);
  assert.equal(sent[0].slots[0].have, null);
  assert.ok(sent[1].slots[0].frames.includes(4) && sent[1].slots[0].have === "a");
  assert.equal(store.slot(0, "target").frames.get(4).version, 9);
  assert.deepEqual(said, ["Done so."]);
  assert.equal(store.flags(0, "target")[4], MADE | PROMPTED);
  store.close();
});
