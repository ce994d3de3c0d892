// Where the image lies on the canvas. Lengths on the screen are CSS pixels, measured from the
// canvas's corner; the canvas itself has `ratio` times as many pixels each way.

const MARGIN = 16; // around a fitted image
const BAR = 56; // below it, for the floating bar
const KEEP_VISIBLE = 64; // of the image always stays visible
const MAX_SCALE = 48; // screen pixels of one image pixel

export class Viewport {
  constructor(canvas, imageWidth, imageHeight, onChange) {
    this.canvas = canvas;
    this.onChange = onChange;
    this.scale = 1;
    this.x = 0;
    this.y = 0;
    this.width = 1;
    this.height = 1;
    this.ratio = 1;
    this.isFitted = true;
    this.setImage(imageWidth, imageHeight);
    this.observer = new ResizeObserver(() => this.resize());
    this.observer.observe(canvas);
  }

  setImage(width, height) {
    this.imageWidth = width;
    this.imageHeight = height;
    this.isFitted = true;
    this.resize();
  }

  /** Also called when the window moves to a screen with another pixel ratio: zooming resizes. */
  resize() {
    this.width = Math.max(1, this.canvas.clientWidth);
    this.height = Math.max(1, this.canvas.clientHeight);
    this.ratio = window.devicePixelRatio || 1;
    const [width, height] = [Math.round(this.width * this.ratio), Math.round(this.height * this.ratio)];
    if (this.canvas.width !== width || this.canvas.height !== height) {
      this.canvas.width = width;
      this.canvas.height = height;
    }
    if (this.isFitted) this.fit();
    else this.#settle();
  }

  fit() {
    this.scale = this.fitScale;
    this.x = (this.width - this.imageWidth * this.scale) / 2;
    this.y = (this.height - BAR - this.imageHeight * this.scale) / 2;
    this.isFitted = true;
    this.onChange();
  }

  get fitScale() {
    const room = [this.width - 2 * MARGIN, this.height - BAR - 2 * MARGIN];
    const scale = Math.min(room[0] / this.imageWidth, room[1] / this.imageHeight, MAX_SCALE);
    return Math.max(scale, 0.001);
  }

  /** Canvas pixels of one image pixel. */
  get density() {
    return this.scale * this.ratio;
  }

  /** Zooms; the image point under this canvas point stays in place. */
  zoomAt(x, y, factor) {
    const scale = Math.min(MAX_SCALE, Math.max(this.fitScale * 0.4, this.scale * factor));
    const ratio = scale / this.scale;
    this.x = x - (x - this.x) * ratio;
    this.y = y - (y - this.y) * ratio;
    this.scale = scale;
    this.#settle();
  }

  pan(dx, dy) {
    this.x += dx;
    this.y += dy;
    this.#settle();
  }

  /** Zooms in on a box of the image and its surroundings. */
  approach([x0, y0, x1, y1], share = 0.4) {
    const scale = share * Math.min(this.width / (x1 - x0), this.height / (y1 - y0));
    if (!(scale > this.fitScale)) return;
    this.scale = Math.min(MAX_SCALE / 3, scale);
    this.x = this.width / 2 - ((x0 + x1) / 2) * this.scale;
    this.y = this.height / 2 - ((y0 + y1) / 2) * this.scale;
    this.#settle();
  }

  /** Moves an image point to the middle.
   * @param {number[]} point */
  center([x, y]) {
    this.x = this.width / 2 - x * this.scale;
    this.y = this.height / 2 - y * this.scale;
    this.#settle();
  }

  /** Moves the image as little as needed to make a box visible. */
  reveal([x0, y0, x1, y1], margin = 40) {
    const [left, top] = this.fromImage(x0, y0);
    const [right, bottom] = this.fromImage(x1, y1);
    const move = (low, high, size) => {
      if (high - low > size - 2 * margin) return size / 2 - (low + high) / 2;
      if (low < margin) return margin - low;
      return high > size - margin ? size - margin - high : 0;
    };
    const isSeen = left >= 0 && top >= 0 && right <= this.width && bottom <= this.height;
    if (!isSeen) this.pan(move(left, right, this.width), move(top, bottom, this.height));
  }

  #settle() {
    this.isFitted = false;
    const keep = (offset, size, room) =>
      Math.min(room - KEEP_VISIBLE, Math.max(KEEP_VISIBLE - size, offset));
    this.x = keep(this.x, this.imageWidth * this.scale, this.width);
    this.y = keep(this.y, this.imageHeight * this.scale, this.height);
    this.onChange();
  }

  /** Canvas point of an image point. */
  fromImage(x, y) {
    return [this.x + x * this.scale, this.y + y * this.scale];
  }

  /** Image point (with fractions) of a canvas point. */
  toImage(x, y) {
    return [(x - this.x) / this.scale, (y - this.y) / this.scale];
  }

  /** Image point of a pointer event. */
  ofEvent(event) {
    const corner = this.canvas.getBoundingClientRect();
    return this.toImage(event.clientX - corner.left, event.clientY - corner.top);
  }

  /** The visible part of the image, XYXY, clipped to the image. */
  get seen() {
    const [x0, y0] = this.toImage(0, 0);
    const [x1, y1] = this.toImage(this.width, this.height);
    return [Math.max(0, x0), Math.max(0, y0), Math.min(this.imageWidth, x1), Math.min(this.imageHeight, y1)];
  }

  /** From here on `context` draws in image pixels. */
  apply(context) {
    const density = this.density;
    context.setTransform(density, 0, 0, density, this.x * this.ratio, this.y * this.ratio);
  }

  close() {
    this.observer.disconnect();
  }
}
