import assert from "node:assert/strict";
import { test } from "node:test";

import { Session } from "../../engine/annotation/web/js/editor/session.js";
import { answerFrom, keyOf, promptOf } from "../../engine/annotation/web/js/editor/work.js";
import { WorkLog } from "../../engine/annotation/web/js/shared/clock.js";
import { rowsOf, square } from "./bitmaps.js";

const SIZE = [24, 18];
const left = square(...SIZE, 1, 1, 9, 9);
const right = square(...SIZE, 12, 2, 22, 12);

function session({ prefilled = [] } = {}) {
  const log = new WorkLog({ now: () => 0, isHidden: () => false });
  const views = prefilled.map((mask, i) => ({ mask_id: `p${i}`, rle: mask.toRle(), predicted_iou: 0.5, model: "lite" }));
  return new Session({ width: SIZE[0], height: SIZE[1], prefilled: views, log });
}

function answer(one, ...masks) {
  const candidates = masks.map((mask) => ({ rle: mask.toRle(), predicted_iou: 0.875 }));
  return one.takeAnswer(answerFrom({ token: "t", best: 0, candidates }, keyOf(promptOf(one.current))));
}

/** A click, its answer, and the end of the mask. */
function make(one, mask, selected = null) {
  const [x, y] = mask.box;
  one.addPoint(selected, { x, y, label: 1 });
  answer(one, mask);
  return one.finish();
}

test("a submission has the finished masks with their clicks, and the pre-filled ones that were rejected", () => {
  const one = session({ prefilled: [right] });
  make(one, left);
  one.remove("p0");
  const { masks, rejected } = one.submission();
  assert.deepEqual(rejected, ["p0"]);
  assert.equal(masks.length, 1);
  assert.deepEqual(masks[0].rle, left.toRle());
  assert.deepEqual(masks[0].trajectory, [{ kind: "click", x: 1, y: 1, label: 1, at: 0, predicted_iou: 0.875 }]);
  assert.deepEqual([masks[0].predicted_iou, masks[0].replaces], [0.875, null]);
});

test("a fix of a pre-filled mask replaces it, and is no rejection", () => {
  const one = session({ prefilled: [right] });
  make(one, left, "p0");
  const { masks, rejected } = one.submission();
  assert.deepEqual([masks[0].replaces, rejected], ["p0", []]);
  assert.deepEqual(one.items().map(({ id }) => id), [masks[0].client_id]);
  one.remove(masks[0].client_id); // with the fix goes what it was a fix of
  assert.deepEqual(one.submission(), { masks: [], rejected: ["p0"], seconds: 0 });
  one.restore("p0");
  assert.deepEqual(one.submission().rejected, []);
});

test("a rejected mask that is fixed after all is replaced, not rejected", () => {
  const one = session({ prefilled: [right] });
  one.remove("p0");
  make(one, left, "p0");
  const { masks, rejected } = one.submission();
  assert.deepEqual([masks[0].replaces, rejected], ["p0", []]);
});

test("an answer to a prompt that is no longer asked is refused", () => {
  const one = session();
  one.addPoint(null, { x: 3, y: 3, label: 1 });
  const late = answerFrom({ token: "t", best: 0, candidates: [] }, keyOf(promptOf(one.current)));
  one.addPoint(null, { x: 4, y: 4, label: 1 });
  assert.equal(one.takeAnswer(late), false);
  assert.equal(one.isWaiting, true);
  one.drop();
  assert.equal(one.takeAnswer(late), false);
});

test("undo goes back click by click, redo forward, and the answers come along", () => {
  const one = session();
  make(one, left);
  one.addPoint(null, { x: 13, y: 3, label: 1 });
  answer(one, right);
  one.undo();
  assert.equal(one.current, null);
  one.undo(); // the end of the first mask
  assert.deepEqual(rowsOf(one.current.mask), rowsOf(left));
  one.undo();
  assert.equal(one.undo(), false);
  for (const _ of [1, 2, 3]) assert.equal(one.redo(), true);
  assert.equal(one.redo(), false);
  assert.deepEqual(rowsOf(one.current.mask), rowsOf(right));
  assert.equal(one.state.masks.length, 1);
});

test("a click that turns out a double click leaves no trace", () => {
  const one = session();
  const done = make(one, left);
  one.addPoint(done.id, { x: 2, y: 2, label: 1 });
  one.forgetClick();
  assert.equal(one.current, null);
  assert.equal(one.submission().masks[0].trajectory.length, 1);
});

test("the topmost of the masks at a pixel comes first, and moving one changes that", () => {
  const one = session({ prefilled: [left] });
  const lower = make(one, left);
  const upper = make(one, left.union(right));
  assert.deepEqual(one.at(3, 3).map(({ id }) => id), [upper.id, lower.id, "p0"]);
  assert.equal(one.move(lower.id, 1), true);
  assert.equal(one.move(lower.id, 1), false);
  assert.deepEqual(one.at(3, 3).map(({ id }) => id), [lower.id, upper.id, "p0"]);
  one.hiddenIds.add(lower.id);
  assert.deepEqual(one.at(3, 3).map(({ id }) => id), [upper.id, "p0"]);
  assert.deepEqual(one.at(11, 1), []);
});

