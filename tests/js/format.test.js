import assert from "node:assert/strict";
import { mock, test } from "node:test";

import { ago, count, decimal, duration, percent, score, secondsBetween, words } from "../../engine/annotation/web/js/shared/format.js";

test("what is not known is a dash", () => {
  for (const format of [count, decimal, score, percent, duration, ago]) {
    for (const value of [null, undefined]) assert.equal(format(value), "–", format.name);
  }
  assert.equal(decimal(NaN), "–");
});

test("figures are short", () => {
  assert.deepEqual([count(1234567.4), decimal(2.345, 2), score(0.5649), score(1), percent(0.256)], ["1,234,567", "2.35", ".565", "1.000", "26 %"]);
});

test("a span of time has its two largest units, and one where that says enough", () => {
  const spans = [[0.2, "under 1 s"], [59.9, "59 s"], [60, "1 min"], [90, "1 min 30 s"], [660, "11 min"], [3_725, "1 h 2 min"], [90_000, "1 d 1 h"], [2e6, "23 d"]];
  for (const [seconds, text] of spans) assert.equal(duration(seconds), text);
});

test("ages are rough, and run until now", () => {
  mock.timers.enable({ apis: ["Date"], now: Date.parse("2026-03-04T12:00:00Z") });
  assert.equal(ago("2026-03-04T11:59:30Z"), "just now");
  assert.equal(ago("2026-03-04T10:57:00Z"), "1 h ago");
  assert.equal(secondsBetween("2026-03-04T11:59:30Z"), 30);
  assert.equal(secondsBetween("2026-03-04T11:59:30Z", "2026-03-04T11:59:31.5Z"), 1.5);
  mock.timers.reset();
});

test("names become words", () => {
  assert.equal(words("assisted_manual"), "Assisted manual");
});
