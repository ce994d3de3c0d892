// One mask in progress: prompts, the model's answer, and brush strokes.
//
// Works are immutable; every step makes a new one, so a history is a list of works. The mask is (answer,
// else base) minus `erased` plus `added`: strokes are separate, so that later clicks do not lose them.

import { capsule, Mask } from "../shared/rle.js";

/** @typedef {import("../shared/rle.js").Box} Box
 * @typedef {{x: number, y: number, label: number}} Point label 1: belongs to the object, 0: does not
 * @typedef {{token: string, candidate: number}} Former the answer that a prompt corrects
 * @typedef {object} Answer what the model said to the prompt with this key
 * @property {string} key
 * @property {string} token
 * @property {number} best place of the candidate that the model expects to be best
 * @property {(Mask | null)[]} masks
 * @property {number[]} ious
 * @typedef {object} Work
 * @property {string} id
 * @property {number} number for people
 * @property {string | null} replaces id of the pre-filled mask that is being fixed
 * @property {Mask | null} base the mask that is being fixed
 * @property {number | null} label id of its category, 0 for none of these
 * @property {Point[]} points
 * @property {Box | null} box
 * @property {Former | null} former
 * @property {Answer | null} answer
 * @property {number} candidate
 * @property {Mask | null} added
 * @property {Mask | null} erased
 * @property {Mask | null} [mask] composed of the others
 */

/** `number`: for people; `base`: the mask that is being fixed; `replaces`: its id where it was
 * pre-filled; `label`: id of its category.
 * @param {string} id
 * @returns {Work} */
export function newWork(id, { number = 0, replaces = null, base = null, label = null } = {}) {
  return composed({
    id,
    number,
    replaces,
    base,
    label,
    points: [],
    box: null,
    former: null,
    answer: null,
    candidate: 0,
    added: null,
    erased: null,
  });
}

/** @param {Work} work
 * @returns {Work} */
function composed(work) {
  let mask = work.answer?.masks[work.candidate] ?? work.base;
  if (mask && work.erased) mask = mask.minus(work.erased);
  if (work.added) mask = mask ? mask.union(work.added) : work.added;
  return { ...work, mask };
}

/** The IoU that the model expects of its answer.
 * @param {Work} work */
export function iouOf(work) {
  return work.answer?.ious[work.candidate] ?? null;
}

/** The same if it is meaningful: for an answer to one prompt without strokes. After corrections it
 * falls although the mask improves, and the model does not know about strokes.
 * @param {Work} work */
export function trustedIouOf(work) {
  const isFirst = work.points.length + (work.box ? 1 : 0) === 1 && !work.base;
  return isFirst && !work.added && !work.erased ? iouOf(work) : null;
}

/** A click. The answer so far becomes the former one, to be corrected.
 * @param {Work} work
 * @param {Point} point */
export function withPoint(work, point) {
  const next = { ...work, points: [...work.points, point], former: formerOf(work) };
  // the latest input counts: a click on an erased or added place undoes the stroke there
  const under = point.label ? "erased" : "added";
  if (work[under]?.has(point.x, point.y)) next[under] = work[under].minus(around(work[under], point));
  return composed(next);
}

/** The part of the strokes that a click undoes: a circle around it. */
function around(mask, point) {
  const reach = Math.max(mask.width, mask.height) / 20;
  const [x, y] = [point.x + 0.5, point.y + 0.5];
  return capsule(mask.width, mask.height, x, y, x, y, reach);
}

/** @param {Work} work
 * @param {Box} box */
export function withBox(work, box) {
  return composed({ ...work, box, former: formerOf(work) });
}

/** @param {Work} work
 * @param {Answer} answer */
export function withAnswer(work, answer) {
  const candidate = answer.masks.length > 1 ? answer.best : 0;
  return composed({ ...work, answer, candidate });
}

/** @param {Work} work
 * @param {number} candidate */
export function withCandidate(work, candidate) {
  return composed({ ...work, candidate });
}

/** Places of the answer's masks, the largest first: whole, part, subpart. */
export function candidatesBySize({ answer }) {
  const there = [...(answer?.masks ?? []).keys()].filter((i) => answer.masks[i]);
  return there.sort((a, b) => answer.masks[b].area - answer.masks[a].area);
}

/** @param {Work} work
 * @param {Mask} stroke
 * @param {boolean} isErasing */
export function withStroke(work, stroke, isErasing) {
  const [to, from] = isErasing ? ["erased", "added"] : ["added", "erased"];
  const next = { ...work, [to]: work[to] ? work[to].union(stroke) : stroke };
  if (work[from]) next[from] = work[from].minus(stroke);
  return composed(next);
}

