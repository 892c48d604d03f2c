import assert from "node:assert/strict";
import test from "node:test";
import { boxBetween, carry, cornersOf, dragBox, fromDocument, handleAt, HANDLES, heldBox, partAt, toDocument } from "../../../../editor/canvas/static/boxes.js";
import { chain, mapBetween, spotUnder, followMesh } from "../../../../editor/canvas/static/animatic.js";
import { fitView, holdOnStage, toPicture, toStage, zoomAt } from "../../../../editor/canvas/static/view.js";

const near = (a, b, tolerance = 1e-9) => assert.ok(Math.abs(a - b) <= tolerance, `${a} is not ${b}`);
const nearAll = (a, b, tolerance) => { assert.equal(a.length, b.length); a.forEach((value, index) => near(value, b[index], tolerance)); };
const BOX = { x0: 100, y0: 50, x1: 300, y1: 150, turn: 30 };

test("a fitted view shows the whole picture and maps there and back", () => {
  const view = fitView({ width: 800, height: 600 }, { width: 1280, height: 720 }, 10);
  nearAll(toPicture(view, toStage(view, [640, 360])), [640, 360]);
  const [x0, y0] = toStage(view, [0, 0]);
  const [x1, y1] = toStage(view, [1280, 720]);
  assert.ok(x0 >= 10 - 1e-9 && x1 <= 790 + 1e-9 && y0 >= 0 && y1 <= 600);
  near((x0 + x1) / 2, 400);
});

test("zooming keeps the place under the pointer and stays within its limits", () => {
  const view = fitView({ width: 800, height: 600 }, { width: 1280, height: 720 });
  const at = [200, 300];
  const closer = zoomAt(view, 3, at, view.scale);
  nearAll(toPicture(closer, at), toPicture(view, at));
  near(zoomAt(view, 1e9, at, view.scale).scale, 16 * view.scale);
  near(zoomAt(view, 1e-9, at, view.scale).scale, view.scale / 4);
  const lost = holdOnStage({ scale: 1, x: 1e6, y: -1e6 }, { width: 800, height: 600 }, { width: 100, height: 100 });
  assert.ok(lost.x < 800 && lost.y > -100);
});

test("convention: a positive turn is clockwise as seen", () => {
  nearAll(handleAt({ x0: -2, y0: -1, x1: 2, y1: 1, turn: 90 }, "e"), [0, 2]);
  nearAll(handleAt({ x0: -2, y0: -1, x1: 2, y1: 1, turn: 90 }, "n"), [1, 0]);
});

test("every part of a turned box is found where it is", () => {
  for (const name of HANDLES) assert.equal(partAt(BOX, handleAt(BOX, name), 5, 20), name);
  assert.equal(partAt(BOX, [200, 100], 5, 20), "move");
  assert.equal(partAt(BOX, [0, 0], 5, 20), null);
  assert.equal(partAt({ ...BOX, turn: 0 }, [200, 30], 5, 20), "rotate");
  assert.equal(partAt({ x0: 0, y0: 0, x1: 12, y1: 12, turn: 0 }, [6, 6], 11, 20), "move");
  assert.equal(partAt({ x0: 0, y0: 0, x1: 12, y1: 12, turn: 0 }, [14, 13], 11, 20), "se");
});

test("dragging a handle of a turned box moves that handle there and keeps the opposite one", () => {
  const opposite = { nw: "se", ne: "sw", se: "nw", sw: "ne", n: "s", s: "n", e: "w", w: "e" };
  for (const name of HANDLES) {
    const from = handleAt(BOX, name);
    const to = [from[0] + 7, from[1] - 4];
    const after = dragBox(BOX, name, from, to);
    nearAll(handleAt(after, opposite[name]), handleAt(BOX, opposite[name]), 1e-9);
    if (name.length === 2) nearAll(handleAt(after, name), to, 1e-9);
  }
});

