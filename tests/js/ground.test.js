import assert from "node:assert/strict";
import { test } from "node:test";

import { moveBetween, strips } from "../../engine/annotation/web/js/editor/ground.js";

test("what was seen and the strips that come into sight cover the canvas once", () => {
  const [width, height] = [7, 5];
  for (let dx = -6; dx <= 6; dx += 1) {
    for (let dy = -4; dy <= 4; dy += 1) {
      const times = Array.from({ length: height }, () => Array(width).fill(0));
      const cover = (x0, y0, x1, y1) => {
        for (let y = Math.max(0, y0); y < Math.min(height, y1); y += 1) for (let x = Math.max(0, x0); x < Math.min(width, x1); x += 1) times[y][x] += 1;
      };
      cover(dx, dy, dx + width, dy + height);
      for (const [x, y, wide, high] of strips(dx, dy, width, height)) cover(x, y, x + wide, y + high);
      assert.ok(times.flat().every((count) => count === 1), `${dx} ${dy}`);
    }
  }
});

test("only moves by whole pixels within the canvas are moves", () => {
  assert.deepEqual(moveBetween([0.3, 10], [5.3, 8], [100, 100]), [5, -2]);
  assert.deepEqual(moveBetween([0.3, 10], [0.3, 10], [100, 100]), [0, 0]);
  assert.equal(moveBetween([0.3, 10], [5.5, 8], [100, 100]), null);
  assert.equal(moveBetween([0, 0], [0, 100], [100, 100]), null);
});
