// Masks as pixels to be drawn. All finished masks share one bitmap in the image's own
// frame, so that moving and zooming cost one drawImage, for ten masks or thousands. A
// change repaints only the box of what changed. Painting is plain writes into a buffer, in z-order.

import { difference, forEachPiece, shifted } from "../shared/rle.js";

const MAX_PIXELS = 8e6; // of the bitmap; masks of larger images are painted smaller
const MAX_PATCHES = 12; // more boxes than this are repainted as one

/** A colour as a little-endian RGBA pixel. */
export const pixel = ([r, g, b], alpha) => ((Math.round(alpha * 255) << 24) | (b << 16) | (g << 8) | r) >>> 0;

/** Writes `value` where the mask is. `target`: {pixels, width, height}, which shows the image at
 * `scale` from (x, y) of the scaled image on; nothing is written outside `clip`. */
export function paint(target, mask, value, scale, x, y, clip) {
  const { pixels, width } = target;
  const [left, top, right, bottom] = clip;
  forEachPiece(mask.edges, mask.height, (column, y0, y1) => {
    const first = Math.max(left, Math.ceil(column * scale - 0.5) - x);
    const last = Math.min(right, Math.ceil((column + 1) * scale - 0.5) - x);
    if (first >= last) return;
    const begin = Math.max(top, Math.ceil(y0 * scale - 0.5) - y);
    const end = Math.min(bottom, Math.ceil(y1 * scale - 0.5) - y);
    for (let at = first; at < last; at += 1) {
      for (let p = begin * width + at, stop = end * width; p < stop; p += width) pixels[p] = value;
    }
  });
}

export function bitmap(width, height) {
  const image = new ImageData(width, height);
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  return { image, pixels: new Uint32Array(image.data.buffer), width, height, canvas };
}

/** All finished masks. */
export class MaskLayer {
  #items = new Map();
  #order = [];

  constructor(imageWidth, imageHeight) {
    this.scale = Math.min(1, Math.sqrt(MAX_PIXELS / (imageWidth * imageHeight)));
    this.opacity = 0.5;
    this.version = 0; // of what the bitmap shows
    this.rim = Math.max(1, Math.round(Math.max(imageWidth, imageHeight) / 1400));
    const scaled = (size) => Math.max(1, Math.round(size * this.scale));
    this.bitmap = bitmap(scaled(imageWidth), scaled(imageHeight));
    this.context = this.bitmap.canvas.getContext("2d");
  }

  get canvas() {
    return this.bitmap.canvas;
  }

  /** `items`: {id, mask, rgb} from the lowest to the topmost. */
  show(items) {
    const boxes = this.#changes(items);
    this.#items = new Map(items.map((item) => [item.id, item]));
    this.#order = items;
    if (boxes.length > MAX_PATCHES) this.#repaint(around(boxes));
    else boxes.forEach((box) => this.#repaint(box));
  }

  /** Boxes of masks that were added, removed, recoloured or moved in z-order. */
  #changes(items) {
    const boxes = [];
    const kept = new Set();
    for (const item of items) {
      const old = this.#items.get(item.id);
      if (old) kept.add(item.id);
      if (old?.mask === item.mask && old.rgb === item.rgb) continue;
      if (old) boxes.push(old.mask.box);
      boxes.push(item.mask.box);
    }
    const before = this.#order.filter((item) => {
      if (!kept.has(item.id)) boxes.push(item.mask.box);
      return kept.has(item.id);
    });
    const after = items.filter((item) => kept.has(item.id));
    after.forEach((item, i) => {
      if (before[i].id !== item.id) boxes.push(item.mask.box);
    });
    return boxes.filter((box) => box[2] > box[0]);
  }

  #repaint(box) {
    const clip = this.#scaled(box);
    const [left, top, right, bottom] = clip;
    const { pixels, width, image } = this.bitmap;
    for (let y = top; y < bottom; y += 1) pixels.fill(0, y * width + left, y * width + right);
    const touched = this.#order.filter((item) => overlap(item.mask.box, box));
    for (const { mask, rgb } of touched) {
      paint(this.bitmap, mask, pixel(rgb, this.opacity), this.scale, 0, 0, clip);
    }
    // rims are drawn after all fills, so that a mask below another one stays visible
    for (const { mask, rgb } of touched) {
      paint(this.bitmap, mask.rim(this.rim), pixel(rgb, 1), this.scale, 0, 0, clip);
    }
    this.context.putImageData(image, 0, 0, left, top, right - left, bottom - top);
    this.version += 1;
  }

  #scaled([x0, y0, x1, y1]) {
    const { width, height } = this.bitmap;
    return [
      Math.max(0, Math.floor(x0 * this.scale) - 1),
      Math.max(0, Math.floor(y0 * this.scale) - 1),
      Math.min(width, Math.ceil(x1 * this.scale) + 1),
      Math.min(height, Math.ceil(y1 * this.scale) + 1),
    ];
  }

  /** Opacity of the fills, 0 (rims only) to below 1. Nothing is repainted: every pixel that is not
   * opaque is fill. */
  setOpacity(opacity) {
    if (opacity === this.opacity) return;
    this.opacity = opacity;
    const { pixels, image } = this.bitmap;
    const alpha = Math.round(opacity * 255) << 24;
    for (let p = 0; p < pixels.length; p += 1) {
      const value = pixels[p];
      if (value !== 0 && value >>> 24 !== 255) pixels[p] = (value & 0xffffff) | alpha;
    }
    this.context.putImageData(image, 0, 0);
    this.version += 1;
  }
}

