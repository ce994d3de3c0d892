// Clicks and boxes, the model's answers to them, and the preview under the pointer.

import { toast } from "../shared/dom.js";
import { Prompter } from "./prompter.js";
import { promptOf, withPoint } from "./work.js";
import { t } from "../shared/strings.js";

const REST_PX = 5; // no preview this close to a click, so that its result stays visible
const POINT_PX = 8; // this close to a click, it is meant
const BUSY_MS = 400; // a longer wait is announced

export const pixelOf = ([x, y]) => ({ x: Math.floor(x), y: Math.floor(y) });

export class Prompts {
  spot = null; // {x, y, label}: the pixel that is pointed at
  place = null; // the same with fractions, [x, y]
  cursor = null; // the keyboard's crosshair, [x, y]
  clicked = null; // the last click, until the pointer has left it
  preview = null; // a mask
  dragBox = null; // a box that is being drawn
  /** @type {string[]} */
  soon = []; // what is done as soon as the model has answered
  #move = null; // {place, to}: a click that is being dragged

  constructor(editor) {
    this.editor = editor;
    this.prompter = new Prompter((prompt, signal) => this.#predict(prompt, signal), {
      answer: (answer) => this.#takeAnswer(answer),
      preview: (answer) => this.#showAnswer(answer),
      waiting: (isWaiting) => this.#showWaiting(isWaiting),
      trouble: (error, isLasting) => this.#trouble(error, isLasting),
    });
  }

  #isInside({ x, y }) {
    const [width, height] = this.editor.size;
    return x >= 0 && y >= 0 && x < width && y < height;
  }

  get #hasSubject() {
    return this.editor.session.current !== null || this.editor.selected !== null;
  }

  click(point) {
    if (!this.#isInside(point)) return;
    if (point.label === 0 && !this.#hasSubject) {
      toast(t("Start with a left click on the object. Then right-click on what does not belong to it."));
      return;
    }
    const { editor } = this;
    editor.selected = point.label ? editor.subjectAt(point) : editor.selected;
    editor.session.addPoint(editor.selected, point);
    this.clicked = point;
    this.soon = [];
    editor.update();
  }

  /** Undoes the first of the two clicks and selects the mask there. */
  doubleClick(pixel) {
    const { editor } = this;
    if (editor.session.at(pixel.x, pixel.y).length === 0) return;
    if (this.clicked) editor.session.forgetClick();
    this.clicked = null;
    editor.pick(pixel);
  }

  /** The place in the list of the click that is drawn at a place of the image; null without one. */
  pointAt([x, y]) {
    const { session, viewport } = this.editor;
    const distances = (session.current?.points ?? []).map((point) => Math.hypot(point.x + 0.5 - x, point.y + 0.5 - y) * viewport.scale);
    const least = Math.min(...distances);
    return least <= POINT_PX ? distances.lastIndexOf(least) : null;
  }

  /** The clicks of the mask in progress, with the one that is dragged where the pointer is. */
  get shownPoints() {
    const points = this.editor.session.current?.points ?? [];
    return this.#move ? points.map((point, i) => (i === this.#move.place ? { ...point, ...this.#move.to } : point)) : points;
  }

  /** Whether a click or a box is being dragged. */
  get isDragging() {
    return this.#move !== null || this.dragBox !== null;
  }

  movePoint(place, point) {
    const to = pixelOf(point);
    this.place = point;
    if (this.#isInside(to)) this.#move = { place, to };
    this.editor.frames.request();
  }

  endMove() {
    const move = this.#move;
    this.#move = null;
    const point = move && this.editor.session.current?.points[move.place];
    if (point && (point.x !== move.to.x || point.y !== move.to.y)) this.#changePoint(() => this.editor.session.movePoint(move.place, move.to));
    else this.editor.frames.request();
  }

  removePoint(place) {
    if (this.editor.session.current?.points[place]) this.#changePoint(() => this.editor.session.removePoint(place));
  }

  #changePoint(change) {
    change();
    this.clicked = this.preview = null;
    this.soon = [];
    this.editor.update();
  }

  /** `point`: where the pointer is. */
  showBox(box, point = null) {
    this.dragBox = box;
    this.place = point ?? this.place;
    this.#move = null;
    this.preview = null;
    this.prompter.stopHover();
    this.editor.frames.request();
  }

  addBox(corners) {
    const { editor } = this;
    this.dragBox = null;
    editor.frames.request();
    const [width, height] = editor.size;
    const limits = [width, height, width, height];
    const inside = (value, i) => Math.round(Math.min(limits[i], Math.max(0, value)) * 10) / 10;
    const box = corners.map(inside);
    if (box[2] - box[0] < 1 || box[3] - box[1] < 1) return;
    editor.selected = editor.subjectOf(box);
    editor.session.setBox(editor.selected, box);
    this.clicked = null;
    this.soon = [];
    editor.update();
  }

  // The model ----------------------------------------------------------------

  /** Requests the missing answer of the mask in progress: after a click, an undo or a restore. */
  ask() {
    const { session } = this.editor;
    const prompt = session.isWaiting ? promptOf(session.current) : null;
    const known = prompt && this.prompter.known(prompt);
    if (prompt && !known) {
      this.prompter.ask(prompt);
      return;
    }
    this.prompter.cancel();
    if (!known) return;
    session.takeAnswer(known);
    this.preview = null;
  }

  /** Whether an action has to wait for the answer to a click; it is then done after it.
   * @param {string} action */
  isPutOff(action) {
    if (!this.editor.session.isWaiting) return false;
    this.soon.push(action);
    return true;
  }

  async #predict(prompt, signal) {
    const { options, task } = this.editor;
    const answer = await options.api.predict(task.id, { lease_id: task.lease_id, ...prompt }, { signal });
    options.onContact?.();
    return answer;
  }

  #takeAnswer(answer) {
    const { editor } = this;
    if (!editor.session.takeAnswer(answer)) return;
    this.preview = null;
    const { mask } = editor.session.current;
    if (!mask || mask.isEmpty) toast(t("The model found no object there. Click another place, or drag a box."));
    const soon = this.soon.splice(0);
    if (soon.length) for (const action of soon) editor.run(action);
    else editor.update();
  }

  #showWaiting(isWaiting) {
    const { busy } = this.editor.parts;
    clearTimeout(this.busyTimer);
    if (isWaiting) this.busyTimer = setTimeout(() => (busy.hidden = false), BUSY_MS);
    else busy.hidden = true;
    this.editor.options.onBusy?.(isWaiting);
  }

  #trouble(error, isLasting) {
    this.editor.options.onTrouble?.(error);
    if (isLasting && error.status !== 409) toast(error.message, "bad");
  }

  // Preview ------------------------------------------------------------------

  /** `place`: the pointer's place on the image, null if it is elsewhere. */
  hover(place, label) {
    if (place) this.cursor = null;
    this.spot = place && { ...pixelOf(place), label };
    this.place = place;
    this.showPreview();
    this.editor.frames.request();
  }

  get #isPreviewOff() {
    const { look, tool, pointer, session } = this.editor;
    const { spot, clicked } = this;
    if (!look.hasPreview || tool !== "prompt" || pointer.isBusy || session.isWaiting) return true;
    if (!spot || !this.#isInside(spot) || (spot.label === 0 && !this.#hasSubject)) return true;
    if (this.pointAt([spot.x + 0.5, spot.y + 0.5]) !== null) return true; // a click here removes that one
    if (!clicked) return false;
    return Math.hypot(spot.x - clicked.x, spot.y - clicked.y) * this.editor.viewport.scale < REST_PX;
  }

  /** Requests the mask that a click at this place would make. */
  showPreview() {
    const { session } = this.editor;
    const { spot } = this;
    if (this.#isPreviewOff) {
      // until a click is answered, its preview is shown in place of the answer
      if (!session.isWaiting) this.preview = null;
      this.prompter.stopHover();
      return;
    }
    this.clicked = null;
    if (this.preview && !this.preview.has(spot.x, spot.y)) this.preview = null;
    const subject = spot.label ? this.editor.subjectAt(spot) : this.editor.selected;
    const prompt = promptOf(withPoint(session.workFor(subject), spot));
    // a late answer is still right if the pointer has not left the object
    const isWanted = (answer) => this.spot && (this.spot === spot || bestOf(answer).has(this.spot.x, this.spot.y));
    this.prompter.hover(prompt, isWanted);
  }

  #showAnswer(answer) {
    this.preview = bestOf(answer);
    this.editor.frames.request();
  }

  close() {
    clearTimeout(this.busyTimer);
    this.prompter.close();
  }
}

function bestOf(answer) {
  return answer.masks[answer.masks.length > 1 ? answer.best : 0];
}
