// The picture with its values adjusted. Each bitmap is converted once, not at every frame; a large one in
// bands, and until it is done the small one is shown.

import { adjust, isNeutral, NEUTRAL } from "./adjust.js";

const BAND = 256; // rows converted at once
const AT_ONCE = 4e6; // pixels: more are converted between frames

export class Adjusted {
  adjustment = NEUTRAL;
  #made = new WeakMap(); // canvas by bitmap, null while it is made

  /** `picture`: a Picture; `tiles`: Tiles or null; `onChange()` is called when a conversion is done. */
  constructor(picture, tiles, onChange) {
    this.picture = picture;
    this.tiles = tiles;
    this.onChange = onChange;
  }

  /** @param {import("./adjust.js").Adjustment} adjustment */
  set(adjustment) {
    this.adjustment = adjustment;
    this.#made = new WeakMap();
    this.onChange();
  }

  /** What to draw at `density` canvas pixels per image pixel; null while nothing has loaded. */
  at(density) {
    const bitmap = this.picture.at(density);
    if (!bitmap || isNeutral(this.adjustment)) return bitmap;
    return this.#of(bitmap) ?? (bitmap === this.picture.small ? null : this.#of(this.picture.small));
  }

  /** The tiles to draw over it: {bitmap, box}. */
  tilesSeen(viewport) {
    const seen = this.tiles?.seen(viewport) ?? [];
    return isNeutral(this.adjustment) ? seen : seen.map(({ bitmap, box }) => ({ bitmap: this.#of(bitmap), box }));
  }

  /** Whether the tiles that are there hide the whole of what lies under them. */
  isCovered(viewport) {
    return this.tiles?.isComplete(viewport) ?? false;
  }

  /** @param {ImageBitmap} bitmap */
  #of(bitmap) {
    const found = this.#made.get(bitmap);
    if (found !== undefined) return found;
    this.#made.set(bitmap, null);
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [bitmap.width, bitmap.height];
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(bitmap, 0, 0);
    const { adjustment } = this;
    const convert = (top) => {
      const part = context.getImageData(0, top, canvas.width, Math.min(BAND, canvas.height - top));
      adjust(part.data, adjustment);
      context.putImageData(part, 0, top);
    };
    if (canvas.width * canvas.height > AT_ONCE) {
      void this.#later(bitmap, canvas, convert);
      return null;
    }
    for (let top = 0; top < canvas.height; top += BAND) convert(top);
    this.#made.set(bitmap, canvas);
    return canvas;
  }

  async #later(bitmap, canvas, convert) {
    const { adjustment } = this;
    for (let top = 0; top < canvas.height; top += BAND) {
      await new Promise((resolve) => setTimeout(resolve));
      if (this.adjustment !== adjustment || !this.#made.has(bitmap)) return;
      convert(top);
    }
    this.#made.set(bitmap, canvas);
    this.onChange();
  }
}
