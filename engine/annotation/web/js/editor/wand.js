// Selects regions of like pixels, where the model does not find the object: a click or a drag adds regions
// to the mask, or removes them. The server divides what is seen, anew after zooming or moving.

import { CURRENT_COLOUR, ERASE_COLOUR, PREVIEW_COLOUR } from "./colours.js";
import { toast } from "../shared/dom.js";
import { LabelMap } from "./label_map.js";
import { sprite } from "./layers.js";
import { t } from "../shared/strings.js";

const REST_MS = 300; // the view must rest this long before it is divided anew
const BUSY_MS = 1_500; // until the server is asked again after it had too many requests
const ZOOM_CHANGE = 1.6; // regions keep about their size on the screen
const SIZES = [12, 17, 24, 34, 48, 68, 96]; // screen pixels, about, of a region
const [LEAST, MOST] = [4, 3_000]; // regions, as the server allows

export class Wand {
  takesSign = true;
  /** @type {LabelMap | null} */
  #map = null;
  #scale = 1; // of the view that was divided
  #borders = null; // canvas
  #timer = 0;
  #abort = null;
  #size = 2; // place in SIZES
  #stroke = null; // {work, subject, isErasing, path, labels}
  #shown = null; // {key, mask, rgb, density, image}: what is painted

  constructor(editor) {
    this.editor = editor;
  }

  get isReady() {
    return this.#map !== null;
  }

