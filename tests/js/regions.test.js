import assert from "node:assert/strict";
import { describe, test } from "node:test";

import { polygon } from "../../engine/annotation/web/js/shared/polygon.js";
import { holes, pieces, smoothed, withoutHoles, withoutSpecks } from "../../engine/annotation/web/js/shared/regions.js";
import { Mask, unionOf } from "../../engine/annotation/web/js/shared/rle.js";
import { maskWhere, randomOf, rowsOf, square } from "./bitmaps.js";

const drawn = (rows) => maskWhere(rows[0].length, rows.length, (x, y) => rows[y][x] === "#");

/** Connected pieces by flooding pixel after pixel; the number of each pixel's piece, -1 outside. */
function flooded(mask, isDiagonal) {
  const { width, height } = mask;
  const piece = new Int32Array(width * height).fill(-1);
  let count = 0;
  for (let start = 0; start < piece.length; start += 1) {
    if (piece[start] >= 0 || !mask.has(Math.floor(start / height), start % height)) continue;
    const open = [start];
    piece[start] = count;
    while (open.length) {
      const p = open.pop();
      const [px, py] = [Math.floor(p / height), p % height];
      for (let dx = -1; dx <= 1; dx += 1) {
        for (let dy = -1; dy <= 1; dy += 1) {
          const [x, y] = [px + dx, py + dy];
          if ((dx && dy && !isDiagonal) || !mask.has(x, y) || piece[x * height + y] >= 0) continue;
          piece[x * height + y] = count;
          open.push(x * height + y);
        }
      }
    }
    count += 1;
  }
  return { piece, count };
}

/** Whether a pixel's centre is inside a polygon, by the winding number. */
function winds(points, x, y) {
  let winding = 0;
  points.forEach(([ax, ay], i) => {
    const [bx, by] = points[(i + 1) % points.length];
    const side = (bx - ax) * (y - ay) - (x - ax) * (by - ay);
    if (ay <= y && by > y && side > 0) winding += 1;
    if (ay > y && by <= y && side < 0) winding -= 1;
  });
  return winding !== 0;
}

describe("with random masks", () => {
  const random = randomOf(7);
  for (const [width, height, share] of [[1, 9, 0.5], [9, 1, 0.5], [14, 11, 0.4], [30, 25, 0.55], [25, 30, 0.2]]) {
    const mask = maskWhere(width, height, () => random() < share);
    for (const isDiagonal of [true, false]) {
      test(`pieces are those of flooding at ${width} x ${height}, ${isDiagonal ? "with" : "without"} corners`, () => {
        const found = pieces(mask, isDiagonal);
        const { piece, count } = flooded(mask, isDiagonal);
        assert.equal(found.length, count);
        for (const one of found) {
          const number = piece[one.edges[0]];
          assert.deepEqual(rowsOf(one), rowsOf(maskWhere(width, height, (x, y) => piece[x * height + y] === number)));
        }
        const areas = found.map(({ area }) => area);
        assert.deepEqual(areas, [...areas].sort((a, b) => b - a));
        if (found.length) assert.equal(unionOf(found).counts, mask.counts);
      });
    }
  }

  for (let round = 0; round < 8; round += 1) {
    const points = Array.from({ length: 3 + round * 2 }, () => [random() * 50 - 10, random() * 40 - 8]);
    test(`a polygon of ${points.length} corners, some outside, has the pixels that it winds around`, () => {
      const found = polygon(30, 24, points);
      assert.deepEqual(rowsOf(found), rowsOf(maskWhere(30, 24, (x, y) => winds(points, x + 0.5, y + 0.5))));
      assert.equal(Mask.fromRle(found.toRle()).counts, found.counts);
    });
  }
});

test("a polygon along pixel sides has exactly these pixels, whichever way it is drawn", () => {
  const corners = [[2, 1], [7, 1], [7, 5], [2, 5]];
  const expected = rowsOf(square(9, 6, 2, 1, 7, 5));
  assert.deepEqual(rowsOf(polygon(9, 6, corners)), expected);
  assert.deepEqual(rowsOf(polygon(9, 6, corners.reverse())), expected);
  assert.equal(polygon(9, 6, [[1, 1], [5, 5]]).isEmpty, true);
  assert.equal(polygon(9, 6, [[-9, -9], [90, -9], [90, 90], [-9, 90]]).area, 54);
});

test("holes are filled, but not what is open to the image's border or a corner's gap to it", () => {
  const mask = drawn([
    "##########",
    "#..##...##",
    "#..##.#.##",
    "######...#",
    "..####.###",
    "..####.###",
  ]);
  const filled = [
    "##########",
    "#####...##",
    "#####.#.##",
    "######...#",
    "..####.###",
    "..####.###",
  ];
  assert.equal(holes(mask).length, 1);
  assert.deepEqual(rowsOf(withoutHoles(mask)), filled);
  assert.equal(withoutHoles(Mask.empty(4, 4)).isEmpty, true);
});

test("specks below the size go, the largest piece stays whatever its size", () => {
  const mask = drawn(["##..#...", "##....##", ".......#", "#......."]);
  assert.deepEqual(rowsOf(withoutSpecks(mask, 2)), ["##......", "##....##", ".......#", "........"]);
  assert.deepEqual(rowsOf(withoutSpecks(mask, 4)), ["##......", "##......", "........", "........"]);
  assert.deepEqual(rowsOf(withoutSpecks(mask, 1000)), rowsOf(withoutSpecks(mask, 4)));
  assert.equal(withoutSpecks(mask, 1), mask);
});

test("smoothing takes away bumps and thin parts, fills nicks, and keeps straight sides, also at the border", () => {
  const plain = square(60, 50, 0, 10, 40, 40);
  const rough = maskWhere(60, 50, (x, y) => {
    if (y === 25 && x >= 40 && x < 55) return true; // a hair
    if (x === 20 && y >= 8 && y < 10) return true; // a bump
    return plain.has(x, y) && !(x === 30 && y >= 10 && y < 12); // a nick
  });
  const smooth = smoothed(rough, 3);
  for (const y of [8, 9, 25]) assert.equal(smooth.has(y === 25 ? 46 : 20, y), false);
  for (const y of [10, 11]) assert.equal(smooth.has(30, y), true);
  for (const x of [0, 1, 10, 25]) assert.deepEqual([9, 10, 39, 40].map((y) => smooth.has(x, y)), [false, true, true, false]);
  assert.equal(smooth.minus(smoothed(plain, 3)).area + smoothed(plain, 3).minus(smooth).area < 8, true);
  assert.equal(smoothed(square(60, 50, 0, 0, 60, 50), 5).area, 3000);
  assert.equal(smoothed(Mask.empty(5, 5), 2).isEmpty, true);
  assert.equal(Mask.fromRle(smooth.toRle()).counts, smooth.counts);
});
