// The stroke in progress as it looks on the screen. Only what is new is drawn at a frame, so that a long stroke
// over a large mask costs no more than a dab; the exact pixels are found when it ends.

export class Ink {
  canvas = document.createElement("canvas");
  #context = this.canvas.getContext("2d");
  #view = ""; // where the image lay when it was drawn
  #drawn = 0; // points of the path

  constructor(viewport, rgb) {
    this.viewport = viewport;
    this.colour = `rgb(${rgb.join(" ")})`;
  }

  /** Draws what was added to the path, [x, y] in image pixels; all of it after the image moved. */
  draw(path, radius) {
    const { viewport, canvas } = this;
    const { x, y, width, height, ratio, density } = viewport;
    const view = [x, y, width, height, density].join(" ");
    if (view !== this.#view) {
      [canvas.width, canvas.height] = [Math.round(width * ratio), Math.round(height * ratio)]; // also empties it
      this.#view = view;
      this.#drawn = 0;
    }
    if (this.#drawn === path.length) return;
    viewport.apply(this.#context);
    this.#context.lineCap = this.#context.lineJoin = "round";
    this.#context.lineWidth = Math.max(2 * radius, 1 / density);
    this.#context.strokeStyle = this.colour;
    this.#context.beginPath();
    const [first, ...rest] = path.slice(Math.max(0, this.#drawn - 1));
    this.#context.moveTo(first[0], first[1]);
    for (const [left, top] of rest.length ? rest : [first]) this.#context.lineTo(left, top);
    this.#context.stroke();
    this.#drawn = path.length;
  }
}
