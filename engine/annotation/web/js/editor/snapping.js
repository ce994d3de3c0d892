// Corners of outlines snap to edges of the picture as it is shown: to the strongest change of brightness within a
// few pixels of the screen. Where there is none, they stay.

const REACH_PX = 9; // on the screen
const LEAST = 12; // of 255: a weaker change from one value to the next is no edge
const TIMES = 2.5; // the mean change around it: an edge stands out

/** The strongest edge around the middle of a square of values, row by row; null if none stands out. Places are
 * in values with fractions: the first one reaches from 0 to 1.
 * @param {ArrayLike<number>} values 0 to 255
 * @param {number} side values along a row; odd
 * @returns {number[] | null} [x, y] */
export function strongestEdge(values, side) {
  const slope = (x, y) => {
    const at = (dx, dy) => values[(y + dy) * side + x + dx];
    const across = at(1, -1) + 2 * at(1, 0) + at(1, 1) - at(-1, -1) - 2 * at(-1, 0) - at(-1, 1);
    const down = at(-1, 1) + 2 * at(0, 1) + at(1, 1) - at(-1, -1) - 2 * at(0, -1) - at(1, -1);
    return [across / 8, down / 8];
  };
  const middle = (side - 1) / 2;
  const reach = middle - 1; // the outermost values have no slope
  let best = { x: 0, y: 0, across: 0, down: 0, strength: 0, score: -1 };
  let [sum, count] = [0, 0];
  for (let y = 1; y < side - 1; y += 1) {
    for (let x = 1; x < side - 1; x += 1) {
      const away = Math.hypot(x - middle, y - middle);
      if (away > reach) continue;
      const [across, down] = slope(x, y);
      const strength = Math.hypot(across, down);
      sum += strength;
      count += 1;
      const score = strength * (1 - 0.5 * (away / (reach + 1)) ** 2); // of equal ones the nearest
      if (score > best.score) best = { x, y, across, down, strength, score };
    }
  }
  if (2 * best.strength < LEAST || best.strength < (TIMES * sum) / count) return null;
  return refined(best, slope, side);
}

/** The place between values: the top of a parabola through the strengths on both sides of the edge. */
function refined({ x, y, across, down, strength }, slope, side) {
  const isUpright = Math.abs(across) >= Math.abs(down);
  const [dx, dy] = isUpright ? [1, 0] : [0, 1];
  const isInside = (value) => value >= 1 && value < side - 1;
  const at = (step) => {
    const [left, top] = [x + step * dx, y + step * dy];
    return isInside(left) && isInside(top) ? Math.hypot(...slope(left, top)) : strength;
  };
  const [before, after] = [at(-1), at(1)];
  const bend = before - 2 * strength + after;
  const shift = bend < 0 ? Math.max(-0.5, Math.min(0.5, (before - after) / (2 * bend))) : 0;
  return [x + 0.5 + shift * dx, y + 0.5 + shift * dy];
}

/** Brightness of a square of pixels, 0 to 255. Beyond `inside`, [x0, y0, x1, y1], its outermost ones repeat: the
 * picture's border is no edge.
 * @param {ArrayLike<number>} data red, green, blue and alpha of each
 * @param {number} side
 * @param {number[]} inside */
export function brightness(data, side, [x0, y0, x1, y1]) {
  const nearest = (value, least, end) => Math.min(end - 1, Math.max(least, value));
  return Float32Array.from({ length: side * side }, (_, i) => {
    const at = 4 * (nearest(Math.floor(i / side), y0, y1) * side + nearest(i % side, x0, x1));
    return 0.299 * data[at] + 0.587 * data[at + 1] + 0.114 * data[at + 2];
  });
}

export class Snapping {
  #isHeld = false; // the key that switches it off
  #context = document.createElement("canvas").getContext("2d", { willReadFrequently: true });

  constructor(editor) {
    this.editor = editor;
    const note = (event) => (this.#isHeld = event.ctrlKey || event.metaKey);
    const options = { capture: true, signal: editor.abort.signal };
    for (const name of ["pointerdown", "pointermove"]) editor.parts.canvas.addEventListener(name, note, options);
  }

  get isOn() {
    return this.editor.viewPanel.view.hasSnap && !this.#isHeld;
  }

  /** The edge near an image point; the point itself if there is none, or while this is off.
   * @param {number[]} point
   * @returns {number[]} */
  at(point) {
    if (!this.isOn) return point;
    const { viewport, adjusted, size } = this.editor;
    const step = Math.max(1, 1 / viewport.density); // image pixels of a value: not finer than the screen
    const reach = Math.min(24, Math.max(2, Math.ceil(REACH_PX / viewport.scale / step)));
    const side = 2 * reach + 3;
    const [left, top] = point.map((value) => (Math.floor(value / step) - reach - 1) * step);
    const within = (value) => Math.min(side, Math.max(0, Math.round(value / step)));
    const inside = [-left, -top, size[0] - left, size[1] - top].map(within);
    if (inside[0] >= inside[2] || inside[1] >= inside[3]) return point;
    const edge = strongestEdge(brightness(this.#pixels(adjusted, [left, top], step, side), side, inside), side);
    if (!edge) return point;
    return edge.map((value, i) => Math.min(size[i], Math.max(0, [left, top][i] + value * step)));
  }

  /** The picture from an image point on, reduced `step` times, as it is shown. Beyond the image it is transparent. */
  #pixels(adjusted, [left, top], step, side) {
    const { viewport } = this.editor;
    const context = this.#context;
    if (context.canvas.width !== side) context.canvas.width = context.canvas.height = side;
    context.setTransform(1 / step, 0, 0, 1 / step, -left / step, -top / step);
    context.clearRect(left, top, side * step, side * step);
    context.imageSmoothingEnabled = true;
    const bitmap = adjusted.at(viewport.density);
    if (bitmap && !adjusted.isCovered(viewport)) context.drawImage(bitmap, 0, 0, viewport.imageWidth, viewport.imageHeight);
    for (const { bitmap: tile, box } of adjusted.tilesSeen(viewport)) context.drawImage(tile, box[0], box[1], box[2] - box[0], box[3] - box[1]);
    return context.getImageData(0, 0, side, side).data;
  }
}
