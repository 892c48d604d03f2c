import assert from "node:assert/strict";
import test from "node:test";
import { clickGesture, describeWay, documentSpot, firstImage, strokeGesture, thinned, MAX_STROKE_POINTS } from "../../../../editor/canvas/static/cutout.js";
import { linesBetween, PRESETS, readableName } from "../../../../editor/canvas/static/presets.js";
import { actionFor } from "../../../../editor/canvas/static/shortcuts.js";

const VIEW = { scale: 0.5, x: 10, y: 20 };
const SIZE = { width: 400, height: 200 };

test("a stroke keeps its ends, loses what lies near, and never has more points than the server takes", () => {
  const line = Array.from({ length: 101 }, (_, index) => [index, 0]);
  const kept = thinned(line, 10);
  assert.deepEqual([kept[0], kept[kept.length - 1], kept.length], [[0, 0], [100, 0], 11]);
  assert.deepEqual(thinned([[3, 4]], 10), [[3, 4]]);
  const long = thinned(Array.from({ length: 9000 }, (_, index) => [3 * index, 0]), 1);
  assert.equal(long.length, MAX_STROKE_POINTS);
  assert.deepEqual([long[0], long[long.length - 1]], [[0, 0], [3 * 8999, 0]]);
});

test("a stroke on the view becomes a stroke on the picture, its brush in pictures", () => {
  const made = strokeGesture({ layer: 1, reference: 2, places: [[10, 20], [210, 120]], brush: 20, erase: true, view: VIEW, size: SIZE });
  assert.deepEqual(made, { kind: "brush_reference", layer: 1, reference: 2, points: [[0, 0], [1, 1]], radius: 0.05, erase: true });
  const far = strokeGesture({ layer: 0, reference: 0, places: [[-9999, 9999]], brush: 1e6, erase: false, view: VIEW, size: SIZE });
  assert.deepEqual([far.points, far.radius], [[[-0.5, 1.5]], 0.5]);
});

test("a click says what belongs, and on a dot that is there takes it back", () => {
  const base = { layer: 0, reference: 0, view: VIEW, size: SIZE, foreground: false };
  assert.deepEqual(clickGesture({ ...base, clicks: [], at: [110, 70] }), { kind: "click_reference", layer: 0, reference: 0, at: [0.5, 0.5], foreground: false });
  const clicks = [[0.1, 0.1, 1], [0.5, 0.5, 0]];
  assert.deepEqual(clickGesture({ ...base, clicks, at: [113, 74] }), { kind: "remove_reference_click", layer: 0, reference: 0, click: 1 });
  assert.equal(clickGesture({ ...base, clicks, at: [130, 70] }).kind, "click_reference");
  assert.deepEqual(documentSpot(VIEW, SIZE, [-500, 5000]), [0, 1]);
});

test("the first image among files is taken, whatever lies beside it", () => {
  const image = { type: "image/png", name: "b" };
  assert.equal(firstImage([{ type: "text/plain" }, image]), image);
  assert.equal(firstImage([{ type: "" }]), null);
  assert.equal(firstImage(undefined), null);
});

test("the panel says how a picture was cut out, or what is wrong with it", () => {
  assert.equal(describeWay({ fault: null, note: "found the object before its background", way: "auto" }, true), "Found the object before its background.");
  assert.equal(describeWay({ fault: "No.", note: "", way: "auto" }, true), "No.");
  assert.match(describeWay({ fault: null, note: "cut out by hand", way: "clicked" }, false), /^Corrected by clicks\. The compositor shows the first/);
  assert.match(describeWay({ fault: null, note: "the whole picture is the object", way: "painted" }, true), /^The whole picture/);
});

test("lines join only points that are there, and names can be read", () => {
  assert.deepEqual(linesBetween({ left_jaw: 1, chin: 1, p1: 1 }), [["left_jaw", "chin"]]);
  assert.equal(linesBetween({}).length, 0);
  assert.equal(readableName("left_eye_outer"), "left eye, outer");
  assert.equal(readableName("p1"), "p1");
  assert.deepEqual(PRESETS.map(([value]) => value), ["face", "garment"]);
});

test("Ctrl+V is left to the browser, so that it can bring a picture", () => {
  assert.equal(actionFor({ key: "v", ctrlKey: true }), null);
  assert.equal(actionFor({ key: "c", ctrlKey: true }), "copyKey");
});
