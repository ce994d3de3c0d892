// What helps to judge sizes and places: a grid, a ruler, and a map of a large image.

import { decimal } from "../shared/format.js";
import { t } from "../shared/strings.js";

const STEPS = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000];
const LINE_PX = 60; // on the screen, at least, between two lines of the grid
const MAP_PX = 160; // the longer side of the map
const MAP_FROM = 1.6; // how much larger than the window the image is when the map appears

/** Image pixels between two lines of the grid, at `scale` screen pixels per image pixel. */
export function gridStep(scale) {
  return STEPS.find((step) => step * scale >= LINE_PX) ?? STEPS.at(-1);
}

/** Lines every so many image pixels, labelled at the upper and left border. In screen pixels. */
export function drawGrid(context, viewport) {
  const step = gridStep(viewport.scale);
  const [x0, y0, x1, y1] = viewport.seen;
  const [left, top] = viewport.fromImage(x0, y0);
  const [right, bottom] = viewport.fromImage(x1, y1);
  context.lineWidth = 1;
  context.strokeStyle = "rgb(255 255 255 / 0.3)";
  context.beginPath();
  const labels = [];
  for (let x = Math.ceil(x0 / step) * step; x <= x1; x += step) {
    const at = viewport.fromImage(x, 0)[0];
    context.moveTo(at, top);
    context.lineTo(at, bottom);
    labels.push([String(x), at + 3, top + 11]);
  }
  for (let y = Math.ceil(y0 / step) * step; y <= y1; y += step) {
    const at = viewport.fromImage(0, y)[1];
    context.moveTo(left, at);
    context.lineTo(right, at);
    if (y > y0 + step / 3) labels.push([String(y), left + 3, at - 3]);
  }
  context.stroke();
  context.font = "11px sans-serif";
  for (const [text, x, y] of labels) written(context, text, x, y);
}

/** @param {string} text with a dark seam, so that it is read on any image */
export function written(context, text, x, y) {
  context.lineWidth = 3;
  context.strokeStyle = "rgb(0 0 0 / 0.7)";
  context.strokeText(text, x, y);
  context.fillStyle = "#fff";
  context.fillText(text, x, y);
}

/** Where the map lies on the canvas, [x, y, width, height]; null while the whole image nearly fits. */
export function mapBox(viewport) {
  const { imageWidth, imageHeight, scale, width, height } = viewport;
  if (Math.max((imageWidth * scale) / width, (imageHeight * scale) / height) < MAP_FROM) return null;
  const share = MAP_PX / Math.max(imageWidth, imageHeight);
  const [mapWidth, mapHeight] = [imageWidth * share, imageHeight * share];
  return [width - mapWidth - 12, 40, mapWidth, mapHeight];
}

const small = new WeakMap(); // a bitmap's copy at the size of the map: a large one takes long to draw

function copyOf(bitmap, width, height) {
  let copy = small.get(bitmap);
  if (!copy) {
    copy = document.createElement("canvas");
    [copy.width, copy.height] = [Math.ceil(width), Math.ceil(height)];
    const context = copy.getContext("2d");
    context.imageSmoothingQuality = "high";
    context.drawImage(bitmap, 0, 0, copy.width, copy.height);
    small.set(bitmap, copy);
  }
  return copy;
}

/** The image in small with the visible part framed. `bitmap`: the picture, or null. */
export function drawMap(context, viewport, bitmap) {
  const box = mapBox(viewport);
  if (!box) return;
  const [x, y, width, height] = box;
  context.fillStyle = "#1a1e25";
  context.fillRect(x, y, width, height);
  if (bitmap) context.drawImage(copyOf(bitmap, width, height), x, y, width, height);
  context.lineWidth = 1;
  context.strokeStyle = "#a3adbb";
  context.strokeRect(x - 0.5, y - 0.5, width + 1, height + 1);
  const share = width / viewport.imageWidth;
  const [x0, y0, x1, y1] = viewport.seen;
  context.lineWidth = 2;
  context.strokeStyle = "#ffb020";
  context.strokeRect(x + x0 * share, y + y0 * share, Math.max(2, (x1 - x0) * share), Math.max(2, (y1 - y0) * share));
}

/** The image point under a canvas point on the map; null beside it. */
export function pointOnMap(viewport, x, y) {
  const box = mapBox(viewport);
  if (!box) return null;
  const [left, top, width, height] = box;
  if (x < left || y < top || x > left + width || y > top + height) return null;
  return [((x - left) / width) * viewport.imageWidth, ((y - top) / height) * viewport.imageHeight];
}

/** The ruler: a drag measures, and the line stays until the next one. */
export class Ruler {
  #ends = null; // two points of the image
  #isDown = false;

  constructor(editor) {
    this.editor = editor;
  }

  start(point) {
    this.#ends = [point, point];
    this.#isDown = true;
    this.editor.frames.request();
  }

  to(point) {
    if (this.#isDown) this.#ends = [this.#ends[0], point];
    this.editor.frames.request();
  }

  end() {
    this.#isDown = false;
    if (this.length >= 1) this.editor.announce(t("{length} pixels.", { length: decimal(this.length) }));
  }

  drop() {
    const had = this.#ends !== null;
    this.#ends = null;
    this.#isDown = false;
    this.editor.frames.request();
    return had;
  }

  /** In image pixels; 0 without a line. */
  get length() {
    if (!this.#ends) return 0;
    const [[x0, y0], [x1, y1]] = this.#ends;
    return Math.hypot(x1 - x0, y1 - y0);
  }

  paint(context, viewport) {
    if (!this.#ends) return;
    const [a, b] = this.#ends.map(([x, y]) => viewport.fromImage(x, y));
    for (const [width, style] of /** @type {[number, string][]} */ ([[4, "rgb(0 0 0 / 0.6)"], [2, "#fff"]])) {
      context.beginPath();
      context.moveTo(...a);
      context.lineTo(...b);
      context.lineWidth = width;
      context.strokeStyle = style;
      context.stroke();
    }
    const [[x0, y0], [x1, y1]] = this.#ends;
    const [width, height] = [Math.abs(x1 - x0).toFixed(0), Math.abs(y1 - y0).toFixed(0)];
    const text = t("{length} px  ({width} × {height})", { length: decimal(this.length), width, height });
    context.font = "13px sans-serif";
    written(context, text, b[0] + 10, b[1] - 8);
  }
}
