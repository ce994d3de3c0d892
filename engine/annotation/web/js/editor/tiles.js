// The tiles of a large image that are seen, at the resolution of the screen. A few hundred at most are kept,
// so that an image of any size takes the same memory.

export const TILED_FROM = 8_000; // pixels of the longer side: larger images are not loaded as a whole
const TILE = 512;
const COARSEST = 1_600; // the longer side of the copy that is always there
const MOST_KEPT = 200;
const AT_ONCE = 6; // requests
const AGAIN_MS = 2_000; // after a failure

/** The level whose pixels are at least as fine as the screen's: 0 is full resolution, each further one half.
 * @param {number} density canvas pixels per image pixel
 * @param {number} longest pixels of the image's longer side */
export function levelFor(density, longest) {
  const coarsest = Math.max(0, Math.ceil(Math.log2(longest / COARSEST)));
  return Math.min(coarsest, Math.max(0, Math.floor(-Math.log2(density))));
}

/** The tiles of a level that cover a part of the image, those nearest its middle first: {key, path, box},
 * boxes in image pixels.
 * @param {number[]} part XYXY
 * @param {number} level
 * @param {number[]} size width and height */
export function tilesIn(part, level, size) {
  const [x0, y0, x1, y1] = part;
  const [width, height] = size;
  const side = TILE * 2 ** level;
  const found = [];
  for (let column = Math.floor(x0 / side); column * side < x1; column += 1) {
    for (let row = Math.floor(y0 / side); row * side < y1; row += 1) {
      const path = `${level}/${column}/${row}`;
      found.push({ path, box: [column * side, row * side, Math.min(width, (column + 1) * side), Math.min(height, (row + 1) * side)] });
    }
  }
  const away = ({ box }) => Math.hypot(box[0] + box[2] - x0 - x1, box[1] + box[3] - y0 - y1);
  return found.sort((a, b) => away(a) - away(b));
}

export class Tiles {
  #kept = new Map(); // bitmap by path, the least recent first
  #loading = new Map(); // AbortController by path
  #failed = new Map(); // time by path

  /** `urlOf(path)`: address of a tile; `onChange()` is called when one has loaded. */
  constructor(urlOf, size, onChange) {
    this.urlOf = urlOf;
    this.size = size;
    this.onChange = onChange;
  }

  /** The tiles to draw over the coarse copy: {bitmap, box}. Those that are missing are requested.
   * @param {import("./viewport.js").Viewport} viewport */
  seen(viewport) {
    const wanted = this.#wanted(viewport);
    this.#request(wanted.map(({ path }) => path));
    return wanted.flatMap(({ path, box }) => {
      const bitmap = this.#kept.get(path);
      if (!bitmap) return [];
      this.#kept.delete(path); // to the end: it is recent
      this.#kept.set(path, bitmap);
      return [{ bitmap, box }];
    });
  }

  /** Whether all of what is seen is there at the resolution of the screen.
   * @param {import("./viewport.js").Viewport} viewport */
  isComplete(viewport) {
    const wanted = this.#wanted(viewport);
    return wanted.length > 0 && wanted.every(({ path }) => this.#kept.has(path));
  }

  /** None where the coarse copy is fine enough. */
  #wanted(viewport) {
    const longest = Math.max(...this.size);
    if (viewport.density * longest <= COARSEST) return [];
    return tilesIn(viewport.seen, levelFor(viewport.density, longest), this.size);
  }

  #request(paths) {
    const wanted = new Set(paths);
    for (const [path, abort] of this.#loading) if (!wanted.has(path)) abort.abort();
    const now = performance.now();
    for (const path of paths) {
      if (this.#loading.size >= AT_ONCE) return;
      const isWaiting = now - (this.#failed.get(path) ?? -Infinity) < AGAIN_MS;
      if (!this.#kept.has(path) && !this.#loading.has(path) && !isWaiting) void this.#load(path);
    }
  }

  async #load(path) {
    const abort = new AbortController();
    this.#loading.set(path, abort);
    try {
      const response = await fetch(this.urlOf(path), { credentials: "same-origin", signal: abort.signal });
      if (!response.ok) throw new Error(`tile ${path}: ${response.status}`);
      const bitmap = await createImageBitmap(await response.blob());
      if (abort.signal.aborted) bitmap.close();
      else this.#keep(path, bitmap);
    } catch (problem) {
      if (!abort.signal.aborted) {
        this.#failed.set(path, performance.now());
        console.warn("A tile could not be loaded", problem);
        setTimeout(this.onChange, AGAIN_MS);
      }
    } finally {
      this.#loading.delete(path);
    }
    this.onChange(); // also to request those that waited
  }

  #keep(path, bitmap) {
    this.#failed.delete(path);
    this.#kept.set(path, bitmap);
    for (const [old, unused] of this.#kept) {
      if (this.#kept.size <= MOST_KEPT) return;
      this.#kept.delete(old);
      unused.close();
    }
  }

  /** Forgets all tiles: they are loaded anew. */
  clear() {
    for (const abort of this.#loading.values()) abort.abort();
    for (const bitmap of this.#kept.values()) bitmap.close();
    this.#kept.clear();
  }

  close() {
    this.onChange = () => {};
    this.clear();
  }
}