  resize(direction) {
    this.#size = Math.min(SIZES.length - 1, Math.max(0, this.#size + direction));
    this.editor.announce(t("Regions of about {n} screen pixels.", { n: SIZES[this.#size] }));
    this.#ask();
  }

  // The regions ----------------------------------------------------------------

  /** Asks for regions of what is seen, once the view rests. */
  #refresh() {
    const { viewport } = this.editor;
    if (this.#map && !this.#stroke) {
      const [a, b] = [this.#map.box, viewport.seen];
      const isInside = a[0] <= b[0] + 1 && a[1] <= b[1] + 1 && a[2] >= b[2] - 1 && a[3] >= b[3] - 1;
      const zoomed = viewport.scale / this.#scale;
      if (isInside && zoomed < ZOOM_CHANGE && zoomed > 1 / ZOOM_CHANGE) return;
    } else if (this.#abort || this.#stroke) return;
    const view = viewport.seen.join(" ");
    if (view === this.wanted) return;
    this.wanted = view;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#ask(), this.#map ? REST_MS : 0);
  }

  async #ask() {
    const { editor } = this;
    const { viewport, options, task } = editor;
    const seen = viewport.seen;
    const box = [Math.floor(seen[0]), Math.floor(seen[1]), Math.ceil(seen[2]), Math.ceil(seen[3])];
    if (box[0] >= box[2] || box[1] >= box[3]) return;
    const { scale } = viewport;
    const area = (box[2] - box[0]) * (box[3] - box[1]) * scale * scale;
    const count = Math.min(MOST, Math.max(LEAST, Math.round(area / SIZES[this.#size] ** 2)));
    this.#abort?.abort();
    const abort = new AbortController();
    this.#abort = abort;
    editor.parts.canvas.dataset.regions = "asking";
    try {
      const data = await options.api.regions(task.image.id, box, count, editor.viewPanel.between, { signal: abort.signal });
      if (this.#abort !== abort || this.#stroke) return;
      this.#take(new LabelMap(data, box, editor.size), scale);
    } catch (problem) {
      if (this.#abort !== abort) return;
      if (problem.status === 429) this.#timer = setTimeout(() => this.#ask(), BUSY_MS);
      else toast(t("The regions could not be made: {problem}", { problem: problem.message }), "bad");
    } finally {
      if (this.#abort === abort) {
        this.#abort = null;
        editor.parts.canvas.dataset.regions = this.#map ? "there" : "";
      }
    }
  }

  #take(map, scale) {
    this.#map = map;
    this.#scale = scale;
    this.#shown = null;
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [map.columns, map.rows];
    const image = new ImageData(map.columns, map.rows);
    map.borders.forEach((isBorder, i) => image.data.set([255, 255, 255, isBorder ? 90 : 0], 4 * i));
    canvas.getContext("2d").putImageData(image, 0, 0);
    this.#borders = canvas;
    this.editor.frames.request();
  }

  // Strokes --------------------------------------------------------------------

  start(point, isOther) {
    const { editor } = this;
    const { session } = editor;
    if (!this.#map) {
      toast(t("The regions are still being made."));
      return;
    }
    if (isOther && session.current === null && editor.selected === null) {
      toast(t("There is nothing to remove from yet: select a mask (double click) or start one."));
      return;
    }
    const subject = isOther ? editor.selected : editor.subjectAt({ x: point[0], y: point[1] });
    const work = session.workFor(subject);
    this.#stroke = { work, subject, isErasing: isOther, path: [], labels: new Set() };
    editor.log.turnTo(work.id);
    this.to(point);
  }

  to(point) {
    this.editor.prompts.place = point;
    this.editor.frames.request();
    const label = this.#map?.at(point);
    if (!this.#stroke || label === null || label === undefined) return;
    this.#stroke.path.push(point.map((value) => Math.round(value * 10) / 10));
    this.#stroke.labels.add(label);
  }

  end() {
    const stroke = this.#stroke;
    this.#stroke = null;
    if (!stroke) return;
    const { editor } = this;
    if (!stroke.labels.size) {
      editor.log.turnTo(editor.session.current?.id ?? null);
      return;
    }
    const { work, subject, isErasing, path, labels } = stroke;
    editor.session.addStroke(work, this.#map.maskOf(labels), isErasing, { kind: "regions", label: isErasing ? 0 : 1, path });
    editor.selected = subject;
    editor.prompts.clicked = null;
    editor.update();
  }

  drop() {
    if (!this.#stroke) return false;
    this.#stroke = null;
    this.editor.log.turnTo(this.editor.session.current?.id ?? null);
    this.editor.frames.request();
    return true;
  }

  /** The regions' borders, and those under the pointer or the stroke. */
  paint(context, viewport) {
    this.#refresh();
    if (!this.#map) return;
    viewport.apply(context);
    const [x0, y0, x1, y1] = this.#map.box;
    context.imageSmoothingEnabled = false;
    context.drawImage(this.#borders, x0, y0, x1 - x0, y1 - y0);
    const mask = this.#pointed();
    if (mask && !mask.isEmpty) {
      const rgb = !this.#stroke ? PREVIEW_COLOUR : this.#stroke.isErasing ? ERASE_COLOUR : CURRENT_COLOUR;
      const image = this.#sprite(mask, rgb, viewport.density);
      context.drawImage(image.canvas, image.x, image.y, image.width, image.height);
    }
    context.imageSmoothingEnabled = true;
    context.setTransform(viewport.ratio, 0, 0, viewport.ratio, 0, 0);
  }

  #sprite(mask, rgb, density) {
    const shown = this.#shown;
    if (shown.rgb !== rgb || shown.density !== density) Object.assign(shown, { rgb, density, image: sprite(mask, { rgb, opacity: 0.45 }, density) });
    return shown.image;
  }

  /** The mask of the stroke's regions, else of the one under the pointer. */
  #pointed() {
    const { place } = this.editor.prompts;
    const under = place ? this.#map.at(place) : null;
    const labels = this.#stroke?.labels ?? new Set(under === null ? [] : [under]);
    const key = [...labels].join(" ");
    if (this.#shown?.key !== key) this.#shown = { key, mask: this.#map.maskOf(labels) };
    return this.#shown.mask;
  }

  close() {
    clearTimeout(this.#timer);
    this.#abort?.abort();
    this.#abort = null;
  }
}
