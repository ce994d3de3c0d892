import assert from "node:assert/strict";
import { test } from "node:test";

import { Verdicts } from "../../engine/annotation/web/js/review/verdicts.js";

const verdictsOf = (...ids) => new Verdicts(ids.map((id) => ({ mask_id: id })));
const ACCEPT = { verdict: "accept", reason: null, fix: null };
const REJECT = { verdict: "reject", reason: null, fix: null };

test("undo takes back a whole step, with the reason that came after it", () => {
  const verdicts = verdictsOf("a", "b", "c");
  verdicts.set(["a"], ACCEPT);
  verdicts.set(["a"], REJECT);
  verdicts.amend("a", { reason: "too large" });
  verdicts.set(["b", "c"], ACCEPT);
  assert.deepEqual(verdicts.tally(), { accept: 2, reject: 1, fix: 0, left: 0 });
  assert.deepEqual(verdicts.undo(), ["b", "c"]);
  assert.deepEqual(verdicts.left(), ["b", "c"]);
  assert.deepEqual(verdicts.undo(), ["a"]);
  assert.deepEqual(verdicts.get("a"), ACCEPT);
  assert.deepEqual([verdicts.undo(), verdicts.undo(), verdicts.get("a")], [["a"], [], null]);
});

test("the next mask without a verdict is looked for from here on, and then from the start", () => {
  const verdicts = verdictsOf("a", "b", "c");
  verdicts.set(["b"], ACCEPT);
  assert.deepEqual([verdicts.nextLeft(0), verdicts.nextLeft(2), verdicts.nextLeft(1)], [2, 0, 2]);
  verdicts.set(["a", "c"], ACCEPT);
  assert.equal(verdicts.nextLeft(0), -1);
});

test("time over the grid is shared among the masks that it was about", () => {
  const verdicts = verdictsOf("a", "b");
  verdicts.addSeconds("a", 1);
  verdicts.pending = 4;
  verdicts.set(["a", "b"], ACCEPT);
  verdicts.pending = 1;
  assert.deepEqual(verdicts.toJudgement().map(({ mask_id, verdict, seconds }) => [mask_id, verdict, seconds]), [
    ["a", "accept", 3.5],
    ["b", "accept", 2.5],
  ]);
});

test("a draft brings verdicts, times and undo back, but of this task's masks only", () => {
  const verdicts = verdictsOf("a", "b");
  verdicts.set(["a", "b"], ACCEPT);
  verdicts.set(["b"], REJECT);
  verdicts.addSeconds("b", 2);
  const again = verdictsOf("b", "c");
  again.restore(JSON.parse(JSON.stringify(verdicts.toData())));
  assert.deepEqual([again.get("a"), again.get("b"), again.left()], [null, REJECT, ["c"]]);
  assert.equal(again.seconds.get("b"), 2);
  assert.deepEqual([again.undo(), again.get("b")], [["b"], ACCEPT]);
  again.restore(null);
  assert.deepEqual(again.tally(), { accept: 1, reject: 0, fix: 0, left: 1 });
});

test("a label is a step of its own with its own seconds, and is sent with the verdict", () => {
  const some = new Verdicts([{ mask_id: "a" }, { mask_id: "b" }]);
  some.setLabel("a", 3, 1.5);
  some.set(["a", "b"], { verdict: "accept" });
  assert.deepEqual(some.lastStep(), ["a", "b"]);
  const again = new Verdicts([{ mask_id: "a" }, { mask_id: "b" }]);
  again.restore(JSON.parse(JSON.stringify(some.toData())));
  const [a, b] = again.toJudgement();
  assert.deepEqual([a.category_id, a.label_seconds, a.seconds], [3, 1.5, 0]);
  assert.equal("category_id" in b || "label_seconds" in b, false);
  again.undo();
  assert.deepEqual([again.labelOf("a"), again.get("a")], [3, null]);
  assert.deepEqual(again.lastStep(), [], "a label discards no fix");
  again.undo();
  assert.equal(again.labelOf("a"), null);
});
