// The work on one image: finished masks, the one in progress, rejected ones, labels, and the log of all
// events.
// No drawing and no requests; the page reads `items`, `rows` and `submission`.

import { WorkLog } from "../shared/clock.js";
import { CURRENT_COLOUR, OWN_COLOURS, PREFILLED_COLOURS } from "./colours.js";
import { decimal, words } from "../shared/format.js";
import { History } from "./history.js";
import { idsIn, pastFromJson, pastToJson } from "./past.js";
import { Mask } from "../shared/rle.js";
import {
  iouOf, isWaiting, keyOf, newWork, placed, promptOf, trustedIouOf, withAnswer, withBox, withCandidate,
  withoutPoint, withPoint, withPointMoved, withStroke, workFromJson, workToJson,
} from "./work.js";
import { t } from "../shared/strings.js";

const FORMAT = 1; // of drafts

/** 16 random hex digits. crypto.randomUUID would need https. */
function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(8));
  return `m${Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("")}`;
}

const clamped = (share) => (share === null || share === undefined ? null : Math.min(1, Math.max(0, share)));

export class Session {
  #number = 0;
  #stamped = null;
  #views; // of pre-filled masks by id
  #event = null; // the logged event that waits for the model's answer
  /** @type {number | null} id of the category of the next new masks */
  nextLabel = null;

  /** `prefilled`: MaskViews; `log`: a WorkLog. */
  constructor({ width, height, prefilled, log }) {
    this.width = width;
    this.height = height;
    this.log = log;
    this.prefilled = prefilled.map((view, i) => ({
      id: view.mask_id,
      number: i + 1,
      mask: Mask.fromRle(view.rle),
      iou: view.predicted_iou,
      view,
    }));
    this.#views = new Map(prefilled.map((view) => [view.mask_id, view]));
    this.history = new History({ masks: [], rejected: [], current: null, labels: {} });
    this.hiddenIds = new Set();
  }

  get state() {
    return this.history.state;
  }

  get current() {
    return this.state.current;
  }

  get isWaiting() {
    return this.current !== null && isWaiting(this.current);
  }

  /** One step that can be undone. `changes`: any of masks, current and rejected. */
  commit(changes) {
    this.history.commit({ ...this.state, ...changes });
    this.#settle();
  }

