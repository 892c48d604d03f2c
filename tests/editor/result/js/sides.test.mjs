// The viewer's pure parts.

import assert from "node:assert/strict";
import { test } from "node:test";

import { actionOf, clampFrame, clockText, fitted, flipped, numberOn, SMALL, wipeBeside } from "../../../../editor/result/static/sides.js";

test("a picture stands in the middle, as large as fits", () => {
  assert.deepEqual(fitted(200, 100, 400, 400), { x: 0, y: 100, width: 400, height: 200 });
  assert.deepEqual(fitted(100, 200, 400, 400), { x: 100, y: 0, width: 200, height: 400 });
});

test("both sides mean the same frame of the clip", () => {
  const source = { first: 0, count: 48 };
  const take = { first: 10, count: 20 };
  assert.equal(numberOn(source, 12), 12);
  assert.equal(numberOn(take, 12), 2);
  assert.equal(numberOn(take, 9), null);
  assert.equal(numberOn(take, 30), null);
  assert.equal(numberOn(take, 29), 19);
});

test("flipping goes from one side to the other, from the wipe to the result", () => {
  assert.equal(flipped("wipe"), "after");
  assert.equal(flipped("after"), "before");
  assert.equal(flipped("before"), "after");
});

test("the wipe line stands beside what differs", () => {
  const plain = new Uint8ClampedArray(4 * SMALL.width * SMALL.height).fill(90);
  const noisy = plain.map((value, index) => value + (index % 3));
  assert.equal(wipeBeside(plain, noisy), 0.5);
  const changed = (column) => {
    const made = Uint8ClampedArray.from(noisy);
    for (const [at, row] of [[column, 7], [column, 8], [column + 9, 20], [column + 9, 21], [1, 30]]) made[4 * (row * SMALL.width + at) + 1] = 255;
    return made;
  };
  assert.equal(wipeBeside(plain, changed(32)), 0.47);
  assert.equal(wipeBeside(changed(32), plain), 0.47);
  assert.equal(wipeBeside(plain, changed(0)), 0.02);
});

test("frames stay in the range", () => {
  assert.equal(clampFrame(3, [10, 20]), 10);
  assert.equal(clampFrame(20, [10, 20]), 19);
  assert.equal(clampFrame(12.4, [10, 20]), 12);
});

test("keys step, jump, play and flip; the browser's own are left alone", () => {
  const key = (name, more = {}) => actionOf({ key: name, ...more });
  assert.deepEqual(key("ArrowRight"), { step: 1 });
  assert.deepEqual(key("ArrowLeft", { shiftKey: true }), { step: -10 });
  assert.deepEqual(key("x"), { toggle: "flip" });
  assert.deepEqual(key(" "), { toggle: "play" });
  assert.deepEqual(key("End"), { edge: "last" });
  assert.equal(key("x", { ctrlKey: true }), null);
  assert.equal(key("q"), null);
});

test("times are short", () => {
  assert.match(clockText(1700000000, "en-GB"), /1[45] Nov, \d\d:\d\d/);
});
