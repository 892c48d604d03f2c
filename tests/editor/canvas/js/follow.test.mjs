import assert from "node:assert/strict";
import test from "node:test";

import { choiceOf, followGesture, followNote, isOffered, pointGesture } from "../../../../editor/canvas/static/follow.js";

const size = { width: 200, height: 100 };

test("a tie to what is in the box is in parts of the picture", () => {
  const gesture = followGesture(1, "region", { frame: 7, box: { x0: 20, y0: -10, x1: 100, y1: 50 }, size });
  assert.deepEqual(gesture, { kind: "set_follow", layer: 1, surface: "similarity", frame: 7, region: [0.1, 0, 0.5, 0.5] });
  assert.equal(followGesture(1, "region", { frame: 7, box: null, size }), null);
});

test("a tie to the scene takes perspective, and can be let go", () => {
  assert.deepEqual(followGesture(0, "scene", { frame: 3, size }), { kind: "set_follow", layer: 0, surface: "homography", frame: 3 });
  assert.deepEqual(followGesture(0, "none", { frame: 3, size }), { kind: "set_follow", layer: 0, surface: null });
  assert.equal(choiceOf(null), "none");
  assert.equal(choiceOf({ region: null }), "scene");
  assert.equal(choiceOf({ region: [0, 0, 1, 1] }), "region");
});

test("a click on the surface adds a point, a click on a point takes it away", () => {
  const at = { frame: 3, at: [50, 25], reach: 6, size };
  const first = pointGesture(1, { kind: "homography", key_frame: 0, region: null }, at);
  assert.deepEqual(first, { kind: "set_follow", layer: 1, surface: "similarity", frame: 3, points: [[0.25, 0.25]] });
  const tie = { kind: "translation", key_frame: 3, points: [[0.25, 0.25], [0.5, 0.5]] };
  assert.deepEqual(pointGesture(1, tie, at), { kind: "set_follow", layer: 1, surface: "translation", frame: 3, points: [[0.5, 0.5]] });
  assert.deepEqual(pointGesture(1, { ...tie, points: [[0.25, 0.25]] }, at), { kind: "set_follow", layer: 1, surface: null });
  assert.equal(choiceOf(tie), "points");
  assert.equal(followNote({ ...tie, state: "ready", lost: [] }), "Tied to 2 points of frame 3.");
});

test("what is going on is said", () => {
  assert.equal(followNote({ state: "tracking" }), "Following: tracking…");
  assert.equal(followNote({ state: "ready", key_frame: 4, lost: [] }), "Tied to the scene of frame 4.");
  assert.equal(followNote({ state: "ready", key_frame: 4, lost: [[9, 10], [12, 20]] }), "Tied to the scene of frame 4; lost at 9, 12 to 19.");
  assert.match(followNote({ state: "ready", key_frame: 4, lost: [[9, 20]], cuts: [[9, true]] }), /cuts to another shot at frame 9; from there on this needs a layer/);
});

test("sticking is offered where the camera moves and the object has a place", () => {
  const clip = { camera_moves: true };
  const layer = { kind: "insert", follow: null, boxes: {}, trajectories: [] };
  assert.equal(isOffered(clip, layer), true);
  assert.equal(isOffered({ camera_moves: false }, layer), false);
  assert.equal(isOffered(clip, { ...layer, boxes: null }), false);
  assert.equal(isOffered(clip, { ...layer, follow: { kind: "similarity" } }), false);
  assert.equal(isOffered(clip, { ...layer, kind: "remove" }), false);
});
