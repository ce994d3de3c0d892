// A magnifier near the pointer, while something is drawn or a click is dragged. It is a second, small scene on the
// same view, so what is drawn looks there as it does on the image.

import { forEachPiece, addRun, Mask } from "../shared/rle.js";
import { Scene } from "./scene.js";

const SIDE = 168; // screen pixels
const FACTOR = 4; // larger than the image is shown
const MOST = 64; // screen pixels of one image pixel
const AWAY = 28; // from the pointer
const SPARE = 4; // image pixels of a mask beyond what is seen, so that no outline is drawn where it is cut

/** The left upper corner of the magnifier: to the right above the pointer, else where it fits.
 * @param {number[]} pointer screen pixels
 * @param {number[]} size of the window, width and height
 * @returns {number[]} */
export function cornerFor([x, y], [width, height]) {
  const left = x + AWAY + SIDE <= width ? x + AWAY : x - AWAY - SIDE;
  const top = y - AWAY - SIDE >= 0 ? y - AWAY - SIDE : y + AWAY;
  return [Math.max(0, Math.min(left, width - SIDE)), Math.max(0, Math.min(top, height - SIDE))];
}

/** The part of a mask in a box, [x0, y0, x1, y1] in image pixels.
 * @param {Mask} mask
 * @param {number[]} box
 * @returns {Mask} */
export function within(mask, [x0, y0, x1, y1]) {
  const { edges, height, width } = mask;
  const first = Math.max(0, placeOf(edges, x0 * height) & ~1);
  const end = Math.min(edges.length, (placeOf(edges, x1 * height) + 1) & ~1);
  const kept = [];
  forEachPiece(edges.subarray(first, end), height, (x, from, to) => {
    if (x >= x0 && x < x1) addRun(kept, x * height + Math.max(from, y0), x * height + Math.min(to, y1));
  });
  return new Mask(width, height, Uint32Array.from(kept));
}

/** How many entries are at most `p`. */
function placeOf(edges, p) {
  let low = 0;
  let high = edges.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (edges[middle] <= p) low = middle + 1;
    else high = middle;
  }
  return low;
}

/** The image as it lies in the magnifier; it has what a scene uses of a Viewport. */
class Lens {
  /** @param {import("./viewport.js").Viewport} viewport
   * @param {number[]} place the image point in the middle */
  look(viewport, [x, y]) {
    this.scale = Math.min(Math.max(MOST, viewport.scale), viewport.scale * FACTOR);
    this.ratio = viewport.ratio;
    this.imageWidth = viewport.imageWidth;
    this.imageHeight = viewport.imageHeight;
    this.x = SIDE / 2 - x * this.scale;
    this.y = SIDE / 2 - y * this.scale;
  }

  get density() {
    return this.scale * this.ratio;
  }

  get seen() {
    const [x0, y0] = [-this.x / this.scale, -this.y / this.scale];
    const side = SIDE / this.scale;
    return [Math.max(0, x0), Math.max(0, y0), Math.min(this.imageWidth, x0 + side), Math.min(this.imageHeight, y0 + side)];
  }

  fromImage(x, y) {
    return [this.x + x * this.scale, this.y + y * this.scale];
  }

  apply(context) {
    context.setTransform(this.density, 0, 0, this.density, this.x * this.ratio, this.y * this.ratio);
  }
}

export class Loupe {
  #canvas = document.createElement("canvas");
  #lens = new Lens();
  #scene = new Scene(this.#canvas, this.#lens);

  /** Draws it beside an image point. `view`: as for a scene, which has been drawn.
   * @param {CanvasRenderingContext2D} context
   * @param {import("./viewport.js").Viewport} viewport
   * @param {number[]} place
   * @param {object} view */
  draw(context, viewport, place, view) {
    const lens = this.#lens;
    lens.look(viewport, place);
    const side = Math.round(SIDE * viewport.ratio);
    if (this.#canvas.width !== side) this.#canvas.width = this.#canvas.height = side;
    const [x0, y0, x1, y1] = lens.seen;
    const box = [Math.floor(x0) - SPARE, Math.floor(y0) - SPARE, Math.ceil(x1) + SPARE, Math.ceil(y1) + SPARE].map((value) => Math.max(0, value));
    const part = (mask) => (mask ? within(mask, box) : null);
    const { picture, current, selected } = view;
    this.#scene.draw({
      ...view,
      // the tiles that the window shows: others would be requested, and the window's dropped for them
      picture: {
        at: (density) => picture.at(density),
        tilesSeen: () => picture.tilesSeen(viewport),
        isCovered: () => picture.isCovered(viewport),
      },
      view: { ...view.view, hasGrid: false, hasMap: false },
      current: current && { ...current, mask: part(current.mask), live: undefined },
      selected: selected && { ...selected, mask: part(selected.mask) },
      ghost: part(view.ghost),
      preview: null,
      cursor: null,
    });
    this.#frame(context, viewport, place);
  }

  #frame(context, viewport, place) {
    const [left, top] = cornerFor(viewport.fromImage(...place), [viewport.width, viewport.height]);
    const [x, y] = [left + SIDE / 2, top + SIDE / 2];
    context.save();
    context.setTransform(viewport.ratio, 0, 0, viewport.ratio, 0, 0);
    const circle = (radius) => {
      context.beginPath();
      context.arc(x, y, radius, 0, 2 * Math.PI);
    };
    context.save();
    circle(SIDE / 2);
    context.clip();
    context.drawImage(this.#canvas, left, top, SIDE, SIDE);
    context.restore();
    for (const [width, style] of /** @type {[number, string][]} */ ([[4, "rgb(0 0 0 / 0.6)"], [1.5, "#fff"]])) {
      context.lineWidth = width;
      context.strokeStyle = style;
      circle(SIDE / 2 - 1);
      context.stroke();
      context.beginPath(); // the place itself stays in sight
      for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
        context.moveTo(x + dx * 5, y + dy * 5);
        context.lineTo(x + dx * 12, y + dy * 12);
      }
      context.stroke();
    }
    context.restore();
  }
}
