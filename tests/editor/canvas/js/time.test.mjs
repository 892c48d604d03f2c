import assert from "node:assert/strict";
import test from "node:test";
import { FrameCache, ThumbCache } from "../../../../editor/canvas/static/frames.js";
import { Link } from "../../../../editor/canvas/static/link.js";
import { MeshStore, RUN } from "../../../../editor/canvas/static/meshes.js";
import { falloff, frameOnPath, heldPoint, movedKeys, nearestIndex, nextKey, Stroke } from "../../../../editor/canvas/static/paths.js";
import { playedFrame, Player } from "../../../../editor/canvas/static/player.js";
import { actionFor } from "../../../../editor/canvas/static/shortcuts.js";
import { clock, frameToX, makeScale, tickStep, xToFrame } from "../../../../editor/canvas/static/timescale.js";

const settle = () => new Promise((done) => setTimeout(done, 5));

test("every frame has its own place on the timeline, and the place its frame", () => {
  const scale = makeScale(500, 97);
  for (let frame = 0; frame < 97; frame += 1) assert.equal(xToFrame(scale, frameToX(scale, frame)), frame);
  assert.equal(xToFrame(scale, -100), 0);
  assert.equal(xToFrame(scale, 9999), 96);
  assert.equal(frameToX(makeScale(500, 1), 0), 14);
  assert.ok(tickStep(scale) * (frameToX(scale, 1) - frameToX(scale, 0)) >= 56);
  assert.equal(clock(1500, 24), "1:02.50");
});

test("playing loops over the range or ends with it", () => {
  assert.equal(playedFrame(10, 5, [4, 20], true), 15);
  assert.equal(playedFrame(10, 10, [4, 20], true), 4);
  assert.equal(playedFrame(10, 27, [4, 20], true), 5);
  assert.equal(playedFrame(10, 10, [4, 20], false), null);
});

test("neighbours follow a dragged node less the farther away they are", () => {
  assert.equal(falloff(0, 0), 1);
  assert.equal(falloff(12, 12), 0);
  assert.ok(Math.abs(falloff(6, 12) - 0.5) < 1e-12);
  const moved = movedKeys({ 0: [0, 0], 6: [0.5, 0.5], 30: [1, 1] }, 6, [0.7, 0.5], 12);
  assert.deepEqual(moved[30], [1, 1]);
  assert.ok(Math.abs(moved[0][0] - 0.1) < 1e-9 && Math.abs(moved[6][0] - 0.7) < 1e-9);
});

test("keys before and after, nearest points, places on a path", () => {
  const keys = { 0: 1, 10: 1, 9: 1 };
  assert.equal(nextKey(keys, 9, 1), 10);
  assert.equal(nextKey(keys, 9, -1), 0);
  assert.equal(nextKey(keys, 10, 1), null);
  assert.equal(nearestIndex([[0, 0], [5, 5]], [4, 4], 3), 1);
  assert.equal(nearestIndex([[0, 0]], [4, 4], 3), -1);
  assert.equal(frameOnPath([[0, 0], [10, 0], [10, 10]], [10, 7], 2), 2);
  assert.equal(frameOnPath([[0, 0], [10, 0]], [5, 9], 2), null);
  assert.deepEqual(heldPoint([-7, 9]), [-1, 2]);
});

test("a stroke keeps order, drops doubles and is bounded", () => {
  const stroke = new Stroke([0, 0], 1000);
  stroke.add([0, 0], 1010);
  stroke.add([0.3, 0.4], 1500);
  stroke.add([0.6, 0.8], 1400);
  assert.deepEqual(stroke.times_s, [0, 0.5, 0.5]);
  assert.ok(Math.abs(stroke.length - 1) < 1e-9);
  for (let index = 0; index < 30000; index += 1) stroke.add([index / 30000, 0], 2000 + index);
  assert.ok(stroke.points.length <= 20000);
});

function makeCache(options = {}) {
  const asked = [];
  const closed = [];
  const fetchBitmap = async (url, signal) => {
    asked.push(url);
    await settle();
    if (signal.aborted) throw new Error("aborted");
    return { width: 100, height: 100, url, close: () => closed.push(url) };
  };
  const cache = new FrameCache({ numFrames: 100, urlOf: (frame) => frame, onFrame: () => {}, fetchBitmap, ...options });
  return { cache, asked, closed };
}

test("the frame that is looked at is loaded first, then those that come next", async () => {
  const { cache, asked } = makeCache({ ahead: 8 });
  cache.look(50);
  assert.equal(asked[0], 50);
  for (let round = 0; round < 12; round += 1) await settle();
  for (let frame = 50; frame <= 58; frame += 1) assert.ok(cache.find(frame), `frame ${frame} was not read ahead`);
  assert.ok(asked.length <= 12);
  cache.look(49);
  assert.equal(cache.direction, -1);
  for (let round = 0; round < 8; round += 1) await settle();
  assert.ok(cache.find(49) && cache.find(43));
});

test("bitmaps are bounded and closed, the one in sight is kept", async () => {
  const { cache, closed } = makeCache({ ahead: 20, maxBytes: 6 * 40000 });
  cache.look(10);
  for (let round = 0; round < 20; round += 1) await settle();
  assert.ok(cache.bytes <= 6 * 40000 && cache.bitmaps.size <= 6 && closed.length > 0);
  assert.ok(cache.find(10));
  cache.close();
  assert.equal(cache.bitmaps.size, 0);
});