test("locked, centred, smallest, snapped and straight drags", () => {
  const locked = dragBox(BOX, "se", handleAt(BOX, "se"), [500, 400], { isLocked: true });
  near((locked.x1 - locked.x0) / (locked.y1 - locked.y0), 2);
  const centred = dragBox({ ...BOX, turn: 0 }, "e", [300, 100], [310, 100], { isCentred: true });
  nearAll([centred.x0, centred.x1], [90, 310]);
  const small = dragBox({ ...BOX, turn: 0 }, "e", [300, 100], [-900, 100], { minimum: 4 });
  nearAll([small.x0, small.x1], [100, 104]);
  near(dragBox({ ...BOX, turn: 0 }, "rotate", [200, 0], [299, 108], { isSnapped: true }).turn % 15, 0);
  near(dragBox({ ...BOX, turn: 700 }, "rotate", [200, 0], [210, 0]).turn, 700 + Math.atan2(10, 100) * 180 / Math.PI);
  nearAll(cornersOf(dragBox({ ...BOX, turn: 0 }, "move", [0, 0], [9, 4], { isSnapped: true }))[0], [109, 50]);
});

test("boxes are held within one picture beyond each edge", () => {
  const held = heldBox({ x0: -5000, y0: 4000, x1: -4000, y1: 4500, turn: 0 }, { width: 1000, height: 500 });
  assert.deepEqual([held.x0, held.x1, held.y0, held.y1], [-1000, 0, 500, 1000]);
  const huge = heldBox({ x0: -9e9, y0: -9e9, x1: 9e9, y1: 9e9, turn: 9e9 }, { width: 1000, height: 500 });
  assert.deepEqual(huge, { x0: -1000, y0: -500, x1: 2000, y1: 1000, turn: 36000 });
});

test("a drawn box takes its corners in any order, a square one keeps its side", () => {
  assert.deepEqual(boxBetween([30, 40], [10, 20]), { x0: 10, y0: 20, x1: 30, y1: 40, turn: 0 });
  assert.deepEqual(boxBetween([0, 0], [-10, 4], true), { x0: -10, y0: 0, x1: 0, y1: 10, turn: 0 });
  const size = { width: 640, height: 360 };
  const back = fromDocument(toDocument(BOX, size), 30, size);
  for (const name of ["x0", "y0", "x1", "y1", "turn"]) near(back[name], BOX[name]);
});

const apply = ([a, b, c, d, e, f], [x, y]) => [a * x + c * y + e, b * x + d * y + f];

test("a carried object stays in its box: stretched to the corners, contained by size, standing at the bottom", () => {
  const after = { x0: 40, y0: 200, x1: 140, y1: 500, turn: -20 };
  const stretch = carry(BOX, after, { fit: "stretch", anchor: "center", aspect: 1 });
  for (const name of HANDLES) nearAll(apply(stretch, handleAt(BOX, name)), handleAt(after, name), 1e-9);
  const contain = carry(BOX, after, { fit: "contain", anchor: "center", aspect: 0.5 });
  near(Math.hypot(contain[0], contain[1]), 200 / 100);
  nearAll(apply(contain, [200, 100]), [90, 350], 1e-9);
  const standing = carry({ ...BOX, turn: 0 }, { x0: 0, y0: 0, x1: 50, y1: 80, turn: 0 }, { fit: "contain", anchor: "bottom", aspect: 0.5 });
  nearAll(apply(standing, [200, 150]), [25, 80], 1e-9);
});

test("affine maps chain, and three points fix one", () => {
  const map = mapBetween([[0, 0], [1, 0], [0, 1]], [[5, 5], [7, 5], [5, 8]]);
  nearAll(map, [2, 0, 0, 3, 5, 5]);
  nearAll(apply(chain(map, [0, 1, -1, 0, 0, 0]), [1, 0]), apply(map, [0, 1]));
  assert.equal(mapBetween([[0, 0], [1, 1], [2, 2]], [[0, 0], [1, 0], [0, 1]]), null);
});

test("a place on a mesh is followed there and back, and nothing is found beside it", () => {
  const uv = new Float32Array([0, 0, 1, 0, 0, 1, 1, 1]);
  const triangles = new Uint16Array([0, 1, 3, 0, 3, 2]);
  const vertices = new Float32Array([0.2, 0.2, 0.6, 0.3, 0.1, 0.7, 0.5, 0.9]);
  const place = followMesh(uv, triangles, vertices, [0.3, 0.6]);
  nearAll(spotUnder(uv, triangles, vertices, place), [0.3, 0.6], 1e-5);
  assert.equal(spotUnder(uv, triangles, vertices, [0.9, 0.1]), null);
});
