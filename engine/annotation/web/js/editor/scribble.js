// A stroke that becomes several clicks: for objects of several parts, and where one click is not enough.

import { toast } from "../shared/dom.js";
import { t } from "../shared/strings.js";

const SPACING_PX = 45; // on the screen, between two clicks
const MOST_CLICKS = 8; // of a stroke
const MOST_POINTS = 200; // of a prompt, as the server allows
const COLOURS = { 0: "#ff8378", 1: "#4fd195" };

export class Scribble {
  takesSign = true;
  /** @type {{label: number, path: number[][]} | null} */
  #stroke = null;

  constructor(editor) {
    this.editor = editor;
  }

  start(point, isOther) {
    const { session, selected } = this.editor;
    if (isOther && session.current === null && selected === null) {
      toast(t("Start on the object. Then draw with Shift or the right button over what does not belong to it."));
      return;
    }
    this.#stroke = { label: isOther ? 0 : 1, path: [] };
    this.editor.prompts.preview = null;
    this.to(point);
  }

  to(point) {
    this.editor.prompts.place = point;
    this.#stroke?.path.push(point.map((value) => Math.round(value * 10) / 10));
    this.editor.frames.request();
  }

  drop() {
    const had = this.#stroke !== null;
    this.#stroke = null;
    this.editor.frames.request();
    return had;
  }

  end() {
    const { editor } = this;
    const stroke = this.#stroke;
    this.#stroke = null;
    if (!stroke) return;
    const { label, path } = stroke;
    const points = clicksAlong(path, SPACING_PX / editor.viewport.scale, editor.size).map(([x, y]) => ({ x, y, label }));
    if (points.length === 0) {
      editor.frames.request();
      return;
    }
    const subject = label ? editor.subjectAt(points[0]) : editor.selected;
    if (editor.session.workFor(subject).points.length + points.length > MOST_POINTS) {
      toast(t("A mask takes at most {n} clicks. Correct the rest with the brush or the lasso.", { n: MOST_POINTS }));
      return;
    }
    editor.selected = subject;
    editor.session.addPoints(subject, points, { kind: "scribble", label, path });
    editor.update();
  }

  paint(context, viewport) {
    if (!this.#stroke) return;
    context.beginPath();
    for (const [x, y] of this.#stroke.path) context.lineTo(...viewport.fromImage(x, y));
    context.lineCap = context.lineJoin = "round";
    for (const [width, style] of /** @type {[number, string][]} */ ([[6, "rgb(0 0 0 / 0.5)"], [3, COLOURS[this.#stroke.label]]])) {
      context.lineWidth = width;
      context.strokeStyle = style;
      context.stroke();
    }
  }
}

/** Pixels along a path, evenly and at most `spacing` apart while they are few enough; each once, inside
 * the image.
 * @param {number[][]} path
 * @param {number} spacing
 * @param {number[]} size width and height */
export function clicksAlong(path, spacing, [width, height]) {
  const lengths = path.map((point, i) => (i ? Math.hypot(point[0] - path[i - 1][0], point[1] - path[i - 1][1]) : 0));
  const total = lengths.reduce((sum, length) => sum + length, 0);
  const count = Math.min(MOST_CLICKS, Math.ceil(total / spacing) + (total > 0 ? 1 : 0)) || 1;
  const found = new Map();
  let [at, passed] = [0, 0];
  for (let i = 0; i < count; i += 1) {
    const wanted = count > 1 ? (total * i) / (count - 1) : 0;
    while (at + 1 < path.length && passed + lengths[at + 1] < wanted) passed += lengths[(at += 1)];
    const to = path[Math.min(at + 1, path.length - 1)];
    const share = lengths[at + 1] ? (wanted - passed) / lengths[at + 1] : 0;
    const [x, y] = [0, 1].map((axis) => Math.floor(path[at][axis] + (to[axis] - path[at][axis]) * share));
    if (x >= 0 && y >= 0 && x < width && y < height) found.set(`${x} ${y}`, [x, y]);
  }
  return [...found.values()];
}
