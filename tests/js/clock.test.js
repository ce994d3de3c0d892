import assert from "node:assert/strict";
import { test } from "node:test";

import { WorkLog } from "../../engine/annotation/web/js/shared/clock.js";

function clock() {
  const time = { seconds: 0, isHidden: false };
  const log = new WorkLog({ now: () => time.seconds * 1_000, isHidden: () => time.isHidden });
  return { time, log };
}

test("time goes to the mask that is worked on, and all of it to the task", () => {
  const { time, log } = clock();
  time.seconds = 2;
  log.turnTo("a");
  time.seconds = 5;
  log.turnTo("b");
  time.seconds = 9;
  log.tick();
  assert.deepEqual([log.total, log.report("a").seconds, log.report("b").seconds], [9, 3, 4]);
});

test("time stops half a minute after the last input, and goes on with the next", () => {
  const { time, log } = clock();
  time.seconds = 100;
  log.tick();
  assert.equal(log.total, 30);
  log.touch();
  time.seconds = 110;
  log.tick();
  assert.equal(log.total, 40);
});

test("time does not count while the tab is hidden", () => {
  const { time, log } = clock();
  time.isHidden = true;
  time.seconds = 5;
  log.tick();
  time.isHidden = false;
  time.seconds = 6;
  log.tick();
  assert.equal(log.total, 1);
});

test("an event is noted with the mask's own time, and can be taken back", () => {
  const { time, log } = clock();
  log.turnTo("a");
  time.seconds = 1.234;
  log.note("a", { kind: "click" });
  log.note("a", { kind: "undo" });
  log.unnote("a");
  assert.deepEqual(log.report("a"), { seconds: 1.23, trajectory: [{ kind: "click", at: 1.23 }] });
});

test("of a long path every nth point is kept and the last, and of many events the first", () => {
  const { log } = clock();
  const path = Array.from({ length: 50_000 }, (_, i) => [i, 0]);
  const noted = log.note("a", { kind: "brush", path });
  assert.ok(noted.path.length <= 20_000);
  assert.deepEqual([noted.path[0], noted.path.at(-1)], [path[0], path.at(-1)]);
  for (let i = 0; i < 3_000; i += 1) log.note("a", { kind: "click" });
  assert.equal(log.report("a").trajectory.length, 2_000);
});
