import assert from "node:assert/strict";
import { test } from "node:test";

import { LabelMap } from "../../engine/annotation/web/js/editor/label_map.js";
import { unionOf } from "../../engine/annotation/web/js/shared/rle.js";
import { rowsOf, square } from "./bitmaps.js";

/** The server's bytes for rows of labels. */
function bytes(rows) {
  const data = new DataView(new ArrayBuffer(8 + 2 * rows.length * rows[0].length));
  data.setUint32(0, rows[0].length, true);
  data.setUint32(4, rows.length, true);
  rows.flat().forEach((label, i) => data.setUint16(8 + 2 * i, label, true));
  return data.buffer;
}

test("at full resolution a region is its pixels, in the part's place", () => {
  const map = new LabelMap(bytes([[7, 7, 300], [7, 9, 300]]), [4, 2, 7, 4], [10, 6]);
  assert.deepEqual([map.at([4, 2]), map.at([6.9, 3.9]), map.at([5.5, 3.5]), map.at([3.9, 2]), map.at([7, 2])], [7, 300, 9, null, null]);
  assert.deepEqual(rowsOf(map.maskOf(new Set([300]))), rowsOf(square(10, 6, 6, 2, 7, 4)));
  assert.deepEqual(rowsOf(map.maskOf(new Set([7, 9]))), rowsOf(square(10, 6, 4, 2, 6, 4)));
  assert.equal(map.maskOf(new Set()).isEmpty, true);
  assert.deepEqual([...map.borders], [0, 1, 0, 1, 1, 0]);
});

test("of a reduced part every pixel is in the one region that it is in on the screen", () => {
  const labels = Array.from({ length: 5 }, (_, row) => Array.from({ length: 7 }, (_, column) => row * 7 + column));
  const map = new LabelMap(bytes(labels), [3, 1, 20, 14], [22, 15]);
  const masks = labels.flat().map((label) => map.maskOf(new Set([label])));
  assert.deepEqual(rowsOf(unionOf(masks)), rowsOf(square(22, 15, 3, 1, 20, 14)));
  assert.equal(masks.reduce((sum, { area }) => sum + area, 0), 17 * 13);
  for (let x = 3; x < 20; x += 1) for (let y = 1; y < 14; y += 1) assert.equal(masks[map.at([x + 0.5, y + 0.5])].has(x, y), true);
});

test("bytes that were cut off are refused", () => {
  assert.throws(() => new LabelMap(bytes([[1, 2]]).slice(0, 10), [0, 0, 2, 1], [2, 1]), /incomplete/);
});
