// A part of the image divided into regions, as the server answers, and masks of some of them.

import { addRun, Mask } from "../shared/rle.js";

export class LabelMap {
  /** `box`: the part, [x0, y0, x1, y1] in image pixels; `size`: of the image, width and height.
   * @param {ArrayBuffer} data width, height as uint32, then the labels as uint16, little-endian
   * @param {number[]} box
   * @param {number[]} size */
  constructor(data, box, size) {
    const view = new DataView(data);
    this.columns = view.getUint32(0, true);
    this.rows = view.getUint32(4, true);
    if (data.byteLength !== 8 + 2 * this.columns * this.rows) throw new RangeError("the regions are incomplete");
    this.labels = Uint16Array.from({ length: this.columns * this.rows }, (_, i) => view.getUint16(8 + 2 * i, true));
    this.box = box;
    this.size = size;
  }

  /** The region at an image point; null outside the part. */
  at([x, y]) {
    const [x0, y0, x1, y1] = this.box;
    if (!(x >= x0 && y >= y0 && x < x1 && y < y1)) return null;
    return this.labels[this.#cell(Math.floor(y) - y0, y1 - y0, this.rows) * this.columns + this.#cell(Math.floor(x) - x0, x1 - x0, this.columns)];
  }

  #cell(pixel, length, cells) {
    return Math.min(cells - 1, Math.floor(((pixel + 0.5) * cells) / length));
  }

  /** The image's pixels in these regions.
   * @param {Set<number>} chosen
   * @returns {Mask} */
  maskOf(chosen) {
    const [x0, y0, x1, y1] = this.box;
    const [width, height] = this.size;
    const tops = Array.from({ length: this.rows + 1 }, (_, row) => this.#top(row, y1 - y0));
    const edges = [];
    for (let x = x0; x < x1; x += 1) {
      const column = this.#cell(x - x0, x1 - x0, this.columns);
      for (let row = 0; row < this.rows; row += 1) {
        if (!chosen.has(this.labels[row * this.columns + column])) continue;
        addRun(edges, x * height + y0 + tops[row], x * height + y0 + tops[row + 1]);
      }
    }
    return new Mask(width, height, Uint32Array.from(edges));
  }

  /** The first pixel of a row of cells. */
  #top(row, length) {
    return Math.max(0, Math.ceil((row * length) / this.rows - 0.5));
  }

  /** Whether each cell lies at the border to another region: 1 or 0, row by row. */
  get borders() {
    const { columns, rows, labels } = this;
    return Uint8Array.from(labels, (label, i) => {
      const isLastColumn = (i + 1) % columns === 0;
      const isLastRow = i >= (rows - 1) * columns;
      return Number((!isLastColumn && labels[i + 1] !== label) || (!isLastRow && labels[i + columns] !== label));
    });
  }
}
