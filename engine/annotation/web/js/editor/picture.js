// The image's pixels: a screen-sized copy first, the full resolution once the user zooms in.

import { TILED_FROM } from "./tiles.js";

const SCREEN_SIDE = 1600;
const LAST_RETRY_MS = 10_000;

export class Picture {
  #full = "none"; // none | loading | there | failed
  #isClosed = false;
  #turn = 0; // of loading
  small = null;
  full = null;

  /** `urlOf(side)` is the address of a copy; `onChange` is called when a better one has loaded. */
  constructor(urlOf, width, height, onChange) {
    this.urlOf = urlOf;
    this.width = width;
    this.height = height;
    this.onChange = onChange;
    this.isTiled = Math.max(width, height) > TILED_FROM; // the full resolution comes in tiles
    this.smallScale = Math.min(1, SCREEN_SIDE / Math.max(width, height));
    this.ready = this.#load(SCREEN_SIDE, Infinity).then((bitmap) => {
      this.small = bitmap;
      onChange();
    });
  }

  /** What to draw at `density` canvas pixels per image pixel; null while nothing has loaded. */
  at(density) {
    const isTooCoarse = this.smallScale < 1 && density > this.smallScale * 1.1;
    if (isTooCoarse && !this.isTiled && this.#full === "none") void this.#loadFull();
    return isTooCoarse && this.full ? this.full : this.small;
  }

  /** Loads the pixels anew, from where `urlOf` says now; until they are there the old ones are shown. */
  async reload() {
    const turn = (this.#turn += 1);
    const bitmap = await this.#load(SCREEN_SIDE, 3);
    if (turn !== this.#turn || this.#isClosed) {
      bitmap.close();
      return;
    }
    const old = [this.small, this.full];
    this.small = bitmap;
    this.full = null;
    this.#full = "none";
    this.onChange();
    for (const one of old) one?.close();
  }

  async #loadFull() {
    const turn = this.#turn;
    this.#full = "loading";
    try {
      const bitmap = await this.#load(null, 3);
      if (turn !== this.#turn) {
        bitmap.close();
        return;
      }
      this.full = bitmap;
      this.#full = "there";
      this.onChange();
    } catch (error) {
      if (turn !== this.#turn) return;
      this.#full = "failed"; // for example too large for this browser: the small copy is used
      console.warn("The full resolution could not be loaded", error);
    }
  }

  async #load(side, attempts) {
    let wait = 500;
    for (let attempt = 1; ; attempt += 1) {
      try {
        const response = await fetch(this.urlOf(side), { credentials: "same-origin" });
        if (!response.ok) throw new Error(`the image's pixels: ${response.status}`);
        const bitmap = await createImageBitmap(await response.blob());
        if (this.#isClosed) bitmap.close();
        return bitmap;
      } catch (error) {
        if (this.#isClosed || attempt >= attempts) throw error;
      }
      await new Promise((resolve) => setTimeout(resolve, wait));
      wait = Math.min(wait * 2, LAST_RETRY_MS);
    }
  }

  close() {
    this.#isClosed = true;
    this.small?.close();
    this.full?.close();
  }
}
