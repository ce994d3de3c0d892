import assert from "node:assert/strict";
import { test } from "node:test";

import { cornerFor, within } from "../../engine/annotation/web/js/editor/loupe.js";
import { maskWhere } from "./bitmaps.js";

const [WIDTH, HEIGHT] = [9, 7];

const maskOf = (isSet) => maskWhere(WIDTH, HEIGHT, isSet);

test("the part of a mask in a box has its pixels there and no others", () => {
  const shapes = [() => true, () => false, (x, y) => (x * 5 + y * 3) % 4 < 2, (x) => x > 2, (_, y) => y === 6 || y === 0];
  for (const isSet of shapes) {
    for (const [x0, y0, x1, y1] of [[0, 0, WIDTH, HEIGHT], [2, 1, 5, 4], [8, 6, 9, 7], [3, 3, 3, 3], [0, 5, 40, 40]]) {
      const part = within(maskOf(isSet), [x0, y0, x1, y1]);
      const expected = maskOf((x, y) => isSet(x, y) && x >= x0 && x < x1 && y >= y0 && y < y1);
      assert.deepEqual([...part.edges], [...expected.edges]);
    }
  }
});

test("the magnifier lies beside the pointer and inside the window", () => {
  const size = [900, 600];
  for (const pointer of [[450, 300], [5, 5], [895, 5], [5, 595], [895, 595]]) {
    const [left, top] = cornerFor(pointer, size);
    assert.ok(left >= 0 && top >= 0 && left + 168 <= 900 && top + 168 <= 600);
    const isOver = pointer[0] > left && pointer[0] < left + 168 && pointer[1] > top && pointer[1] < top + 168;
    assert.ok(!isOver, `${pointer}`);
  }
});
