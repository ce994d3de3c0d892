import assert from "node:assert/strict";
import { test } from "node:test";

import { swipeOf } from "../../engine/annotation/web/js/review/swipe.js";

const from = { x: 200, y: 300, at: 1_000 };
const to = (dx, dy, ms) => swipeOf(from, { x: 200 + dx, y: 300 + dy, at: 1_000 + ms });

test("a quick movement to the right accepts, to the left rejects", () => {
  assert.equal(to(90, 10, 150), "accept");
  assert.equal(to(-90, -10, 150), "reject");
});

test("a slow, short or slanted movement is no verdict", () => {
  assert.equal(to(200, 0, 900), null);
  assert.equal(to(40, 0, 100), null);
  assert.equal(to(90, 60, 150), null);
  assert.equal(to(0, 300, 100), null);
});
