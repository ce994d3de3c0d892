// One copied mask, which this tab keeps for later images.

import { Mask } from "../shared/rle.js";

const STORE = "dataengine.copied";
let latest = null; // JSON, where the browser has no storage

/** @param {Mask} mask */
export function copy(mask) {
  latest = JSON.stringify(mask.toRle());
  try {
    sessionStorage.setItem(STORE, latest);
  } catch {
    // no storage, or it is full: the copy holds until the page is left
  }
}

/** The copied mask, of the size of its own image; null without one.
 * @returns {Mask | null} */
export function copied() {
  try {
    latest ??= sessionStorage.getItem(STORE);
    return latest ? Mask.fromRle(JSON.parse(latest)) : null;
  } catch {
    return null;
  }
}
