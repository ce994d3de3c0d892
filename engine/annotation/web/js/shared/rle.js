// Masks as COCO run lengths, exact and without a bitmap.
//
// Pixels are numbered down the columns, as COCO does: p = x * height + y. A mask is the sorted list
// of places where it begins and ends, [begin, end, begin, end, ...], ends excluded. So a pixel is set
// where an odd number of entries is <= p, and union or difference is one merge of two lists: a brush
// stroke on an image of any size costs as much as the mask has runs. Masks are never changed.

/** @typedef {{size: [height: number, width: number], counts: string}} Rle
 * @typedef {[x0: number, y0: number, x1: number, y1: number]} Box half-open, in pixels */

export class Mask {
  #area = -1;
  /** @type {Box | null} */
  #box = null;
  /** @type {string | null} */
  #counts = null;

  /** @param {number} width
   * @param {number} height
   * @param {Uint32Array} edges */
  constructor(width, height, edges) {
    this.width = width;
    this.height = height;
    this.edges = edges;
  }

  static empty(width, height) {
    return new Mask(width, height, new Uint32Array(0));
  }

  /** Throws where the counts do not fill the image exactly.
   * @param {Rle} rle */
  static fromRle(rle) {
    const [height, width] = rle.size;
    return new Mask(width, height, edgesOf(parseCounts(rle.counts), width * height));
  }

  /** @returns {Rle} */
  toRle() {
    return { size: [this.height, this.width], counts: this.counts };
  }

  /** COCO's compressed counts, character for character as pycocotools writes them. */
  get counts() {
    this.#counts ??= formatCounts(countsOf(this.edges, this.width * this.height));
    return this.#counts;
  }

  get area() {
    if (this.#area < 0) {
      let sum = 0;
      for (let i = 0; i < this.edges.length; i += 2) sum += this.edges[i + 1] - this.edges[i];
      this.#area = sum;
    }
    return this.#area;
  }

  get isEmpty() {
    return this.edges.length === 0;
  }

  /** Half-open [x0, y0, x1, y1]; zeros for an empty mask. */
  get box() {
    this.#box ??= boxOf(this.edges, this.height);
    return this.#box;
  }

  has(x, y) {
    if (x < 0 || y < 0 || x >= this.width || y >= this.height) return false;
    const p = x * this.height + y;
    let low = 0;
    let high = this.edges.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.edges[middle] <= p) low = middle + 1;
      else high = middle;
    }
    return (low & 1) === 1;
  }

  /** @param {Mask} other */
  union(other) {
    return this.#with(merge(this.edges, other.edges, true, true, true));
  }

  /** @param {Mask} other */
  minus(other) {
    return this.#with(merge(this.edges, other.edges, true, false, false));
  }

  /** The mask's rim, `thickness` pixels wide. For display only: at the image's upper and lower edge it
   * may be off by a pixel. */
  rim(thickness = 1) {
    const total = this.width * this.height;
    const aside = thickness * this.height;
    let inner = this.edges;
    for (const offset of [thickness, -thickness, aside, -aside]) {
      inner = merge(inner, shifted(this.edges, offset, total), false, false, true);
    }
    return this.#with(merge(this.edges, inner, true, false, false));
  }

  #with(edges) {
    return new Mask(this.width, this.height, edges);
  }
}

/** The pixels of any of the masks, which are of one image.
 * @param {Mask[]} masks at least one
 * @returns {Mask} */
export function unionOf(masks) {
  if (masks.length === 1) return masks[0];
  const half = masks.length >> 1; // by halves, so that many small masks cost no more than their runs
  return unionOf(masks.slice(0, half)).union(unionOf(masks.slice(half)));
}

/** Appends a run of pixels to a list of edges that end at or before its beginning; empty ones are left out.
 * @param {number[]} edges
 * @param {number} begin
 * @param {number} end */
export function addRun(edges, begin, end) {
  if (begin >= end) return;
  if (edges.at(-1) === begin) edges.pop();
  else edges.push(begin);
  edges.push(end);
}

/** Calls `visit` for every unbroken piece of every column, from left to right.
 * @param {Uint32Array} edges
 * @param {number} height
 * @param {(x: number, y0: number, y1: number) => void} visit */
export function forEachPiece(edges, height, visit) {
  for (let i = 0; i < edges.length; i += 2) {
    let p = edges[i];
    const end = edges[i + 1];
    let x = Math.floor(p / height);
    for (; p < end; x += 1) {
      const top = x * height;
      const stop = Math.min(end, top + height);
      visit(x, p - top, stop - top);
      p = stop;
    }
  }
}

/** The pixels that a round brush covers between (x0, y0) and (x1, y1): those whose centre is within
 * `radius` of the line. */
export function capsule(width, height, x0, y0, x1, y1, radius) {
  const first = Math.max(0, Math.ceil(Math.min(x0, x1) - radius - 0.5));
  const last = Math.min(width - 1, Math.floor(Math.max(x0, x1) + radius - 0.5));
  const edges = new Uint32Array(Math.max(0, last - first + 1) * 2);
  let n = 0;
  for (let x = first; x <= last; x += 1) {
    const span = capsuleSpan(x + 0.5, x0, y0, x1, y1, radius);
    const begin = Math.max(0, Math.ceil(span[0] - 0.5));
    const end = Math.min(height, Math.floor(span[1] - 0.5) + 1);
    if (begin >= end) continue;
    if (n > 0 && edges[n - 1] === x * height + begin) n -= 1;
    else edges[n++] = x * height + begin;
    edges[n++] = x * height + end;
  }
  return new Mask(width, height, edges.slice(0, n));
}

