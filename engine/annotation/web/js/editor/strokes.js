// Brush and eraser. A stroke is painted over the mask in progress, or over the selected one.

import { toast } from "../shared/dom.js";
import { capsule, Mask, unionOf } from "../shared/rle.js";
import { withStroke } from "./work.js";
import { t } from "../shared/strings.js";

const MIN_RADIUS = 0.75; // always covers at least one pixel
const STEP = 1.25;
const [LIGHT, FIRM] = [0.25, 1.75]; // times the radius, with no and with full pressure of a pen

/** The brush's radius under a pen's pressure: half of it is the plain radius, as is none at all (null).
 * @param {number} radius
 * @param {number | null} pressure 0 to 1 */
export function radiusUnder(radius, pressure) {
  return pressure === null ? radius : Math.max(MIN_RADIUS, radius * (LIGHT + (FIRM - LIGHT) * pressure));
}

export class Strokes {
  #stroke = null;

  constructor(editor) {
    this.editor = editor;
    this.radius = Math.max(3, Math.round(Math.max(...editor.size) / 80));
  }

  resize(direction) {
    const most = Math.max(...this.editor.size) / 2;
    const next = this.radius * STEP ** direction;
    this.radius = Math.round(Math.min(most, Math.max(MIN_RADIUS, next)) * 100) / 100;
    this.editor.announce(t("Brush radius {n} pixels.", { n: Math.round(this.radius) }));
  }

  start(point, isErasing, pressure = null) {
    const { session, size } = this.editor;
    const hasSubject = session.current !== null || this.editor.selected !== null;
    if (isErasing && !hasSubject) {
      toast(t("There is nothing to erase yet: select a mask (double click) or start one."));
      return;
    }
    const [width, height] = size;
    const subject = isErasing ? this.editor.selected : this.editor.subjectAt({ x: point[0], y: point[1] });
    const work = session.workFor(subject);
    this.#stroke = { work, subject, isErasing, mask: Mask.empty(width, height), path: [], radii: [], joined: 0, shown: null, live: { boxes: [] } };
    this.editor.log.turnTo(work.id); // the time of the first stroke belongs to the mask
    this.editor.prompts.preview = null;
    this.to(point, pressure);
  }

  to(point, pressure = null) {
    const stroke = this.#stroke;
    this.editor.prompts.place = point;
    if (!stroke) return;
    const here = point.map((value) => Math.round(value * 10) / 10);
    const last = stroke.path.at(-1);
    if (last && here[0] === last[0] && here[1] === last[1]) return;
    stroke.path.push(here);
    stroke.radii.push(this.editor.viewPanel.view.hasPressure ? radiusUnder(this.radius, pressure) : this.radius);
    this.editor.frames.request();
  }

  /** Discards the stroke; true if there was one. */
  drop() {
    if (!this.#stroke) return false;
    this.#stroke = null;
    this.editor.log.turnTo(this.editor.session.current?.id ?? null);
    this.editor.frames.request();
    return true;
  }

  end() {
    const stroke = this.#stroke;
    if (!stroke) return;
    this.#join(stroke);
    if (stroke.mask.isEmpty) {
      this.drop();
      return;
    }
    this.#stroke = null;
    const { isErasing, path, radii } = stroke;
    const mean = radii.reduce((sum, radius) => sum + radius, 0) / radii.length;
    const event = { kind: isErasing ? "erase" : "brush", radius: Math.round(mean * 100) / 100, path };
    this.editor.session.addStroke(stroke.work, stroke.mask, isErasing, event);
    this.editor.selected = stroke.subject;
    this.editor.prompts.clicked = null;
    this.editor.update();
  }

  /** Adds what the brush has covered since the last frame, in one go: events come more often than frames. */
  #join(stroke) {
    const { path, radii, joined } = stroke;
    if (joined === path.length) return;
    const [width, height] = this.editor.size;
    const parts = path.slice(joined).map((here, i) => capsule(width, height, ...path[Math.max(0, joined + i - 1)], ...here, radii[joined + i]));
    const fresh = unionOf(parts);
    stroke.mask = stroke.mask.union(fresh);
    stroke.joined = path.length;
    stroke.live.boxes.push(fresh.box);
    stroke.shown = { ...withStroke(stroke.work, stroke.mask, stroke.isErasing), live: stroke.live };
  }

  /** The work including the stroke in progress; null between strokes. */
  get live() {
    const stroke = this.#stroke;
    if (!stroke) return null;
    this.#join(stroke);
    return stroke.shown;
  }

  /** The brush's outline at a place of the image. */
  ring(place) {
    const { tool } = this.editor;
    if (!["brush", "eraser"].includes(tool) || !place) return null;
    const isErasing = this.#stroke ? this.#stroke.isErasing : tool === "eraser";
    return { x: place[0], y: place[1], radius: this.#stroke?.radii.at(-1) ?? this.radius, isErasing };
  }
}
