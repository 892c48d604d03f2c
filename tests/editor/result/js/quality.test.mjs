// The quality strip's pure parts.

import assert from "node:assert/strict";
import { test } from "node:test";

import { curveOf, findDips, firstMeasure, MEASURES, placeAt, sayValue, spanOf } from "../../../../editor/result/static/quality.js";

const [IDENTITY, BOX, FLICKER, LEAK] = MEASURES;

test("a stretch of bad frames is one dip, the worst first", () => {
  const values = [0.95, 0.94, 0.7, 0.5, 0.72, 0.95, null, 0.94, 0.8, 0.95];
  assert.deepEqual(findDips(values, IDENTITY), [{ first: 2, last: 4, worst: 3 }, { first: 8, last: 8, worst: 8 }]);
  assert.deepEqual(findDips([0.95, 0.93, 0.92, 0.94], IDENTITY), [], "what is usual is no dip");
  assert.deepEqual(findDips([null, null], IDENTITY), []);
});

test("a bad half stands out from a good one", () => {
  const values = [0.9, 0.9, 0.9, 0.9, 0.2, 0.2, 0.2, 0.2, 0.2, 0.2];
  assert.deepEqual(findDips(values, IDENTITY), [{ first: 4, last: 9, worst: 4 }]);
});

test("flicker and leaks are bad when they are high", () => {
  assert.deepEqual(findDips([null, 1, 1.2, 9, 1, 1], FLICKER), [{ first: 3, last: 3, worst: 3 }]);
  assert.deepEqual(findDips([0, 0, 0], LEAK), []);
});

test("the curve lies lower where it is worse and breaks where nothing is known", () => {
  assert.equal(curveOf([1, 0.5], IDENTITY), "M0 0.000L0.5 0.000L1.5 0.500L2 0.500");
  assert.equal(curveOf([null, 8, null], FLICKER), "M1 0.500L1.5 0.500L2 0.500");
  assert.equal(curveOf([0, 32], FLICKER), "M0 0.000L0.5 0.000L1.5 1.000L2 1.000", "the height grows with what is shown");
});

test("a click means the dip beside it, else the frame under it", () => {
  const dips = [{ first: 40, last: 44, worst: 42 }];
  assert.equal(placeAt(0.43, 100, dips), 42);
  assert.equal(placeAt(0.46, 100, dips), 46);
  assert.equal(placeAt(1.2, 100, dips), 99);
  assert.equal(placeAt(-1, 100, []), 0);
});

test("a dip is rendered anew with two frames on either side, within the take", () => {
  const frames = [10, 11, 12, 13, 14, 15, 16, 17];
  assert.deepEqual(spanOf({ first: 3, last: 4 }, frames, [10, 18]), [11, 17]);
  assert.deepEqual(spanOf({ first: 0, last: 7 }, frames, [10, 18]), [10, 18]);
});

test("values are said with their frame", () => {
  assert.equal(sayValue(12, 0.618, IDENTITY), "Frame 12: identity 0.62");
  assert.equal(sayValue(0, null, FLICKER), "Frame 0: flicker not known");
});

test("the strip begins with what has a dip", () => {
  const calm = { identity: [1, 1], box_adherence: [1, 1], flicker: [null, 1], background_leak: [0, 0] };
  assert.equal(firstMeasure(calm), IDENTITY);
  assert.equal(firstMeasure({ ...calm, box_adherence: [1, 0.4] }), BOX);
});
