import assert from "node:assert/strict";
import { test } from "node:test";

import { brightness, strongestEdge } from "../../engine/annotation/web/js/editor/snapping.js";

const SIDE = 21;
const square = (valueAt) => Float32Array.from({ length: SIDE * SIDE }, (_, i) => valueAt(i % SIDE, Math.floor(i / SIDE)));
const noise = (x, y) => ((x * 7919 + y * 104729) % 13) - 6;

test("a place snaps to the border between two areas, exactly, and stays along it", () => {
  for (const border of [6, 9, 14]) {
    const [x, y] = strongestEdge(square((left) => (left < border ? 60 : 190)), SIDE);
    assert.equal(x, border);
    assert.equal(y, 10.5);
    assert.deepEqual(strongestEdge(square((_, top) => (top < border ? 60 : 190)), SIDE), [10.5, border]);
  }
});

test("of two edges the stronger one is taken, of equal ones the nearer", () => {
  const [stronger] = strongestEdge(square((x) => (x < 7 ? 40 : x < 13 ? 70 : 200)), SIDE);
  assert.equal(stronger, 13);
  const [nearer] = strongestEdge(square((x) => (x < 4 ? 40 : x < 12 ? 120 : 200)), SIDE);
  assert.equal(nearer, 12);
});

test("flat areas, slopes and noise have no edge", () => {
  assert.equal(strongestEdge(square(() => 80), SIDE), null);
  assert.equal(strongestEdge(square((x) => 5 * x), SIDE), null);
  assert.equal(strongestEdge(square(noise), SIDE), null);
  const [x] = strongestEdge(square((left, y) => (left < 8 ? 60 : 130) + noise(left, y)), SIDE);
  assert.ok(Math.abs(x - 8) < 1);
});

test("beyond the picture its border repeats, and is no edge", () => {
  const data = square((x, y) => (x < 6 || y < 3 ? 0 : 200)).reduce((all, value) => (all.push(value, value, value, 255), all), []);
  const seen = brightness(data, SIDE, [6, 3, SIDE, SIDE]);
  assert.ok(seen.every((value) => Math.abs(value - 200) < 0.01));
  assert.equal(strongestEdge(seen, SIDE), null);
});
