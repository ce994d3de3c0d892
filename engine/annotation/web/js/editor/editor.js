// The mask editor, for annotating and for a reviewer's fix.
//
//   const editor = mountEditor(container, {api, task, masks, mode, ...});
//
// `container`  an element with its own size; it is filled, and emptied by `editor.destroy()`.
// `task`       a TaskView; of it id, lease_id and image are used.
// `masks`      MaskViews: pre-filled ones (mode "complete"), none ("annotate"), or the one mask that is
//              to be fixed ("fix").
// `mode`       "annotate" | "complete" | "fix". In "fix" there is no list; Enter passes the mask to `onDone`.
// Optional:
// `draft`      a draft's data to resume from (what `editor.draft()` returned).
// `categories` the dataset's Categories, for labels; `nextLabel`: id of the category of new masks, or null.
// `keys`       a Keys; `commands` {id: function} adds to or replaces what keys do ("submit", "skip" ...).
// `onChange(draft)` the draft's content has changed; the draft is passed in "fix" only.
// `onBusy(is)` the model was asked about a click / has answered. `onTrouble(error)`: a request failed;
//              temporary failures are tried again by the editor. `onContact()`: one succeeded.
// `onView()`   a frame was drawn: the image may have moved.
// `onDone(newMask)`  fix: the finished mask, a NewMask that `replaces` the given one. `onCancel()`: cancelled.
//
// Returned: masks(), current(), draft(), submission(), toScreen(x, y), run(action),
// frameTimes(), frameIntervals(), destroy(), and `session`, `ready` (a promise: the image is there).

import { WorkLog } from "../shared/clock.js";
import { pointOnMap } from "./aids.js";
import { Adjusted } from "./adjusted.js";
import { Commands } from "./commands.js";
import { el, toast } from "../shared/dom.js";
import { count, percent } from "../shared/format.js";
import { Frames } from "./frames.js";
import { Keys } from "./keys.js";
import { Labelling } from "./labelling.js";
import { MaskLayer } from "./layers.js";
import { buildLayout, fillBar } from "./layout.js";
import { Loupe } from "./loupe.js";
import { MaskList } from "./masklist.js";
import { MaskOperations } from "./mask_operations.js";
import { Panels } from "./panel.js";
import { Picture } from "./picture.js";
import { Pointer } from "./pointer.js";
import { pixelOf, Prompts } from "./prompts.js";
import { Scene } from "./scene.js";
import { Session } from "./session.js";
import { Snapping } from "./snapping.js";
import { Strokes } from "./strokes.js";
import { isAround, isNear } from "./subject.js";
import { Tiles } from "./tiles.js";
import { toolsOf } from "./tools.js";
import { Viewport } from "./viewport.js";
import { ViewPanel } from "./view_panel.js";
import { t } from "../shared/strings.js";

const HINT_SECONDS = 30;
const OPACITIES = [0.25, 0.5, 0.75];
const MAGNIFIED = new Set(["lasso", "scribble", "brush", "eraser", "ruler"]); // tools whose place matters to the pixel

export function mountEditor(container, options) {
  return new Editor(container, options);
}

class Editor {
  constructor(container, options) {
    this.options = options;
    this.task = options.task;
    this.isFix = options.mode === "fix";
    this.container = container;
    const { width, height } = this.task.image;
    this.size = [width, height];
    this.keys = options.keys ?? new Keys();
    this.log = new WorkLog();
    this.session = new Session({ width, height, prefilled: options.masks ?? [], log: this.log });
    const { categories } = options;
    this.labelling = categories?.isUsed ? new Labelling(this, categories) : null;
    this.keys.categories = this.labelling ? categories : null;
    this.session.nextLabel = options.nextLabel ?? null;
    if (options.draft) this.#restore(options.draft);
    this.tool = "prompt";
    this.isNegative = false; // clicks say what does not belong to the object
    this.look = { isHidden: false, isSolo: false, isContour: false, hasPreview: true, opacity: 1 };
    this.selected = this.isFix ? options.masks[0].mask_id : null;
    this.#mount(width, height);
    this.update();
    if (this.isFix) this.viewport.approach(this.session.prefilled[0].mask.box);
    this.parts.canvas.focus({ preventScroll: true });
  }