export const RIM_WIDTH = 1.5; // canvas pixels, of a mask that is drawn alone

/** Pixels of a mask that is drawn alone, per image pixel: a power of two, so that zooming repaints seldom. */
export const scaleFor = (density) => Math.min(1, 2 ** Math.ceil(Math.log2(Math.max(density, 1 / 64))));

let painted = 0;

/** Adds to the pixels of masks that were handed to the browser; a benchmark counts them. */
export const countPixels = (count) => (painted += count);
export const pixelsPainted = () => painted;

/** One mask at the resolution of the screen at most, with a rim of colour `rim`: {canvas, x, y, width, height} in image pixels. */
export function sprite(mask, { rgb, rim = rgb, opacity }, density) {
  const scale = scaleFor(density);
  const [x0, y0, x1, y1] = mask.box;
  const left = Math.floor(x0 * scale);
  const top = Math.floor(y0 * scale);
  const target = bitmap(Math.ceil(x1 * scale) - left + 1, Math.ceil(y1 * scale) - top + 1);
  const clip = [0, 0, target.width, target.height];
  paint(target, mask, pixel(rgb, opacity), scale, left, top, clip);
  if (density < CRISP) {
    const ring = mask.rim(Math.max(1, Math.round(RIM_WIDTH / density)));
    paint(target, ring, pixel(rim, 1), scale, left, top, clip);
  }
  target.canvas.getContext("2d").putImageData(target.image, 0, 0);
  countPixels(target.width * target.height);
  return {
    canvas: target.canvas,
    x: left / scale,
    y: top / scale,
    width: target.width / scale,
    height: target.height / scale,
    scale,
    isCrisp: density >= CRISP,
  };
}

/** From this many canvas pixels per image pixel, outlines are drawn as lines along pixel sides. */
export const CRISP = 2;

const outlines = new WeakMap();

/** The mask's outline along pixel sides, as a path in image pixels. */
export function outline(mask) {
  let path = outlines.get(mask);
  if (!path) outlines.set(mask, (path = outlineOf(mask)));
  return path;
}

function outlineOf({ edges, height, width }) {
  const path = new Path2D();
  const line = (x0, y0, x1, y1) => {
    path.moveTo(x0, y0);
    path.lineTo(x1, y1);
  };
  const right = shifted(edges, height, (width + 1) * height);
  forEachPiece(difference(edges, right), height, (x, y0, y1) => line(x, y0, x, y1));
  // horizontal sides that continue in the next column are one line
  const open = new Map();
  forEachPiece(edges, height, (x, y0, y1) => {
    for (const y of [y0, y1]) {
      const key = y === y0 ? y : -y - 1;
      const run = open.get(key);
      if (run?.[1] === x) {
        run[1] = x + 1;
        continue;
      }
      if (run) line(run[0], y, run[1], y);
      open.set(key, [x, x + 1]);
    }
  });
  for (const [key, [x0, x1]] of open) line(x0, key < 0 ? -key - 1 : key, x1, key < 0 ? -key - 1 : key);
  return path;
}

export function overlap(a, b) {
  return a[0] < b[2] && b[0] < a[2] && a[1] < b[3] && b[1] < a[3];
}

/** The box that holds all of these. */
export function around(boxes) {
  return boxes.reduce((all, box) => [
    Math.min(all[0], box[0]),
    Math.min(all[1], box[1]),
    Math.max(all[2], box[2]),
    Math.max(all[3], box[3]),
  ]);
}