  #settle() {
    this.#number = Math.max(this.#number, this.current?.number ?? 0);
    this.log.turnTo(this.current?.id ?? null);
  }

  /** The work that prompts go to: the one in progress, else a copy of the selected mask's, else new. */
  workFor(selectedId) {
    if (this.current) return this.current;
    const own = this.state.masks.find((work) => work.id === selectedId);
    if (own) return own;
    const prefilled = this.prefilled.find((mask) => mask.id === selectedId);
    const label = prefilled ? (this.state.labels[prefilled.id] ?? null) : this.nextLabel;
    const options = { number: this.#number + 1, replaces: prefilled?.id ?? null, base: prefilled?.mask ?? null, label };
    return newWork(newId(), options);
  }

  /** Labels a mask of any kind. `label`: id of a category, 0 for none of these. */
  setLabel(id, label) {
    const { current, masks, labels } = this.state;
    const labelled = (work) => (work.id === id ? { ...work, label } : work);
    if (current?.id === id) this.commit({ current: labelled(current) });
    else if (masks.some((work) => work.id === id)) this.commit({ masks: masks.map(labelled) });
    else this.commit({ labels: { ...labels, [id]: label } });
  }

  /** The label of a mask; a fix without one has that of the mask it fixes. Null: none. */
  labelOf(id) {
    const { current, masks } = this.state;
    const work = current?.id === id ? current : masks.find((other) => other.id === id);
    return work ? this.#labelOfWork(work) : this.#labelOfPrefilled(id);
  }

  #labelOfWork({ label, replaces }) {
    return label ?? (replaces === null ? null : this.#labelOfPrefilled(replaces));
  }

  #labelOfPrefilled(id) {
    return this.state.labels[id] ?? this.#views.get(id)?.category_id ?? null;
  }

  addPoint(selectedId, point) {
    const work = this.workFor(selectedId);
    this.#event = this.log.note(work.id, { kind: "click", ...point });
    this.commit({ current: withPoint(work, point) });
  }

  /** Several clicks as one step. */
  addPoints(selectedId, points, event) {
    this.changePrompt(points.reduce((work, point) => withPoint(work, point), this.workFor(selectedId)), event);
  }

  removePoint(place) {
    const { current } = this;
    this.changePrompt(withoutPoint(current, place), { kind: "remove", ...current.points[place] });
  }

  movePoint(place, { x, y }) {
    const { current } = this;
    const { x: left, y: top, label } = current.points[place];
    this.changePrompt(withPointMoved(current, place, { x, y }), { kind: "move", x, y, label, path: [[left, top], [x, y]] });
  }

  setBox(selectedId, box) {
    const work = this.workFor(selectedId);
    this.#event = this.log.note(work.id, { kind: "box", box_xyxy: box });
    this.commit({ current: withBox(work, box) });
  }

  /** Removes the last click from the work and from its log. */
  forgetClick() {
    if (this.current) this.log.unnote(this.current.id);
    this.#event = null;
    this.history.forget();
    this.#settle();
  }

  /** Takes the model's answer; false if its prompt is no longer the current one. */
  takeAnswer(answer) {
    if (!this.current || keyOf(promptOf(this.current)) !== answer.key) return false;
    const current = withAnswer(this.current, answer);
    if (this.#event) this.#event.predicted_iou = clamped(iouOf(current));
    this.#event = null;
    this.history.amend({ ...this.state, current });
    return true;
  }

  chooseCandidate(candidate) {
    const { current } = this;
    if (!current?.answer?.masks[candidate] || candidate === current.candidate) return false;
    const next = withCandidate(current, candidate);
    this.log.note(current.id, { kind: "candidate", candidate, predicted_iou: clamped(iouOf(next)) });
    this.commit({ current: next });
    return true;
  }

  /** `event`: what is logged, of schema `Event`. */
  addStroke(work, stroke, isErasing, event) {
    this.log.note(work.id, event);
    this.commit({ current: withStroke(work, stroke, isErasing) });
  }

  /** Changes the prompt of the mask in progress as `event` says. */
  changePrompt(work, event) {
    this.#event = this.log.note(work.id, event);
    this.commit({ current: work });
  }

  /** Keeps a work's number from being given again, for one that is finished without having been in progress. */
  claim(work) {
    this.#number = Math.max(this.#number, work.number);
  }

  /** A work for one more mask of the image. */
  workOf(base) {
    this.#number += 1;
    return newWork(newId(), { number: this.#number, base });
  }

  /** Returns the finished work; null if its mask is empty. */
  finish() {
    const { current } = this;
    if (!current?.mask || current.mask.isEmpty) return null;
    this.commit({ current: null, masks: placed(this.state.masks, current) });
    return current;
  }

  drop() {
    if (this.current) this.commit({ current: null });
  }

  /** Rejects a pre-filled mask, or deletes an own one; if that was a fix, the fixed mask is rejected. */
  remove(id) {
    const { masks, rejected } = this.state;
    const own = masks.find((work) => work.id === id);
    const gone = own ? own.replaces : id;
    const isNew = gone !== null && !rejected.includes(gone);
    this.commit({
      masks: masks.filter((work) => work.id !== id),
      rejected: isNew ? [...rejected, gone] : rejected,
    });
  }

  restore(id) {
    this.commit({ rejected: this.state.rejected.filter((other) => other !== id) });
  }

  /** One step up (1) or down (-1) among one's own masks; false at the end. */
  move(id, step) {
    const masks = [...this.state.masks];
    const from = masks.findIndex((work) => work.id === id);
    const to = from + step;
    if (from < 0 || to < 0 || to >= masks.length) return false;
    [masks[from], masks[to]] = [masks[to], masks[from]];
    this.commit({ masks });
    return true;
  }

  undo() {
    return this.#travel("undo");
  }

  redo() {
    return this.#travel("redo");
  }

  #travel(kind) {
    const before = this.current;
    if (!this.history[kind]()) return false;
    const id = before?.id ?? this.current?.id;
    if (id && !isOnlyLabelled(before, this.current)) this.log.note(id, { kind });
    this.#event = null;
    this.#settle();
    return true;
  }

  /** Ids of pre-filled masks that a fix replaces. */
  get #replaced() {
    const works = [...this.state.masks, this.current];
    return new Set(works.map((work) => work?.replaces).filter(Boolean));
  }

  /** The finished masks, lowest first, without the one that is being edited. */
  items() {
    const replaced = this.#replaced;
    const rejected = new Set(this.state.rejected);
    const prefilled = this.prefilled
      .filter(({ id }) => !replaced.has(id) && !rejected.has(id))
      .map(({ id, mask, number }) => ({ id, mask, rgb: inTurn(PREFILLED_COLOURS, number) }));
    const own = this.state.masks
      .filter(({ id }) => id !== this.current?.id)
      .map(({ id, mask, number }) => ({ id, mask, rgb: inTurn(OWN_COLOURS, number) }));
    return [...prefilled, ...own];
  }

  /** The list, topmost first; rejected ones stay in their place, to be restored. */
  rows() {
    const replaced = this.#replaced;
    const rejected = new Set(this.state.rejected);
    const rows = this.prefilled
      .filter(({ id }) => !replaced.has(id) || rejected.has(id))
      .map((prefilled) => this.#prefilledRow(prefilled, rejected.has(prefilled.id)));
    const { masks, current } = this.state;
    for (const work of masks) if (work.id !== current?.id) rows.push(this.#ownRow(work, null));
    if (current?.mask) rows.push(this.#ownRow(current, t("in progress")));
    return rows.reverse();
  }

  #prefilledRow({ id, number, mask, iou, view }, isRejected) {
    const origin = view.model ?? view.annotator ?? words(view.source).toLowerCase();
    const note = isRejected ? t("rejected") : [scoreText(iou), origin].filter(Boolean).join(" · ");
    const isHidden = this.hiddenIds.has(id);
    const label = this.#labelOfPrefilled(id);
    const suggested = label === null ? (view.suggested ?? null) : null;
    return { id, label, suggested, title: t("Pre-filled {n}", { n: number }), note, mask, rgb: inTurn(PREFILLED_COLOURS, number), isHidden, isRejected, isPrefilled: true };
  }

  #ownRow(work, note) {
    const source = work.replaces === null ? t("yours") : t("your fix");
    const rgb = note ? CURRENT_COLOUR : inTurn(OWN_COLOURS, work.number);
    const text = note ?? [scoreText(trustedIouOf(work)), source].filter(Boolean).join(" · ");
    const isHidden = this.hiddenIds.has(work.id);
    const label = this.#labelOfWork(work);
    const suggested = label === null ? (this.#views.get(work.replaces)?.suggested ?? null) : null;
    return { id: work.id, label, suggested, title: t("Mask {n}", { n: work.number }), note: text, mask: work.mask, rgb, isHidden, isRejected: false, isPrefilled: false };
  }

  /** Topmost first: the finished masks at a pixel. */
  at(x, y) {
    const isUnder = ({ id, mask }) => {
      const [x0, y0, x1, y1] = mask.box;
      if (x < x0 || y < y0 || x >= x1 || y >= y1) return false;
      return !this.hiddenIds.has(id) && mask.has(x, y);
    };
    return this.items().filter(isUnder).reverse();
  }

  /** Schema `NewMask`. */
  newMask(work) {
    return {
      client_id: work.id,
      rle: work.mask.toRle(),
      ...this.log.report(work.id),
      predicted_iou: clamped(trustedIouOf(work)),
      replaces: work.replaces,
      ...(work.label === null ? {} : { category_id: work.label }),
    };
  }

  /** Schema `Submission`, without the lease. */
  submission() {
    const { masks, rejected } = this.state;
    const fixed = new Set(masks.map((work) => work.replaces));
    const isKept = (id) => !fixed.has(id) && !rejected.includes(id);
    const kept = Object.entries(this.state.labels).filter(([id]) => isKept(id));
    const labels = kept.map(([id, category]) => ({ mask_id: id, category_id: category }));
    this.log.tick();
    return {
      ...(labels.length ? { labels } : {}),
      masks: masks.map((work) => this.newMask(work)),
      rejected: rejected.filter((id) => !fixed.has(id)),
      seconds: Math.round(this.log.total * 100) / 100,
    };
  }

  /** Identifies the state: two drafts with the same stamp are of the same state. */
  get #stamp() {
    if (this.#stamped?.state !== this.state) this.#stamped = { state: this.state, stamp: newId() };
    return this.#stamped.stamp;
  }

  /** The submission of a draft, including the mask in progress: {masks, rejected, seconds}. */
  static submissionOf(draft) {
    const [width, height] = draft.size;
    const log = new WorkLog({ now: () => 0, isHidden: () => true }); // no time passes
    const session = new Session({ width, height, prefilled: [], log });
    session.fromDraft(draft);
    session.finish();
    return session.submission();
  }

  /** A draft of what was submitted before the task was reopened; null if it was not. */
  static draftOf({ former, image }) {
    if (!former) return null;
    const masks = former.masks.map(({ client_id: id, rle, replaces, seconds, trajectory, category_id: label = null }, at) => ({
      ...{ id, number: at + 1, replaces, label, base: rle.counts, points: [], box: null, former: null, candidate: 0 },
      log: { seconds, trajectory },
    }));
    const { rejected, seconds } = former;
    const labels = Object.fromEntries((former.labels ?? []).map(({ mask_id: id, category_id: category }) => [id, category]));
    const size = [image.width, image.height];
    return { format: FORMAT, stamp: newId(), size, number: masks.length, masks, current: null, rejected, labels, seconds };
  }

  toDraft() {
    const { masks, rejected, current, labels } = this.state;
    const saved = (work, isFinished) => ({ ...workToJson(work, isFinished), log: this.log.report(work.id) });
    return {
      format: FORMAT,
      stamp: this.#stamp,
      size: [this.width, this.height],
      number: this.#number,
      masks: masks.map((work) => saved(work, true)),
      current: current ? saved(current, false) : null,
      rejected,
      labels,
      nextLabel: this.nextLabel,
      seconds: this.log.total,
    };
  }

  /** The steps around a draft's state, and the logs of masks that only these steps have. */
  toPast() {
    const { around } = this.history;
    const known = idsIn([this.state]);
    const ids = [...idsIn([...around.before, ...around.after])].filter((id) => !known.has(id));
    const logs = Object.fromEntries(ids.map((id) => [id, this.log.report(id)]));
    return { ...pastToJson(around, this.state.masks), logs };
  }

  /** Restores a draft, and its undo steps if it has `past`; throws if its format is unknown. */
  fromDraft(draft) {
    if (draft.format !== FORMAT) throw new Error(`draft of unknown format ${draft.format}`);
    const read = (json) => workFromJson(json, [this.width, this.height]);
    const state = {
      masks: draft.masks.map(read),
      rejected: draft.rejected,
      labels: draft.labels ?? {},
      current: draft.current ? read(draft.current) : null,
    };
    for (const json of [...draft.masks, draft.current]) if (json) this.log.restore(json.id, json.log);
    this.#number = draft.number;
    this.nextLabel = draft.nextLabel ?? this.nextLabel;
    this.log.total = draft.seconds;
    this.history = new History(state, this.#readPast(draft.past, state.masks));
    this.#settle();
  }

  #readPast(past, present) {
    if (!past) return {};
    for (const [id, log] of Object.entries(past.logs)) this.log.restore(id, log);
    return pastFromJson(past, present, [this.width, this.height]);
  }
}

/** Whether a step between two works changed nothing but the label, which is no event of a trajectory. */
function isOnlyLabelled(before, after) {
  return before !== null && after !== null && before.id === after.id && before.mask === after.mask && before.label !== after.label;
}

function inTurn(colours, number) {
  return colours[number % colours.length];
}

function scoreText(iou) {
  return iou === null || iou === undefined ? "" : t("IoU {iou}", { iou: decimal(iou, 2) });
}
