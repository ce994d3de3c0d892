// Masks as plain bitmaps: what the run lengths are compared with.

import { Mask } from "../../engine/annotation/web/js/shared/rle.js";

/** The same numbers each time: mulberry32. */
export function randomOf(seed) {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4_294_967_296;
  };
}

/** A mask of the pixels for which `isSet(x, y)`. */
export function maskWhere(width, height, isSet) {
  const edges = [];
  let isInside = false;
  for (let p = 0; p < width * height; p += 1) {
    const isNow = Boolean(isSet(Math.floor(p / height), p % height));
    if (isNow !== isInside) edges.push(p);
    isInside = isNow;
  }
  if (isInside) edges.push(width * height);
  return new Mask(width, height, Uint32Array.from(edges));
}

export function square(width, height, x0, y0, x1, y1) {
  return maskWhere(width, height, (x, y) => x >= x0 && x < x1 && y >= y0 && y < y1);
}

/** Rows of "#" and ".", from the mask's own word about each pixel. */
export function rowsOf(mask) {
  const row = (y) => Array.from({ length: mask.width }, (_, x) => (mask.has(x, y) ? "#" : ".")).join("");
  return Array.from({ length: mask.height }, (_, y) => row(y));
}
