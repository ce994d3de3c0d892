import assert from "node:assert/strict";
import { test } from "node:test";

import {
  answerFrom, candidatesBySize, isWaiting, keyOf, newWork, promptOf, trustedIouOf, withAnswer, withBox, withCandidate,
  withPoint, withStroke, workFromJson, workToJson,
} from "../../engine/annotation/web/js/editor/work.js";
import { rowsOf, square } from "./bitmaps.js";

const SIZE = [20, 16];
const whole = square(...SIZE, 2, 2, 14, 12);
const part = square(...SIZE, 4, 4, 10, 10);
const subpart = square(...SIZE, 5, 5, 7, 7);

/** What the server answers to a work's prompt. */
function answered(work, masks, { best = 0, token = "t1" } = {}) {
  const candidates = masks.map((mask, i) => ({ rle: mask.toRle(), predicted_iou: 0.9 - i / 10 }));
  return withAnswer(work, answerFrom({ token, best, candidates }, keyOf(promptOf(work))));
}

const clicked = withPoint(newWork("m1"), { x: 6, y: 6, label: 1 });
const suggested = answered(clicked, [part, whole, subpart], { best: 1 });

test("the first click asks for several masks, and a correction for one", () => {
  assert.equal(promptOf(newWork("m1")), null);
  assert.deepEqual(promptOf(clicked), {
    points: [{ x: 6, y: 6, label: 1 }],
    box_xyxy: null,
    is_box_loose: false,
    former: null,
    multimask: true,
  });
  const { multimask, former, points } = promptOf(withPoint(suggested, { x: 1, y: 1, label: 0 }));
  assert.deepEqual({ multimask, former }, { multimask: false, former: { token: "t1", candidate: 1 } });
  assert.equal(points.length, 2);
});

test("a work waits until the model has answered its newest prompt", () => {
  assert.equal(isWaiting(newWork("m1")), false);
  assert.equal(isWaiting(clicked), true);
  assert.equal(isWaiting(suggested), false);
  assert.equal(isWaiting(withPoint(suggested, { x: 9, y: 9, label: 1 })), true);
});

test("the best suggestion is taken first, and they are offered from the largest to the smallest", () => {
  assert.deepEqual(rowsOf(suggested.mask), rowsOf(whole));
  assert.deepEqual(candidatesBySize(suggested), [1, 0, 2]);
  assert.deepEqual(rowsOf(withCandidate(suggested, 2).mask), rowsOf(subpart));
});

test("strokes outlive the next answer, and a click takes them back where it is made", () => {
  const erased = square(...SIZE, 2, 2, 6, 12);
  const added = square(...SIZE, 15, 1, 18, 4);
  const painted = withStroke(withStroke(suggested, erased, true), added, false);
  assert.deepEqual(rowsOf(painted.mask), rowsOf(whole.minus(erased).union(added)));
  const corrected = answered(withPoint(painted, { x: 16, y: 14, label: 1 }), [part], { token: "t2" });
  assert.deepEqual(rowsOf(corrected.mask), rowsOf(part.minus(erased).union(added)));
  const reclaimed = withPoint(painted, { x: 4, y: 6, label: 1 });
  assert.ok(reclaimed.mask.has(4, 6) && !painted.mask.has(4, 6));
  assert.ok(!reclaimed.mask.has(2, 2), "only around the click");
});

test("painting over what was erased brings it back, and the other way round", () => {
  const stroke = square(...SIZE, 3, 3, 6, 6);
  const back = withStroke(withStroke(suggested, stroke, true), stroke, false);
  assert.deepEqual(rowsOf(back.mask), rowsOf(whole));
  const gone = withStroke(withStroke(newWork("m2"), stroke, false), stroke, true);
  assert.equal(gone.mask.isEmpty, true);
});

test("a fix of a mask without known prompts says by its box which object is meant", () => {
  const fix = withPoint(newWork("m3", { base: part, replaces: "p1" }), { x: 12, y: 5, label: 1 });
  const { box_xyxy, is_box_loose, multimask } = promptOf(fix);
  assert.deepEqual({ box_xyxy, is_box_loose, multimask }, { box_xyxy: [4, 4, 13, 10], is_box_loose: true, multimask: false });
  const drawn = promptOf(withBox(fix, [0, 0, 9, 9]));
  assert.deepEqual([drawn.box_xyxy, drawn.is_box_loose], [[0, 0, 9, 9], false]);
});

test("the model's expected IoU is trusted for one prompt only", () => {
  assert.equal(trustedIouOf(suggested), 0.8);
  assert.equal(trustedIouOf(withStroke(suggested, part, true)), null);
  assert.equal(trustedIouOf(answered(withPoint(suggested, { x: 9, y: 9, label: 1 }), [part])), null);
  assert.equal(trustedIouOf(answered(withPoint(newWork("m", { base: part }), { x: 5, y: 5, label: 1 }), [part])), null);
});

test("a step never changes the work that it starts from", () => {
  const before = JSON.stringify(workToJson(suggested, false));
  withStroke(withCandidate(withPoint(suggested, { x: 1, y: 1, label: 0 }), 2), part, true);
  assert.equal(JSON.stringify(workToJson(suggested, false)), before);
});

test("a work comes back from its JSON, a finished one without the suggestions not taken", () => {
  const painted = withStroke(suggested, subpart, true);
  const open = workFromJson(JSON.parse(JSON.stringify(workToJson(painted, false))), SIZE);
  assert.deepEqual(rowsOf(open.mask), rowsOf(painted.mask));
  assert.deepEqual(candidatesBySize(open), [1, 0, 2]);
  assert.equal(isWaiting(open), false);
  const finished = workFromJson(JSON.parse(JSON.stringify(workToJson(painted, true))), SIZE);
  assert.deepEqual(rowsOf(finished.mask), rowsOf(painted.mask));
  assert.deepEqual(candidatesBySize(finished), [1]);
});
