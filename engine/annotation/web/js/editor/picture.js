// The image's pixels: a screen-sized copy first, the full resolution once the user zooms in.

const SCREEN_SIDE = 1600;
const LAST_RETRY_MS = 10_000;

export class Picture {
  #full = "none"; // none | loading | there | failed
  #isClosed = false;
  small = null;
  full = null;

  /** `urlOf(side)` is the address of a copy; `onChange` is called when a better one has loaded. */
  constructor(urlOf, width, height, onChange) {
    this.urlOf = urlOf;
    this.width = width;
    this.height = height;
    this.onChange = onChange;
    this.smallScale = Math.min(1, SCREEN_SIDE / Math.max(width, height));
    this.ready = this.#load(SCREEN_SIDE, Infinity).then((bitmap) => {
      this.small = bitmap;
      onChange();
    });
  }

  /** What to draw at `density` canvas pixels per image pixel; null while nothing has loaded. */
  at(density) {
    const isTooCoarse = this.smallScale < 1 && density > this.smallScale * 1.1;
    if (isTooCoarse && this.#full === "none") void this.#loadFull();
    return isTooCoarse && this.full ? this.full : this.small;
  }

  async #loadFull() {
    this.#full = "loading";
    try {
      this.full = await this.#load(null, 3);
      this.#full = "there";
      this.onChange();
    } catch (error) {
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
