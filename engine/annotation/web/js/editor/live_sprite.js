// The mask that is being painted. From frame to frame only what the brush has just covered is painted anew, so a
// frame costs the same however large the mask is.

import { CRISP, RIM_WIDTH, around, bitmap, countPixels, paint, pixel, scaleFor } from "./layers.js";

const ROOM = 128; // pixels around the mask, in which it may grow

/** @typedef {import("../shared/rle.js").Box} Box */

export class LiveSprite {
  #stroke = null; // what the bitmap shows
  #drawn = 0; // how many of its boxes
  #target = null;
  #left = 0; // of the bitmap in the scaled image
  #top = 0;
  #scale = 1;
  #key = "";

  /** `stroke`: {boxes}, the same object through a stroke, with a box for each change of `mask`.
   * Returns what `sprite` does. */
  show(stroke, mask, { rgb, opacity }, density) {
    const scale = scaleFor(density);
    const rim = density < CRISP ? Math.max(1, Math.round(RIM_WIDTH / density)) : 0;
    const key = [rgb, opacity, scale, rim].join();
    const boxes = stroke.boxes.slice(this.#drawn);
    const isNew = this.#stroke !== stroke || this.#key !== key || !this.#contains(mask.box);
    if (isNew) this.#begin(mask, scale);
    this.#stroke = stroke;
    this.#key = key;
    this.#drawn = stroke.boxes.length;
    if (isNew) this.#repaint(mask, mask.box, { rgb, opacity, rim });
    else if (boxes.length) this.#repaint(mask, around(boxes), { rgb, opacity, rim });
    const { canvas, width, height } = this.#target;
    return {
      canvas,
      x: this.#left / scale,
      y: this.#top / scale,
      width: width / scale,
      height: height / scale,
      scale,
      isCrisp: density >= CRISP,
    };
  }

  /** Frees the bitmap. */
  drop() {
    this.#stroke = this.#target = null;
  }

  #contains([x0, y0, x1, y1]) {
    if (!this.#target) return false;
    const { width, height } = this.#target;
    const s = this.#scale;
    return x0 * s >= this.#left && y0 * s >= this.#top && x1 * s < this.#left + width && y1 * s < this.#top + height;
  }

  #begin(mask, scale) {
    const [x0, y0, x1, y1] = mask.box;
    const least = (value) => Math.max(0, Math.floor(value * scale) - ROOM);
    const most = (value, size) => Math.min(Math.ceil(size * scale), Math.ceil(value * scale) + ROOM) + 1;
    this.#scale = scale;
    this.#left = least(x0);
    this.#top = least(y0);
    this.#target = bitmap(most(x1, mask.width) - this.#left, most(y1, mask.height) - this.#top);
  }

  /** The box is in pixels of the image: in it the mask has changed. */
  #repaint(mask, [x0, y0, x1, y1], { rgb, opacity, rim }) {
    const { pixels, width, height, image, canvas } = this.#target;
    const s = this.#scale;
    const clip = [
      Math.max(0, Math.floor((x0 - rim) * s) - this.#left - 1),
      Math.max(0, Math.floor((y0 - rim) * s) - this.#top - 1),
      Math.min(width, Math.ceil((x1 + rim) * s) - this.#left + 1),
      Math.min(height, Math.ceil((y1 + rim) * s) - this.#top + 1),
    ];
    const [left, top, right, bottom] = clip;
    if (right <= left || bottom <= top) return;
    for (let y = top; y < bottom; y += 1) pixels.fill(0, y * width + left, y * width + right);
    paint(this.#target, mask, pixel(rgb, opacity), s, this.#left, this.#top, clip);
    if (rim) paint(this.#target, mask.rim(rim), pixel(rgb, 1), s, this.#left, this.#top, clip);
    canvas.getContext("2d").putImageData(image, 0, 0, left, top, right - left, bottom - top);
    countPixels((right - left) * (bottom - top));
  }
}
