// What lies under the work: the image and the finished masks. While they stay in place, as during a stroke, they are
// copied from the frame before; while they move, what was seen before is moved, and only the strips that come into
// sight are painted. Either costs as much as the window has pixels, however large the image is.

const PHASE = 1e-3; // of a canvas pixel: moves by whole pixels are exact

/** The strips of a canvas that come into sight when what is on it moves by whole pixels: [x, y, width, height].
 * @param {number} dx
 * @param {number} dy
 * @param {number} width
 * @param {number} height
 * @returns {number[][]} */
export function strips(dx, dy, width, height) {
  const beside = [dx > 0 ? 0 : width + dx, 0, Math.abs(dx), height];
  const along = [Math.max(0, dx), dy > 0 ? 0 : height + dy, width - Math.abs(dx), Math.abs(dy)];
  return [beside, along].filter(([, , wide, high]) => wide > 0 && high > 0);
}

/** The whole pixels between two places; null if they are no whole pixels, or as far as the canvas is large.
 * @param {number[]} from
 * @param {number[]} to
 * @param {number[]} size width and height
 * @returns {number[] | null} */
export function moveBetween(from, to, size) {
  const moved = to.map((value, i) => Math.round(value - from[i]));
  const isWhole = moved.every((value, i) => Math.abs(to[i] - from[i] - value) < PHASE);
  return isWhole && moved.every((value, i) => Math.abs(value) < size[i]) ? moved : null;
}

export class Ground {
  /** @type {unknown[]} */
  #key = [];
  /** @type {number[]} */
  #place = [0, 0];
  #isKept = false; // the copy shows the frame before
  #copy = document.createElement("canvas");

  /** `place`: of the image's corner, in canvas pixels; `key`: all else that decides what is painted; `paint()` paints
   * it with any transform, within the context's clip.
   * @param {CanvasRenderingContext2D} context
   * @param {number[]} place
   * @param {unknown[]} key
   * @param {() => void} paint */
  draw(context, place, key, paint) {
    const { width, height } = context.canvas;
    const isSame = key.length === this.#key.length && key.every((value, i) => value === this.#key[i]);
    const moved = isSame ? moveBetween(this.#place, place, [width, height]) : null;
    if (moved && this.#isKept) this.#move(context, moved, paint);
    else paint();
    this.#key = key;
    this.#place = place;
    const isStill = moved !== null && moved[0] === 0 && moved[1] === 0;
    if (moved && !(isStill && this.#isKept)) this.#keep(context.canvas); // the second time: it may stay so
    this.#isKept = moved !== null;
  }

  /** @param {CanvasRenderingContext2D} context
   * @param {number[]} moved
   * @param {() => void} paint */
  #move(context, [dx, dy], paint) {
    const { width, height } = context.canvas;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.drawImage(this.#copy, dx, dy);
    for (const [left, top, wide, high] of strips(dx, dy, width, height)) {
      context.save();
      context.setTransform(1, 0, 0, 1, 0, 0);
      context.beginPath();
      context.rect(left, top, wide, high);
      context.clip();
      paint();
      context.restore();
    }
  }

  #keep(canvas) {
    const copy = this.#copy;
    if (copy.width !== canvas.width) copy.width = canvas.width;
    if (copy.height !== canvas.height) copy.height = canvas.height;
    copy.getContext("2d", { alpha: false }).drawImage(canvas, 0, 0);
  }
}
