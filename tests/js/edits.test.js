import assert from "node:assert/strict";
import { test } from "node:test";

import { merge, moved, paste, reshape, split, withoutOthers } from "../../engine/annotation/web/js/editor/edits.js";
import { clicksAlong } from "../../engine/annotation/web/js/editor/scribble.js";
import { Session } from "../../engine/annotation/web/js/editor/session.js";
import { answerFrom, isWaiting, keyOf, promptOf } from "../../engine/annotation/web/js/editor/work.js";
import { WorkLog } from "../../engine/annotation/web/js/shared/clock.js";
import { rowsOf, square } from "./bitmaps.js";

const SIZE = [24, 18];
const left = square(...SIZE, 1, 1, 9, 9);
const right = square(...SIZE, 12, 2, 22, 12);

function session(...prefilled) {
  const log = new WorkLog({ now: () => 0, isHidden: () => false });
  const views = prefilled.map((mask, i) => ({ mask_id: `p${i}`, rle: mask.toRle(), predicted_iou: 0.5, model: "lite" }));
  return new Session({ width: SIZE[0], height: SIZE[1], prefilled: views, log });
}

const again = (one) => {
  const other = session();
  other.fromDraft(JSON.parse(JSON.stringify({ ...one.toDraft(), past: one.toPast() })));
  return other;
};
const rles = (one) => one.submission().masks.map(({ rle }) => rle);

test("a mask that was reshaped keeps its shape when the model answers later, and in a draft", () => {
  const one = session();
  one.addPoint(null, { x: 3, y: 3, label: 1 });
  const told = (mask) => answerFrom({ token: "t", best: 0, candidates: [{ rle: mask.toRle(), predicted_iou: 0.9 }] }, keyOf(promptOf(one.current)));
  one.takeAnswer(told(left));
  const target = square(...SIZE, 1, 1, 9, 5);
  assert.equal(reshape(one, one.current, target, { kind: "smooth", radius: 3 }), true);
  assert.equal(reshape(one, one.current, target, { kind: "smooth", radius: 3 }), false, "it has that shape already");
  assert.deepEqual(rowsOf(again(one).current.mask), rowsOf(target));
  one.addPoint(null, { x: 20, y: 15, label: 1 });
  one.takeAnswer(told(left.union(right)));
  assert.deepEqual(rowsOf(one.current.mask), rowsOf(target.union(right)));
  one.undo();
  assert.deepEqual(rowsOf(one.current.mask), rowsOf(target));
});

test("a split makes finished masks of the pieces, undone as one step", () => {
  const one = session(left.union(right));
  const ids = split(one, one.workFor("p0"));
  assert.deepEqual(rles(one), [right.toRle(), left.toRle()]);
  assert.deepEqual(one.submission().masks.map(({ client_id, replaces }) => [client_id, replaces]), [[ids[0], "p0"], [ids[1], null]]);
  assert.equal(new Set(one.rows().map(({ title }) => title)).size, 2);
  assert.deepEqual(rles(again(one)), rles(one));
  assert.deepEqual(split(one, one.workFor(ids[0])), []);
  one.undo();
  assert.deepEqual(one.submission().masks, []);
});

test("a merge takes over what the other mask replaced, or rejects it", () => {
  const one = session(left, right);
  const pasted = paste(one, square(...SIZE, 9, 4, 13, 6));
  merge(one, one.workFor(pasted), "p0");
  assert.deepEqual(one.submission().masks[0].replaces, "p0");
  merge(one, one.workFor(pasted), "p1");
  const { masks, rejected } = one.submission();
  assert.deepEqual([masks.length, masks[0].replaces, rejected], [1, "p0", ["p1"]]);
  assert.deepEqual(rowsOf(one.state.masks[0].mask), rowsOf(left.union(right).union(square(...SIZE, 9, 4, 13, 6))));
  one.undo();
  one.undo();
  assert.deepEqual([rles(one).length, one.submission().rejected, one.rows().length], [1, [], 3]);
});

test("other masks are cut out, but neither hidden ones nor the one that is fixed", () => {
  const one = session(left, right);
  one.hiddenIds.add("p1");
  const other = paste(one, square(...SIZE, 1, 1, 3, 9));
  const work = one.workFor("p0");
  assert.deepEqual(rowsOf(withoutOthers(one, work)), rowsOf(square(...SIZE, 3, 1, 9, 9)));
  one.remove(other);
  assert.equal(withoutOthers(one, work), work.mask);
});

test("a mask of another image keeps its place, and is cut at the border", () => {
  assert.deepEqual(rowsOf(moved(right, [30, 30])), rowsOf(square(30, 30, 12, 2, 22, 12)));
  assert.deepEqual(rowsOf(moved(right, [15, 6])), rowsOf(square(15, 6, 12, 2, 15, 6)));
  assert.equal(moved(right, [10, 10]).isEmpty, true);
  assert.equal(moved(square(4, 3, 0, 0, 4, 3), [4, 3]).area, 12);
});

test("a removed or moved click is asked about anew, without the answer that followed from it", () => {
  const one = session();
  one.addPoints(null, [{ x: 3, y: 3, label: 1 }, { x: 5, y: 5, label: 1 }], { kind: "scribble", label: 1, path: [[3, 3], [5, 5]] });
  const answer = answerFrom({ token: "t", best: 0, candidates: [{ rle: left.toRle(), predicted_iou: 0.9 }] }, keyOf(promptOf(one.current)));
  one.takeAnswer(answer);
  one.movePoint(1, { x: 8, y: 2 });
  assert.deepEqual([promptOf(one.current).points[1], promptOf(one.current).former], [{ x: 8, y: 2, label: 1 }, null]);
  assert.equal(isWaiting(one.current), true);
  one.removePoint(0);
  one.removePoint(0);
  assert.deepEqual([promptOf(one.current), one.current.mask], [null, null]);
  assert.equal(one.finish(), null);
  for (const _ of [1, 2, 3]) one.undo();
  assert.deepEqual([one.isWaiting, rowsOf(one.current.mask)], [false, rowsOf(left)]);
});

test("clicks along a stroke are even, few, and inside the image", () => {
  const line = [[0.5, 2.5], [4.5, 2.5], [8.5, 2.5]];
  assert.deepEqual(clicksAlong(line, 4, [20, 20]), [[0, 2], [4, 2], [8, 2]]);
  assert.deepEqual(clicksAlong([[5.5, 5.5]], 4, [20, 20]), [[5, 5]]);
  assert.deepEqual(clicksAlong([[5.5, 5.5], [5.5, 5.5]], 4, [20, 20]), [[5, 5]]);
  assert.equal(clicksAlong([[0, 0], [1000, 0]], 1, [2000, 10]).length, 8);
  assert.deepEqual(clicksAlong([[-8, 0], [8, 0]], 8, [20, 20]), [[0, 0], [8, 0]]);
  assert.deepEqual(clicksAlong([[-9, -9]], 8, [20, 20]), []);
});
