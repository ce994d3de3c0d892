// Operations on whole masks. Each is one step of a session that can be undone.

import { placed, withMask } from "./work.js";
import { addRun, forEachPiece, Mask, unionOf } from "../shared/rle.js";
import { pieces } from "../shared/regions.js";

/** @typedef {import("./session.js").Session} Session
 * @typedef {import("./work.js").Work} Work */

/** Gives a work this mask; it is then in progress. False if it has that already, or would be empty.
 * @param {Session} session
 * @param {Work} work
 * @param {Mask} target
 * @param {object} event what is logged, of schema `Event` */
export function reshape(session, work, target, event) {
  if (target.isEmpty || target.counts === work.mask?.counts) return false;
  session.log.note(work.id, event);
  session.commit({ current: withMask(work, target) });
  return true;
}

/** The work's mask without the pixels of the other masks that are shown.
 * @param {Session} session
 * @param {Work} work */
export function withoutOthers(session, work) {
  const others = session.items().filter(({ id }) => ![work.id, work.replaces].includes(id) && !session.hiddenIds.has(id));
  return others.length ? work.mask.minus(unionOf(others.map(({ mask }) => mask))) : work.mask;
}

/** Makes a finished mask of each connected piece; the largest one stays this work. Returns their ids,
 * none if the mask is in one piece.
 * @param {Session} session
 * @param {Work} work
 * @returns {string[]} */
export function split(session, work) {
  const [largest, ...others] = pieces(work.mask);
  if (!others.length) return [];
  session.claim(work);
  const works = [withMask(work, largest), ...others.map((piece) => session.workOf(piece))];
  for (const { id } of works) session.log.note(id, { kind: "split" });
  session.commit({ current: null, masks: works.reduce(placed, session.state.masks) });
  return works.map(({ id }) => id);
}

/** Adds another mask to the work's, which is then finished, and removes the other one. A pre-filled mask
 * is replaced by the work if that replaces none yet, else rejected.
 * @param {Session} session
 * @param {Work} work
 * @param {string} id of the other mask */
export function merge(session, work, id) {
  const { masks, rejected } = session.state;
  const own = masks.find((other) => other.id === id);
  const mask = own?.mask ?? session.prefilled.find((other) => other.id === id).mask;
  const gone = own ? own.replaces : id;
  const merged = withMask(work, work.mask ? work.mask.union(mask) : mask);
  session.claim(work);
  session.log.note(work.id, { kind: "merge" });
  session.commit({
    current: null,
    masks: placed(masks.filter((other) => other.id !== id), work.replaces === null ? { ...merged, replaces: gone } : merged),
    rejected: gone !== null && work.replaces !== null && !rejected.includes(gone) ? [...rejected, gone] : rejected,
  });
}

/** Adds a finished mask; returns its id.
 * @param {Session} session
 * @param {Mask} mask */
export function paste(session, mask) {
  const work = session.workOf(mask);
  session.log.note(work.id, { kind: "paste" });
  session.commit({ masks: [...session.state.masks, work] });
  return work.id;
}

/** A mask of another image at the same place of this one, cut at its border.
 * @param {Mask} mask
 * @param {number[]} size width and height */
export function moved(mask, [width, height]) {
  const edges = [];
  forEachPiece(mask.edges, mask.height, (x, y0, y1) => {
    if (x < width) addRun(edges, x * height + y0, x * height + Math.min(y1, height));
  });
  return new Mask(width, height, Uint32Array.from(edges));
}