test("a frame that fails is tried three times, not for ever", async () => {
  let tries = 0;
  const gone = [];
  const cache = new FrameCache({ numFrames: 1, urlOf: String, onFrame: () => {}, onGone: (frame) => gone.push(frame), fetchBitmap: async () => { tries += 1; throw new Error("no"); } });
  cache.look(0);
  for (let round = 0; round < 10; round += 1) await settle();
  assert.equal(tries, 3);
  assert.deepEqual(gone, [0]);
});

test("thumbnails come one after the other and fail once", async () => {
  const seen = [];
  const thumbs = new ThumbCache({ urlOf: Number, onFrame: (frame) => seen.push(frame), fetchBitmap: async (url) => { if (url === 2) throw new Error("no"); return { close() {} }; } });
  for (const frame of [1, 2, 3]) thumbs.request(frame);
  await settle();
  thumbs.request(2);
  await settle();
  assert.deepEqual(seen.sort(), [1, 3]);
});

test("messages go one at a time, in order; only the last dry one waits", async () => {
  const sent = [];
  const link = new Link({ url: "", onAnswer: (answer, note) => sent.push(note), onTrouble: () => {}, send: async (_, message) => { await settle(); return { revision: message.gestures ?? "r" }; } });
  link.open("token");
  for (const name of ["a", "b"]) link.ask({ gestures: [name] }, name);
  for (const name of ["x", "y", "z"]) link.ask({ gestures: [name], dry: true }, name);
  for (let round = 0; round < 10; round += 1) await settle();
  assert.deepEqual(sent, [null, "a", "b", "z"]);
});

test("an answer for a visitor who has left is dropped, trouble is told once", async () => {
  const heard = [];
  let fails = false;
  const link = new Link({ url: "", onAnswer: (answer, note) => heard.push(note), onTrouble: () => heard.push("trouble"), send: async () => { await settle(); if (fails) throw new Error("gone"); return {}; } });
  link.open("one");
  link.open("two");
  for (let round = 0; round < 4; round += 1) await settle();
  assert.equal(heard.length, 1);
  fails = true;
  link.ask({}, "lost");
  await settle(); await settle();
  assert.deepEqual(heard.slice(1), ["trouble"]);
});

const packed = (count) => Buffer.from(new Float32Array(count * 4).fill(0.5).buffer).toString("base64");

test("meshes belong to one motion and are asked for once", () => {
  const asked = [];
  const store = new MeshStore((wishes) => asked.push(...wishes));
  store.expect(0, "m1");
  store.want(0, 0, 60);
  store.want(0, 3, 60);
  assert.deepEqual(asked, [{ layer: 0, start: 0, stop: RUN }, { layer: 0, start: RUN, stop: 60 }]);
  const exists = Buffer.from(new Uint8Array(RUN).fill(1)).toString("base64");
  store.keep({ layer: 0, digest: "m1", start: 0, stop: RUN, vertices: packed(RUN), exists });
  assert.equal(store.find(0, 5).vertices.length, 4);
  assert.ok(store.find(0, 5).exists && store.isComplete(0, 0, RUN));
  store.keep({ layer: 0, digest: "old", start: RUN, stop: 60, vertices: packed(60 - RUN), exists });
  assert.equal(store.find(0, 50), null);
  store.expect(0, "m2");
  assert.equal(store.find(0, 5), null);
});

test("keys of the keyboard mean what the help sheet says", () => {
  const key = (name, held = {}) => actionFor({ key: name, ...held });
  assert.equal(key("k"), "key");
  assert.equal(key("Z", { ctrlKey: true, shiftKey: true }), "redo");
  assert.equal(key("z", { metaKey: true }), "undo");
  assert.deepEqual(key("ArrowLeft", { shiftKey: true }), ["step", -10]);
  assert.deepEqual(key("ArrowUp"), ["nudge", 0, -1]);
  assert.deepEqual(key("ArrowRight", { altKey: true, shiftKey: true }), ["nudge", 10, 0]);
  assert.equal(key("a", { ctrlKey: true }), null);
  assert.equal(key("F5"), null);
});

test("at the end of a loop the first frame is fetched, which may never have been near", () => {
  const [ticks, wanted, loaded] = [[], [], new Set([7, 8, 9])];
  globalThis.requestAnimationFrame = (tick) => ticks.push(tick);
  const model = { clip: { fps: 10 }, range: [0, 10], frame: 7, options: { speed: 1, isLooping: true }, goTo: (frame) => { model.frame = frame; } };
  const player = new Player(model, { isReady: (frame) => loaded.has(frame), want: (frame) => wanted.push(frame), onEnd: () => {} });
  player.play();
  for (let now = 0; now < 600; now += 50) ticks.shift()(now);
  assert.equal(model.frame, 9);
  assert.deepEqual([...new Set(wanted)], [0]);
  loaded.add(0);
  for (let now = 600; now < 800; now += 50) ticks.shift()(now);
  assert.equal(model.frame, 0);
  delete globalThis.requestAnimationFrame;
});
