// Connected pieces of masks, holes, and a smoother outline.

import { addRun, forEachPiece, Mask, unionOf } from "./rle.js";

/** The connected pieces, the largest first. `isDiagonal`: pixels that touch at a corner are connected.
 * @param {Mask} mask
 * @returns {Mask[]} */
export function pieces(mask, isDiagonal = true) {
  const { height } = mask;
  const runs = [];
  const parents = [];
  const rootOf = (i) => {
    while (parents[i] !== i) i = parents[i] = parents[parents[i]];
    return i;
  };
  const reach = isDiagonal ? 1 : 0;
  let before = 0; // the first run of the column to the left
  let first = 0; // of this column
  forEachPiece(mask.edges, height, (x, y0, y1) => {
    const here = runs.length;
    if (here && runs[here - 1].x !== x) {
      before = runs[here - 1].x === x - 1 ? first : here;
      first = here;
    }
    runs.push({ x, y0, y1 });
    parents.push(here);
    while (before < first && runs[before].y1 + reach <= y0) before += 1;
    for (let i = before; i < first && runs[i].y0 < y1 + reach; i += 1) parents[rootOf(here)] = rootOf(i);
  });
  const groups = new Map();
  runs.forEach(({ x, y0, y1 }, i) => {
    const root = rootOf(i);
    if (!groups.has(root)) groups.set(root, []);
    addRun(groups.get(root), x * height + y0, x * height + y1);
  });
  const found = [...groups.values()].map((edges) => new Mask(mask.width, height, Uint32Array.from(edges)));
  return found.sort((a, b) => b.area - a.area);
}

/** The holes: pieces of the outside that do not reach the image's border.
 * @param {Mask} mask */
export function holes(mask) {
  const { width, height } = mask;
  const all = new Mask(width, height, Uint32Array.of(0, width * height));
  return pieces(all.minus(mask), false).filter(({ box: [x0, y0, x1, y1] }) => x0 > 0 && y0 > 0 && x1 < width && y1 < height);
}

/** @param {Mask} mask */
export function withoutHoles(mask) {
  return unionOf([mask, ...holes(mask)]);
}

/** Without pieces of fewer than `least` pixels; the largest piece stays.
 * @param {Mask} mask
 * @param {number} least */
export function withoutSpecks(mask, least) {
  const small = pieces(mask).slice(1).filter((piece) => piece.area < least);
  return small.length ? mask.minus(unionOf(small)) : mask;
}

/** With a smoother outline: pixels of whose neighbourhood, a round window of about `radius` pixels, at
 * least half is set. Parts thinner than the radius disappear. Beyond the image's border its pixels repeat.
 * @param {Mask} mask
 * @param {number} radius */
export function smoothed(mask, radius) {
  if (mask.isEmpty) return mask;
  const reach = 2 * radius + 1;
  const [x0, y0, x1, y1] = mask.box;
  /** @type {import("./rle.js").Box} */
  const box = [Math.max(0, x0 - reach), Math.max(0, y0 - reach), Math.min(mask.width, x1 + reach), Math.min(mask.height, y1 + reach)];
  const [columns, rows] = [box[2] - box[0], box[3] - box[1]];
  let values = new Float32Array(columns * rows);
  forEachPiece(mask.edges, mask.height, (x, from, to) => {
    const top = (x - box[0]) * rows - box[1];
    values.fill(1, top + from, top + to);
  });
  for (let pass = 0; pass < 2; pass += 1) {
    values = mean(values, columns, rows, rows, 1, radius);
    values = mean(values, rows, columns, 1, rows, radius);
  }
  return thresholded(values, box, mask);
}

/** The mean of the 2 * radius + 1 values around each, along lines of `length` values `step` apart; the
 * `lines` begin `aside` apart. */
function mean(values, lines, length, aside, step, radius) {
  const out = new Float32Array(values.length);
  const last = (length - 1) * step;
  const inside = (offset) => Math.min(last, Math.max(0, offset));
  for (let line = 0; line < lines; line += 1) {
    const start = line * aside;
    let sum = 0;
    for (let i = -radius; i <= radius; i += 1) sum += values[start + inside(i * step)];
    for (let i = 0; i < length; i += 1) {
      out[start + i * step] = sum / (2 * radius + 1);
      sum += values[start + inside((i + radius + 1) * step)] - values[start + inside((i - radius) * step)];
    }
  }
  return out;
}

const HALF = 0.5 - 1e-4; // sums of rounded numbers

function thresholded(values, [x0, y0, x1, y1], { width, height }) {
  const edges = [];
  let i = 0;
  for (let x = x0; x < x1; x += 1) {
    let begin = -1;
    for (let y = y0; y < y1; y += 1, i += 1) {
      const isSet = values[i] >= HALF;
      if (isSet && begin < 0) begin = y;
      if (isSet || begin < 0) continue;
      addRun(edges, x * height + begin, x * height + y);
      begin = -1;
    }
    if (begin >= 0) addRun(edges, x * height + begin, x * height + y1);
  }
  return new Mask(width, height, Uint32Array.from(edges));
}