/** Where the vertical line at x cuts the capsule: it is convex, so this is one span. */
function capsuleSpan(x, x0, y0, x1, y1, radius) {
  let low = Infinity;
  let high = -Infinity;
  const take = (a, b) => {
    low = Math.min(low, a);
    high = Math.max(high, b);
  };
  for (const [cx, cy] of [[x0, y0], [x1, y1]]) {
    const rest = radius * radius - (x - cx) * (x - cx);
    if (rest >= 0) take(cy - Math.sqrt(rest), cy + Math.sqrt(rest));
  }
  const length = Math.hypot(x1 - x0, y1 - y0);
  if (length > 0 && x1 !== x0) {
    for (const side of [-radius, radius]) {
      // a point of the straight side: the line, moved by the radius along its normal
      const share = (x - x0 + (side * (y1 - y0)) / length) / (x1 - x0);
      if (share < 0 || share > 1) continue;
      const y = y0 + share * (y1 - y0) + (side * (x1 - x0)) / length;
      take(y, y);
    }
  }
  return [low, high];
}

/** Merges two edge lists; the flags say which of "only in a", "only in b", "in both" is kept. */
function merge(a, b, onlyA, onlyB, both) {
  const out = new Uint32Array(a.length + b.length);
  let i = 0;
  let j = 0;
  let n = 0;
  let inside = false;
  while (i < a.length || j < b.length) {
    const p = j >= b.length || (i < a.length && a[i] <= b[j]) ? a[i] : b[j];
    if (i < a.length && a[i] === p) i += 1;
    if (j < b.length && b[j] === p) j += 1;
    const now = i & 1 ? (j & 1 ? both : onlyA) : j & 1 ? onlyB : false;
    if (now !== inside) {
      out[n++] = p;
      inside = now;
    }
  }
  return out.slice(0, n);
}

/** All edges moved by `offset` and clipped to 0..total. */
export function shifted(edges, offset, total) {
  const out = new Uint32Array(edges.length);
  let n = 0;
  for (let i = 0; i < edges.length; i += 2) {
    const begin = Math.max(0, edges[i] + offset);
    const end = Math.min(total, edges[i + 1] + offset);
    if (begin >= end) continue;
    out[n++] = begin;
    out[n++] = end;
  }
  return n === out.length ? out : out.slice(0, n);
}

/** Pixels that are set in exactly one of the two lists. */
export function difference(a, b) {
  return merge(a, b, true, true, false);
}

function edgesOf(counts, total) {
  const edges = new Uint32Array(counts.length + 1);
  let n = 0;
  let sum = 0;
  for (let i = 0; i < counts.length; i += 1) {
    if (counts[i] < 0) throw new RangeError("a run length is negative");
    if (counts[i] === 0 && i > 0) {
      if (n > 0) n -= 1; // an empty run joins its neighbours
      else edges[n++] = sum;
      continue;
    }
    sum += counts[i];
    if (i + 1 < counts.length || (i & 1) === 1) edges[n++] = sum;
  }
  if (sum !== total) throw new RangeError(`run lengths cover ${sum} of ${total} pixels`);
  // empty runs at the end may leave the last piece open
  if ((n & 1) === 1 && edges[n - 1] === sum) n -= 1;
  else if ((n & 1) === 1) edges[n++] = sum;
  return edges.slice(0, n);
}

function countsOf(edges, total) {
  const counts = new Array(edges.length + 1);
  let last = 0;
  for (let i = 0; i < edges.length; i += 1) {
    counts[i] = edges[i] - last;
    last = edges[i];
  }
  if (last < total || edges.length === 0) counts[edges.length] = total - last;
  else counts.length = edges.length;
  return counts;
}

/** "Compressed" counts: base 32 with a sign, from the fourth on as differences to the last but one. */
function parseCounts(text) {
  const counts = [];
  for (let i = 0; i < text.length; ) {
    let value = 0;
    let shift = 0;
    for (let more = true; more; shift += 5) {
      const c = text.charCodeAt(i++) - 48;
      if (!(c >= 0 && c < 64)) throw new RangeError("not COCO run lengths");
      value |= (c & 31) << shift;
      more = (c & 32) !== 0;
      if (!more && c & 16 && shift < 27) value |= -1 << (shift + 5);
    }
    if (counts.length > 2) value += counts[counts.length - 2];
    counts.push(value);
  }
  return counts;
}

function formatCounts(counts) {
  const codes = [];
  for (let i = 0; i < counts.length; i += 1) {
    let value = i > 2 ? counts[i] - counts[i - 2] : counts[i];
    for (let more = true; more; ) {
      let c = value & 31;
      value >>= 5;
      more = c & 16 ? value !== -1 : value !== 0;
      if (more) c |= 32;
      codes.push(c + 48);
    }
  }
  let text = "";
  for (let i = 0; i < codes.length; i += 8192) {
    text += String.fromCharCode(...codes.slice(i, i + 8192));
  }
  return text;
}

/** @param {Uint32Array} edges
 * @param {number} height
 * @returns {Box} */
function boxOf(edges, height) {
  if (edges.length === 0) return [0, 0, 0, 0];
  let top = height;
  let bottom = 0;
  for (let i = 0; i < edges.length; i += 2) {
    const y0 = edges[i] % height;
    const y1 = y0 + edges[i + 1] - edges[i];
    if (y1 > height) {
      // the run continues in the next column, so it touches the image's lower and upper edge
      return [left(edges, height), 0, right(edges, height), height];
    }
    if (y0 < top) top = y0;
    if (y1 > bottom) bottom = y1;
  }
  return [left(edges, height), top, right(edges, height), bottom];
}

const left = (edges, height) => Math.floor(edges[0] / height);
const right = (edges, height) => Math.floor((edges[edges.length - 1] - 1) / height) + 1;