  #restore(draft) {
    try {
      this.session.fromDraft(draft);
    } catch (error) {
      console.error("The draft could not be read", error);
      toast(t("The saved work on this image could not be read. Please start again."), "bad");
    }
  }

  #mount(width, height) {
    this.abort = new AbortController();
    this.operations = new MaskOperations(this);
    this.viewPanel = new ViewPanel(this);
    const commands = new Commands(this);
    this.run = (action, event = null) => commands.run(action, event);
    this.parts = buildLayout(this.container, this.keys, this.run, { hasList: !this.isFix });
    const { canvas } = this.parts;
    this.frames = new Frames(() => this.#draw());
    this.viewport = new Viewport(canvas, width, height, () => this.frames.request());
    this.scene = new Scene(canvas, this.viewport);
    this.loupe = new Loupe();
    this.layer = new MaskLayer(width, height);
    this.picture = new Picture((side) => this.viewPanel.urlOf(side), width, height, () => {
      this.list?.refresh();
      this.frames.request();
    });
    const redraw = () => this.frames.request();
    this.tiles = this.picture.isTiled ? new Tiles((path) => this.viewPanel.tileUrlOf(path), this.size, redraw) : null;
    this.adjusted = new Adjusted(this.picture, this.tiles, redraw);
    this.adjusted.set(this.viewPanel.view);
    this.ready = this.picture.ready;
    this.snapping = new Snapping(this);
    this.strokes = new Strokes(this);
    this.tools = toolsOf(this);
    this.panels = new Panels(this.parts.stage, () => this.#showPressed());
    this.prompts = new Prompts(this);
    this.pointer = new Pointer(canvas, this.viewport, this.#intents());
    this.list = new MaskList(this.parts.list, {
      select: (id) => this.select(id),
      toggle: (id) => this.toggle(id),
      restore: (id) => this.restore(id),
      label: (row) => (row.isRejected ? null : (this.labelling?.categories.badge(row.label, row.suggested) ?? null)),
      picture: () => this.#thumbSource(),
    });
    this.#listen();
  }

  #thumbSource() {
    const bitmap = this.picture.full ?? this.picture.small;
    return bitmap ? { bitmap } : null;
  }

  #listen() {
    const { signal } = this.abort;
    document.addEventListener("keydown", (event) => this.#keydown(event), { capture: true, signal });
    for (const name of ["pointerdown", "pointermove", "wheel", "keydown"]) {
      document.addEventListener(name, () => this.log.touch(), { capture: true, passive: true, signal });
    }
    document.addEventListener("visibilitychange", () => this.log.tick(), { capture: true, signal });
    // a button pressed with the mouse does not keep the focus, so that Enter finishes the mask
    this.container.addEventListener(
      "click",
      (event) => event.detail > 0 && this.parts.canvas.focus({ preventScroll: true }),
      { signal },
    );
    this.timer = setInterval(() => this.#tick(), 1_000);
  }

  #intents() {
    const { prompts } = this;
    return {
      tool: () => this.tool,
      click: (point, label) => prompts.click({ ...pixelOf(point), label }),
      doubleClick: (point) => prompts.doubleClick(pixelOf(point)),
      pick: (point) => this.pick(pixelOf(point)),
      dragBox: (box, point) => prompts.showBox(box, point),
      box: (box) => prompts.addBox(box),
      strokeStart: (point, isOther, pressure) => this.drawing.start(point, isOther, pressure),
      strokeTo: (point, pressure) => this.drawing.to(point, pressure),
      strokeEnd: () => this.drawing.end(),
      strokeDrop: () => this.drawing.drop(),
      isNegative: () => this.isNegative,
      pointAt: (point) => prompts.pointAt(point),
      pointTo: (place, point) => prompts.movePoint(place, point),
      pointEnd: () => prompts.endMove(),
      pointRemove: (place) => prompts.removePoint(place),
      mapTo: (x, y) => {
        const point = this.viewPanel.view.hasMap ? pointOnMap(this.viewport, x, y) : null;
        if (point) this.viewport.center(point);
        return point !== null;
      },
      hover: (point, label) => {
        const isOver = point && this.tool === "prompt" && prompts.pointAt(point) !== null;
        this.parts.canvas.dataset.over = isOver ? "point" : "";
        prompts.hover(point, label);
      },
    };
  }

  // Tools --------------------------------------------------------------------

  /** The tool in use; null while it is clicks and boxes. */
  get drawing() {
    return this.tools[this.tool] ?? null;
  }

  /** Takes a tool; the same one again returns to clicks. What the former tool has begun is finished. */
  useTool(tool) {
    if (this.pointer.isBusy) return;
    this.drawing?.finish?.();
    this.tool = this.tool === tool ? "prompt" : tool;
    const { prompts } = this;
    if (this.drawing && !this.drawing.takesSign) this.isNegative = false;
    if (this.drawing && prompts.cursor) prompts.place = prompts.cursor.map((value) => value + 0.5);
    this.update();
  }

  // Selection ----------------------------------------------------------------

  /** Finishes the mask in progress first, so that selecting another mask loses nothing. */
  select(id) {
    if (this.isFix) return;
    if (this.session.current && id !== this.session.current.id) this.session.finish() ?? this.session.drop();
    this.selected = id;
    const row = id === null ? null : this.rowOf(id);
    if (row) this.viewport.reveal(row.mask.box);
    this.update();
    if (row) this.announce(t("{mask} selected. {note}", { mask: row.title, note: row.note }));
  }

  /** Selects the topmost mask at a pixel; if it is already selected, the one below it. */
  pick({ x, y }) {
    const under = this.session.at(x, y).map((item) => item.id);
    const next = under[(under.indexOf(this.selected) + 1) % under.length];
    this.select(next ?? null);
  }

  /** The selected mask if a click or a stroke at this place can be meant for it; null if it starts a
   * new one. */
  subjectAt(point) {
    return this.#subject((box) => isNear(box, point, this.viewport.scale));
  }

  /** The same for a box. */
  subjectOf(box) {
    return this.#subject((own) => isAround(own, box));
  }

  #subject(isMeant) {
    if (this.isFix || this.session.current || !this.row) return this.selected;
    return isMeant(this.row.mask.box) ? this.selected : null;
  }

  rowOf(id) {
    return this.session.rows().find((row) => row.id === id) ?? null;
  }

  toggle(id) {
    const { hiddenIds } = this.session;
    if (!hiddenIds.delete(id)) hiddenIds.add(id);
    this.update();
  }

  restore(id) {
    this.session.restore(id);
    this.selected = id;
    this.update();
    this.announce(t("Restored."));
  }

  // Showing ------------------------------------------------------------------

  announce(text) {
    this.parts.live.textContent = text;
  }

  /** After every change of the session, the selection or the look. */
  update() {
    const { session, parts, look } = this;
    this.prompts.ask();
    const rows = session.rows();
    this.row = rows.find((row) => row.id === this.selected) ?? null;
    if (!this.row && !session.current) this.selected = this.isFix ? this.selected : null;
    if (!session.current && this.selected === null) this.isNegative = false; // there is no mask to remove from
    this.items = session.items().filter((item) => !session.hiddenIds.has(item.id));
    this.layer.show(this.items);
    this.layer.setOpacity(look.isContour ? 0 : OPACITIES[look.opacity]);
    this.list.show(rows, session.current?.id ?? this.selected);
    this.#showCounts();
    this.#showBar();
    this.operations.ghost = null;
    this.#showPressed();
    parts.buttons.undo.disabled = !session.history.canUndo;
    parts.buttons.redo.disabled = !session.history.canRedo;
    parts.canvas.dataset.tool = this.tool;
    this.prompts.showPreview();
    this.frames.request();
    if (this.knownState !== undefined && this.knownState !== session.state) this.changed();
    this.knownState = session.state;
  }

  #showPressed() {
    const { look, panels } = this;
    const states = { takeAway: this.isNegative, preview: look.hasPreview, hide: look.isHidden, solo: look.isSolo, contour: look.isContour };
    for (const tool of ["prompt", ...Object.keys(this.tools)]) states[tool] = this.tool === tool;
    for (const panel of ["edit", "adjust"]) states[panel] = panels.open === panel;
    for (const [name, isOn] of Object.entries(states)) this.parts.buttons[name]?.setAttribute("aria-pressed", String(isOn));
  }

  /** With many masks a draft takes long to serialise, so the page asks for it when it needs one. */
  changed() {
    this.options.onChange?.(this.isFix ? this.draft() : undefined);
  }

  #showCounts() {
    const { masks, rejected } = this.session.state;
    const parts = [t("{n} yours", { n: count(masks.length) })];
    if (this.session.prefilled.length) parts.push(t("{n} pre-filled", { n: count(this.session.prefilled.length) }));
    if (rejected.length) parts.push(t("{n} rejected", { n: count(rejected.length) }));
    this.parts.counts.textContent = parts.join(" · ");
  }

  #showBar() {
    const { current } = this.session;
    const signature = JSON.stringify([current?.id, current?.candidate, current?.answer?.key, this.row?.id, this.row?.note, this.#labelState()]);
    if (signature === this.barSignature) return; // keeps the button that is being pressed
    this.barSignature = signature;
    const chip = this.labelling?.chip() ?? null;
    fillBar(this.parts.bar, { work: current, selected: this.row, isFix: this.isFix, keys: this.keys, run: this.run, chip });
  }

  #labelState() {
    if (!this.labelling) return null;
    const id = this.session.current?.id ?? this.selected;
    return id === null ? this.session.nextLabel : [this.session.labelOf(id), this.row?.suggested?.category_id];
  }

  #draw() {
    const { session, look, viewport } = this;
    const stroke = this.strokes.live;
    const selected = this.row && session.current === null && !stroke ? this.row : null;
    const view = {
      picture: this.adjusted,
      view: this.viewPanel.view,
      layer: this.layer,
      items: stroke ? this.items.filter((item) => item.id !== stroke.id && item.id !== stroke.replaces) : this.items,
      look,
      selected,
      current: stroke ?? session.current,
      preview: this.prompts.preview,
      points: this.prompts.shownPoints,
      dragBox: this.prompts.dragBox,
      ghost: this.operations.ghost,
      brush: this.strokes.ring(this.prompts.place),
      tool: this.drawing,
      cursor: this.prompts.cursor,
    };
    this.scene.draw(view);
    const { place, isDragging } = this.prompts;
    if (view.view.hasLoupe && place && (isDragging || MAGNIFIED.has(this.tool))) this.loupe.draw(this.scene.context, viewport, place, view);
    this.parts.zoom.textContent = percent(viewport.scale);
    this.options.onView?.();
  }

  #tick() {
    this.log.tick();
    const { current } = this.session;
    const isLong = current !== null && this.log.of(current.id).seconds > HINT_SECONDS;
    if (!isLong) this.parts.hint.hidden = true;
    if (!isLong || this.hinted === current.id) return;
    this.hinted = current.id;
    const close = () => (this.parts.hint.hidden = true);
    const text = t("You have worked on this mask for half a minute. If it is nearly right, finish it and move on.");
    this.parts.hint.replaceChildren(
      text,
      el("button", { class: "button button-quiet", type: "button", "aria-label": t("Close this hint"), onclick: close }, "✕"),
    );
    this.parts.hint.hidden = false;
    this.announce(text);
  }

  // Keys ---------------------------------------------------------------------

  #keydown(event) {
    if (document.querySelector("dialog[open]") || event.isComposing) return;
    if (event.target.closest?.("input:not([type=range]), select, textarea")) return;
    // the review page below has its own keys
    if (this.isFix) event.stopImmediatePropagation();
    const label = this.labelling?.categories.forKey(event);
    const action = this.keys.actionOf(event);
    if (!action && label === undefined) return;
    const isControl = event.target.closest?.("button, a, summary, input") ?? false;
    // on a button, keys that press buttons and move between them keep their meaning
    if (isControl && /^(Tab|Enter| |Arrow.*)$/.test(event.key) && !event.ctrlKey && !event.metaKey) return;
    event.preventDefault();
    event.stopImmediatePropagation();
    if (isControl && event.key === "Escape") this.parts.canvas.focus();
    else if (label !== undefined) this.labelling.give(label);
    else this.run(action, event);
    this.log.touch();
  }

  // For the page -------------------------------------------------------------

  masks() {
    return this.session.state.masks.map((work) => this.session.newMask(work));
  }

  current() {
    return this.session.current;
  }

  /** `withPast`: includes the undo steps, which only this browser keeps. */
  draft(withPast = false) {
    this.log.tick();
    const draft = this.session.toDraft();
    return withPast ? { ...draft, past: this.session.toPast() } : draft;
  }

  /** Schema `Submission` without the lease; what is in progress must have been finished. */
  submission() {
    return this.session.submission();
  }

  /** Client coordinates of the middle of an image pixel. */
  toScreen(x, y) {
    const corner = this.parts.canvas.getBoundingClientRect();
    const [left, top] = this.viewport.fromImage(x + 0.5, y + 0.5);
    return [corner.left + left, corner.top + top];
  }

  frameTimes() {
    return this.frames.times;
  }

  frameIntervals() {
    return this.frames.intervals;
  }

  destroy() {
    this.isDestroyed = true;
    this.abort.abort();
    clearInterval(this.timer);
    for (const part of [this.viewPanel, this.tools.wand, this.pointer, this.prompts, this.viewport, this.list, this.picture, this.tiles, this.frames]) part?.close();
    this.container.replaceChildren();
    this.container.classList.remove("editor", "has-list");
  }
}