test("a draft brings everything back, and in the same browser the steps around it too", () => {
  const one = session({ prefilled: [right] });
  make(one, left);
  one.remove("p0");
  one.addPoint(null, { x: 13, y: 3, label: 1 });
  answer(one, right);
  one.undo();
  const stored = JSON.parse(JSON.stringify({ ...one.toDraft(), past: one.toPast() }));

  const other = session({ prefilled: [right] });
  other.fromDraft({ ...stored, past: undefined });
  assert.deepEqual(other.submission(), one.submission());
  assert.equal(other.history.canUndo, false);

  const again = session({ prefilled: [right] });
  again.fromDraft(stored);
  assert.equal(again.redo(), true);
  assert.deepEqual(rowsOf(again.current.mask), rowsOf(right));
  for (const _ of [1, 2, 3, 4]) assert.equal(again.undo(), true);
  assert.equal(again.undo(), false);
  assert.deepEqual(again.state, { masks: [], rejected: [], current: null, labels: {} });
  assert.throws(() => session().fromDraft({ format: 2 }), /unknown format 2/);
});

test("what a draft hands in includes the mask that was in progress", () => {
  const one = session();
  make(one, left);
  one.addPoint(null, { x: 13, y: 3, label: 1 });
  answer(one, right);
  const { masks } = Session.submissionOf(JSON.parse(JSON.stringify(one.toDraft())));
  assert.deepEqual(masks.map(({ rle }) => rle), [left.toRle(), right.toRle()]);
});

test("work that was submitted is the draft of its reopened task, and submitting it again changes nothing", () => {
  const first = session({ prefilled: [right] });
  make(first, left);
  first.remove("p0");
  const former = first.submission();
  const draft = Session.draftOf({ former, image: { width: SIZE[0], height: SIZE[1] } });
  const again = session({ prefilled: [right] });
  again.fromDraft(JSON.parse(JSON.stringify(draft)));
  const masks = former.masks.map((mask) => ({ ...mask, predicted_iou: null }));
  assert.deepEqual(again.submission(), { ...former, masks });
  again.restore("p0");
  make(again, right);
  assert.equal(again.submission().masks.length, 2);
  assert.equal(Session.draftOf({ former: null, image: null }), null);
});

test("labels stick to the next new mask, and undo, drafts and reopened work keep them", () => {
  const one = session({ prefilled: [right] });
  const first = make(one, left);
  one.setLabel(first.id, 2);
  one.nextLabel = 2;
  const second = make(one, left);
  one.setLabel("p0", 0);
  const labels = () => one.rows().map(({ id, label }) => [id, label]);
  assert.deepEqual(labels(), [[second.id, 2], [first.id, 2], ["p0", 0]]);
  const { masks, labels: kept } = one.submission();
  assert.deepEqual(masks.map((mask) => mask.category_id), [2, 2]);
  assert.deepEqual(kept, [{ mask_id: "p0", category_id: 0 }]);

  one.undo();
  assert.equal(one.labelOf("p0"), null);
  one.redo();
  const stored = JSON.parse(JSON.stringify({ ...one.toDraft(), past: one.toPast() }));
  const other = session({ prefilled: [right] });
  other.fromDraft(stored);
  assert.deepEqual(other.submission(), one.submission());
  assert.equal(other.nextLabel, 2);
  other.undo();
  assert.equal(other.labelOf("p0"), null);

  const former = one.submission();
  const again = session({ prefilled: [right] });
  again.fromDraft(Session.draftOf({ former, image: { width: SIZE[0], height: SIZE[1] } }));
  assert.deepEqual(again.submission().labels, former.labels);
  assert.deepEqual(again.submission().masks.map((mask) => mask.category_id), [2, 2]);
});

test("a fix has the label of the mask that it fixes until it gets its own, and a rejected mask has none", () => {
  const one = session({ prefilled: [right] });
  one.nextLabel = 1;
  one.setLabel("p0", 3);
  const fix = make(one, left, "p0");
  assert.equal(one.labelOf(fix.id), 3);
  assert.deepEqual(one.submission().masks.map((mask) => mask.category_id), [3]);
  assert.equal("labels" in one.submission(), false);
  const other = session({ prefilled: [right] });
  other.setLabel("p0", 3);
  other.remove("p0");
  assert.equal("labels" in other.submission(), false);
});

test("without labels a submission has no word of them", () => {
  const one = session();
  make(one, left);
  const submission = one.submission();
  assert.equal("labels" in submission, false);
  assert.equal("category_id" in submission.masks[0], false);
});

test("undoing a label is no event of the mask's trajectory", () => {
  const one = session();
  one.addPoint(null, { x: 1, y: 1, label: 1 });
  answer(one, left);
  one.setLabel(one.current.id, 2);
  one.undo();
  assert.equal(one.labelOf(one.current.id), null);
  one.finish();
  assert.deepEqual(one.submission().masks[0].trajectory.map(({ kind }) => kind), ["click"]);
});