/** With exactly this mask, as if it had been painted.
 * @param {Work} work
 * @param {Mask} target */
export function withMask(work, target) {
  const from = work.mask ?? Mask.empty(target.width, target.height);
  return withStroke(withStroke(work, from.minus(target), true), target.minus(from), false);
}

/** Without one of its clicks. The answer so far followed from it, so it is no longer the former one.
 * @param {Work} work
 * @param {number} place of the click */
export function withoutPoint(work, place) {
  return withPoints(work, work.points.filter((_, i) => i !== place));
}

/** With a click somewhere else.
 * @param {Work} work
 * @param {number} place
 * @param {{x: number, y: number}} to */
export function withPointMoved(work, place, { x, y }) {
  return withPoints(work, work.points.map((point, i) => (i === place ? { ...point, x, y } : point)));
}

/** @param {Work} work
 * @param {Point[]} points */
function withPoints(work, points) {
  const hasPrompt = points.length > 0 || work.box !== null;
  return composed({ ...work, points, former: null, ...(hasPrompt ? {} : { answer: null, candidate: 0 }) });
}

/** Works with this one in its place, or at the end.
 * @param {Work[]} works
 * @param {Work} work */
export function placed(works, work) {
  const isKnown = works.some((other) => other.id === work.id);
  return isKnown ? works.map((other) => (other.id === work.id ? work : other)) : [...works, work];
}

function formerOf(work) {
  if (!work.answer?.token) return work.former;
  return { token: work.answer.token, candidate: work.candidate };
}

/** The prompt for the model; null without points and box.
 * @param {Work} work */
export function promptOf(work) {
  if (work.points.length === 0 && !work.box) return null;
  const box = work.box ?? boxOfBase(work);
  const isFirstClick = work.points.length === 1 && !box && !work.former;
  return {
    points: work.points,
    box_xyxy: box,
    is_box_loose: box !== null && !work.box,
    former: work.former,
    multimask: isFirstClick && work.points[0].label === 1,
  };
}

/** The prompts of a mask that is being fixed are unknown: its box tells which object is meant.
 * @param {Work} work
 * @returns {Box | null} */
function boxOfBase(work) {
  if (!work.base || work.base.isEmpty) return null;
  const [x0, y0, x1, y1] = work.base.box;
  const inside = work.points.filter((point) => point.label === 1);
  return [
    Math.min(x0, ...inside.map((point) => point.x)),
    Math.min(y0, ...inside.map((point) => point.y)),
    Math.max(x1, ...inside.map((point) => point.x + 1)),
    Math.max(y1, ...inside.map((point) => point.y + 1)),
  ];
}

export function keyOf(prompt) {
  return JSON.stringify(prompt);
}

/** Whether the model has not answered this work's prompt yet. */
export function isWaiting(work) {
  const prompt = promptOf(work);
  return prompt !== null && work.answer?.key !== keyOf(prompt);
}

/** An answer of the server, as works keep it.
 * @param {string} key
 * @returns {Answer} */
export function answerFrom(prediction, key) {
  return {
    key,
    token: prediction.token,
    best: prediction.best,
    masks: prediction.candidates.map((candidate) => Mask.fromRle(candidate.rle)),
    ious: prediction.candidates.map((candidate) => candidate.predicted_iou),
  };
}

/** Plain JSON for a draft. Finished works are stored without the candidates that were not chosen. */
export function workToJson(work, isFinished) {
  const counts = (mask) => mask?.counts ?? null;
  const { id, number, replaces, points, box, former, candidate } = work;
  const json = { id, number, replaces, points, box, former, candidate };
  if (work.label !== null) json.label = work.label;
  for (const name of ["base", "added", "erased"]) if (work[name]) json[name] = counts(work[name]);
  if (work.answer) {
    const keeps = (_, i) => !isFinished || i === candidate;
    const masks = work.answer.masks.map((mask, i) => (keeps(mask, i) ? counts(mask) : null));
    json.answer = { ...work.answer, masks };
    if (isFinished) delete json.base;
  }
  return json;
}

export function workFromJson(json, [width, height]) {
  const mask = (counts) => (counts ? Mask.fromRle({ size: [height, width], counts }) : null);
  const { id, number, replaces, label = null } = json;
  const work = newWork(id, { number, replaces, base: mask(json.base), label });
  const { points, box, former, candidate } = json;
  Object.assign(work, { points, box, former, candidate });
  Object.assign(work, { added: mask(json.added), erased: mask(json.erased) });
  if (json.answer) work.answer = { ...json.answer, masks: json.answer.masks.map(mask) };
  return composed(work);
}
