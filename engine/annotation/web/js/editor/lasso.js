// Polygon and lasso in one tool: clicks set corners, a drag draws freely. What is enclosed is added to the
// mask, or removed from it. An outline that is drawn in one go closes by itself.

import { CURRENT_COLOUR, ERASE_COLOUR } from "./colours.js";
import { toast } from "../shared/dom.js";
import { polygon } from "../shared/polygon.js";
import { t } from "../shared/strings.js";

const CLOSE_PX = 10; // on the screen: a click this close to the first corner closes the outline
const FREE_PX = 4; // a longer drag draws freely
const STEP_PX = 2; // between two corners of a free line
const MOST_CORNERS = 20_000; // as the server allows in an event

/** @param {number[]} rgb */
const css = ([r, g, b], alpha = 1) => `rgb(${r} ${g} ${b} / ${alpha})`;

export class Lasso {
  takesSign = true;
  /** @type {{work: object, subject: string | null, isErasing: boolean, points: number[][]} | null} */
  #line = null;
  #next = { place: null, isOn: false, at: null }; // where the next corner would be
  #pressed = null; // {at, isFree, isFirst}: while the pointer is down

  constructor(editor) {
    this.editor = editor;
  }

  /** Whether an outline is open. */
  get isOpen() {
    return this.#line !== null;
  }

  start(point, isOther) {
    const corner = this.editor.snapping.at(point);
    if (this.#line && (this.#closes(point) || this.#closes(corner))) {
      this.finish();
      return;
    }
    const isFirst = this.#line === null;
    if (isFirst) this.#line = this.#begin(point, isOther);
    if (!this.#line) return;
    this.#line.points.push(rounded(corner));
    this.#pressed = { at: point, isFree: false, isFirst };
    this.editor.frames.request();
  }

  #begin([x, y], isErasing) {
    const { editor } = this;
    const { session } = editor;
    if (isErasing && session.current === null && editor.selected === null) {
      toast(t("There is nothing to remove from yet: select a mask (double click) or start one."));
      return null;
    }
    const subject = isErasing ? editor.selected : editor.subjectAt({ x, y });
    const work = session.workFor(subject);
    editor.log.turnTo(work.id); // the time of drawing belongs to the mask
    editor.prompts.preview = null;
    return { work, subject, isErasing, points: [] };
  }

  /** Whether a click here closes the outline: near the first corner, or again on the last one. */
  #closes(point) {
    const { points } = this.#line;
    return points.length >= 3 && (this.#distance(point, points[0]) < CLOSE_PX || this.#distance(point, points.at(-1)) < FREE_PX);
  }

  #distance(a, b) {
    return Math.hypot(a[0] - b[0], a[1] - b[1]) * this.editor.viewport.scale;
  }

  to(point) {
    this.editor.prompts.place = point;
    this.editor.frames.request();
    const [pressed, line] = [this.#pressed, this.#line];
    if (!pressed || !line) return;
    pressed.isFree ||= this.#distance(point, pressed.at) > FREE_PX;
    const isFull = line.points.length >= MOST_CORNERS;
    if (!pressed.isFree || isFull) return;
    const corner = this.editor.snapping.at(point);
    if (this.#distance(corner, line.points.at(-1)) >= STEP_PX) line.points.push(rounded(corner));
  }

  end() {
    const pressed = this.#pressed;
    this.#pressed = null;
    if (pressed?.isFree && pressed.isFirst) this.finish();
  }

  /** Discards the outline; true if there was one. */
  drop() {
    if (!this.#line) return false;
    this.#line = this.#pressed = null;
    this.editor.log.turnTo(this.editor.session.current?.id ?? null);
    this.editor.frames.request();
    return true;
  }

  /** Removes the last corner; true if there was one. */
  undo() {
    if (!this.#line) return false;
    this.#line.points.pop();
    if (this.#line.points.length === 0) this.drop();
    this.editor.frames.request();
    return true;
  }

  /** Closes the outline; true if there was one. */
  finish() {
    const line = this.#line;
    if (!line) return false;
    const [width, height] = this.editor.size;
    const shape = polygon(width, height, line.points);
    if (shape.isEmpty) {
      this.drop();
      toast(t("This outline encloses no pixel. Set at least three corners."));
      return true;
    }
    this.#line = this.#pressed = null;
    const { session } = this.editor;
    const event = { kind: "outline", label: line.isErasing ? 0 : 1, path: line.points };
    session.addStroke(line.work, shape, line.isErasing, event);
    this.editor.selected = line.subject;
    this.editor.prompts.clicked = null;
    this.editor.update();
    return true;
  }

  /** Where a corner would be set; found once for each place, not at each frame. */
  #nextAt(place) {
    if (this.#next.place !== place || this.#next.isOn !== this.editor.snapping.isOn) {
      this.#next = { place, isOn: this.editor.snapping.isOn, at: this.editor.snapping.at(place) };
    }
    return this.#next.at;
  }

  #mark(context, [x, y]) {
    for (const [width, style] of /** @type {[number, string][]} */ ([[3.5, "rgb(0 0 0 / 0.6)"], [1.5, "#fff"]])) {
      context.lineWidth = width;
      context.strokeStyle = style;
      context.strokeRect(x - 3.5, y - 3.5, 7, 7);
    }
  }

  /** Draws the open outline, in screen pixels, with a line to where the next corner would be. */
  paint(context, viewport) {
    const line = this.#line;
    const { prompts, snapping } = this.editor;
    const next = prompts.place && this.#nextAt(prompts.place);
    if (next && snapping.isOn) this.#mark(context, viewport.fromImage(...next));
    if (!line) return;
    const isFree = this.#pressed?.isFree ?? false;
    const corners = [...line.points, ...(next && !isFree ? [next] : [])].map(([x, y]) => viewport.fromImage(x, y));
    const colour = line.isErasing ? ERASE_COLOUR : CURRENT_COLOUR;
    context.beginPath();
    for (const [x, y] of corners) context.lineTo(x, y);
    context.fillStyle = css(colour, 0.2);
    context.fill();
    for (const [width, style] of /** @type {[number, string][]} */ ([[3.5, "rgb(0 0 0 / 0.6)"], [1.5, css(colour)]])) {
      context.lineWidth = width;
      context.strokeStyle = style;
      context.stroke();
    }
    const [x, y] = corners[0];
    context.beginPath();
    context.arc(x, y, line.points.length >= 3 ? CLOSE_PX / 2 : 3, 0, 2 * Math.PI);
    context.fillStyle = css(colour);
    context.fill();
    context.strokeStyle = "#fff";
    context.stroke();
  }
}

function rounded(point) {
  return point.map((value) => Math.round(value * 10) / 10);
}
