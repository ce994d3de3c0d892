import assert from "node:assert/strict";
import { test } from "node:test";

import { levelFor, tilesIn } from "../../engine/annotation/web/js/editor/tiles.js";

test("the level is as fine as the screen, and no coarser than the server's last", () => {
  assert.deepEqual([2, 1, 0.6, 0.5, 0.26, 0.25, 0.05].map((density) => levelFor(density, 40_000)), [0, 0, 0, 1, 1, 2, 4]);
  assert.equal(levelFor(0.001, 40_000), 5);
  assert.equal(levelFor(0.001, 1_600), 0);
});

test("tiles cover what is seen, the middle first, and end with the image", () => {
  const found = tilesIn([1_000, 100, 2_100, 900], 0, [2_200, 700]);
  assert.deepEqual(new Set(found.map(({ path }) => path)), new Set(["0/1/0", "0/1/1", "0/2/0", "0/2/1", "0/3/0", "0/3/1", "0/4/0", "0/4/1"]));
  assert.ok(["0/2/0", "0/3/0", "0/2/1", "0/3/1"].includes(found[0].path));
  assert.deepEqual(found.find(({ path }) => path === "0/4/1").box, [2_048, 512, 2_200, 700]);
  assert.deepEqual(tilesIn([0, 0, 40_000, 30_000], 6, [40_000, 30_000]).map(({ path }) => path).sort(), ["6/0/0", "6/1/0"]);
});
