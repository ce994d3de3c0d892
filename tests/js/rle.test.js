import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { describe, test } from "node:test";

import { Mask, capsule, difference, forEachPiece } from "../../engine/annotation/web/js/shared/rle.js";
import { maskWhere, randomOf, rowsOf } from "./bitmaps.js";

// pycocotools wrote the counts
const CASES = JSON.parse(readFileSync(new URL("rle_cases.json", import.meta.url), "utf8"));

for (const { name, rle, rows } of CASES) {
  test(`pycocotools' counts of ${name} are read and written character for character`, () => {
    const mask = Mask.fromRle(rle);
    assert.deepEqual(rowsOf(mask), rows);
    assert.deepEqual(maskWhere(mask.width, mask.height, (x, y) => rows[y][x] === "#").toRle(), rle);
    assert.equal(mask.area, rows.join("").split("#").length - 1);
  });
}

test("counts that do not fill the image, or are none, are refused", () => {
  const [{ rle }] = CASES;
  assert.throws(() => Mask.fromRle({ size: [3, 5], counts: rle.counts }), RangeError);
  assert.throws(() => Mask.fromRle({ size: [3, 4], counts: "a\u00e4" }), RangeError);
  assert.throws(() => Mask.fromRle({ size: [2, 2], counts: "5O" }), RangeError);
});

test("runs of length zero join their neighbours", () => {
  const split = Mask.fromRle({ size: [4, 1], counts: "2100" }); // 2 off, 1 on, 0 off, 1 on
  assert.deepEqual(rowsOf(split), [".", ".", "#", "#"]);
  assert.equal(split.counts, "22");
});

describe("with random masks", () => {
  const random = randomOf(1);
  for (const [width, height, share] of [[1, 1, 0.5], [1, 17, 0.4], [23, 1, 0.4], [13, 11, 0.5], [40, 30, 0.1], [30, 40, 0.9]]) {
    const [a, b] = [0, 1].map(() => maskWhere(width, height, () => random() < share));
    const where = (isSet) => rowsOf(maskWhere(width, height, isSet));

    test(`union, minus and difference are those of the pixels at ${width} x ${height}`, () => {
      assert.deepEqual(rowsOf(a.union(b)), where((x, y) => a.has(x, y) || b.has(x, y)));
      assert.deepEqual(rowsOf(a.minus(b)), where((x, y) => a.has(x, y) && !b.has(x, y)));
      const either = new Mask(width, height, difference(a.edges, b.edges));
      assert.deepEqual(rowsOf(either), where((x, y) => a.has(x, y) !== b.has(x, y)));
    });

    test(`the box is the least that holds all pixels at ${width} x ${height}`, () => {
      const set = [];
      forEachPiece(a.edges, height, (x, y0, y1) => {
        for (let y = y0; y < y1; y += 1) set.push([x, y]);
      });
      assert.equal(set.length, a.area);
      const [xs, ys] = [set.map(([x]) => x), set.map(([, y]) => y)];
      const box = set.length ? [Math.min(...xs), Math.min(...ys), Math.max(...xs) + 1, Math.max(...ys) + 1] : [0, 0, 0, 0];
      assert.deepEqual(a.box, box);
    });

    test(`a mask comes back from its counts at ${width} x ${height}`, () => {
      assert.deepEqual([...Mask.fromRle(a.toRle()).edges], [...a.edges]);
    });
  }
});

test("the box of a run that goes on in the next column is as high as the image", () => {
  assert.deepEqual(maskWhere(5, 4, (x, y) => (x === 2 && y === 3) || (x === 3 && y < 2)).box, [2, 0, 4, 4]);
});

test("the rim of a block is its border, and a thick rim all of it", () => {
  const block = maskWhere(12, 12, (x, y) => x >= 3 && x < 9 && y >= 3 && y < 9);
  assert.deepEqual(
    rowsOf(block.rim()),
    rowsOf(maskWhere(12, 12, (x, y) => block.has(x, y) && !(x > 3 && x < 8 && y > 3 && y < 8))),
  );
  assert.deepEqual(rowsOf(block.rim(3)), rowsOf(block));
});

test("a brush covers the pixels whose centre is within its radius of the way", () => {
  const random = randomOf(2);
  const [width, height] = [40, 30];
  for (let round = 0; round < 60; round += 1) {
    const [x0, y0, x1, y1] = [0, 1, 2, 3].map((i) => random() * 1.4 * [width, height][i % 2] - 6);
    const radius = 0.4 + random() * 8;
    const isNear = (x, y) => {
      const [dx, dy] = [x1 - x0, y1 - y0];
      const share = Math.min(1, Math.max(0, ((x + 0.5 - x0) * dx + (y + 0.5 - y0) * dy) / (dx * dx + dy * dy)));
      return Math.hypot(x + 0.5 - x0 - share * dx, y + 0.5 - y0 - share * dy) <= radius;
    };
    assert.deepEqual(rowsOf(capsule(width, height, x0, y0, x1, y1, radius)), rowsOf(maskWhere(width, height, isNear)));
  }
  assert.deepEqual(rowsOf(capsule(3, 3, 1.5, 1.5, 1.5, 1.5, 1)), [".#.", "###", ".#."]);
});
