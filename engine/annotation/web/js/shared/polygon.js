// The pixels inside a closed line.

import { addRun, Mask } from "./rle.js";

/** Pixels whose centre is inside the polygon; what a line that crosses itself encloses counts as inside
 * wherever it winds around (the nonzero rule). The part outside the image is left out.
 * @param {number} width
 * @param {number} height
 * @param {number[][]} points corners [x, y] in image pixels with fractions */
export function polygon(width, height, points) {
  const columns = crossings(width, points);
  const edges = [];
  for (const x of [...columns.keys()].sort((a, b) => a - b)) {
    const cuts = columns.get(x).sort((a, b) => a.y - b.y);
    let winding = 0;
    cuts.forEach(({ y, turn }, i) => {
      winding += turn;
      if (winding !== 0) addRun(edges, x * height + row(y, height), x * height + row(cuts[i + 1].y, height));
    });
  }
  return new Mask(width, height, Uint32Array.from(edges));
}

/** Where the polygon's sides cut the middle of each column, and from which side. */
function crossings(width, points) {
  const columns = new Map();
  points.forEach(([ax, ay], i) => {
    const [bx, by] = points[(i + 1) % points.length];
    const first = Math.max(0, Math.ceil(Math.min(ax, bx) - 0.5));
    const end = Math.min(width, Math.ceil(Math.max(ax, bx) - 0.5));
    for (let x = first; x < end; x += 1) {
      const y = ay + ((x + 0.5 - ax) / (bx - ax)) * (by - ay);
      if (!columns.has(x)) columns.set(x, []);
      columns.get(x).push({ y, turn: ax < bx ? 1 : -1 });
    }
  });
  return columns;
}

/** The first row whose middle is not above a place. */
function row(y, height) {
  return Math.min(height, Math.max(0, Math.ceil(y - 0.5)));
}
