// What keys and buttons do in the editor.

import { toast } from "../shared/dom.js";
import { candidatesBySize } from "./work.js";
import { t } from "../shared/strings.js";

const ZOOM_STEP = 1.3;
const CURSOR_PX = 6; // on the screen, per arrow key press
const CURSOR_FAST = 8;

export class Commands {
  #corner = null; // a box's first corner, set with the keyboard

  constructor(editor) {
    this.editor = editor;
    this.table = { ...this.#table(), ...editor.operations.table(), ...editor.viewPanel.table(), ...editor.options.commands };
  }

  run(action, event) {
    this.table[action]?.(event);
  }

  #table() {
    const { editor } = this;
    const look = (change) => () => {
      change(editor.look);
      editor.update();
    };
    const zoom = (factor) => () => {
      const { viewport } = editor;
      viewport.zoomAt(viewport.width / 2, viewport.height / 2, factor);
    };
    const candidates = [0, 1, 2].map((size) => [`candidate${size}`, () => this.#choose(size)]);
    return {
      finish: () => this.#finish(),
      drop: () => this.#drop(),
      undo: () => this.#travel("undo"),
      redo: () => this.#travel("redo"),
      nextCandidate: () => this.#nextCandidate(),
      ...Object.fromEntries(candidates),
      ...Object.fromEntries(["prompt", "scribble", "lasso", "wand", "brush", "eraser", "ruler"].map((tool) => [tool, () => editor.useTool(tool)])),
      takeAway: () => this.#takeAway(),
      smaller: () => this.#resize(-1),
      larger: () => this.#resize(1),
      nextMask: () => this.#step(1),
      previousMask: () => this.#step(-1),
      remove: () => this.#remove(),
      restore: () => editor.restore(editor.selected),
      up: () => this.#move(1),
      down: () => this.#move(-1),
      hide: look((state) => (state.isHidden = !state.isHidden)),
      solo: look((state) => (state.isSolo = !state.isSolo)),
      opacity: look((state) => (state.opacity = (state.opacity + 1) % 3)),
      contour: look((state) => (state.isContour = !state.isContour)),
      preview: look((state) => (state.hasPreview = !state.hasPreview)),
      labelList: () => editor.labelling?.pick(),
      labelConfirm: () => editor.labelling?.confirm(),
      fit: () => editor.viewport.fit(),
      zoomIn: zoom(ZOOM_STEP),
      zoomOut: zoom(1 / ZOOM_STEP),
      help: () => editor.keys.show(),
      switchArea: () => this.#switchArea(),
      left: (event) => this.#walk(-1, 0, event),
      right: (event) => this.#walk(1, 0, event),
      upwards: (event) => this.#walk(0, -1, event),
      downwards: (event) => this.#walk(0, 1, event),
      positive: () => this.#clickAtCursor(1),
      negative: () => this.#clickAtCursor(0),
      corner: () => this.#boxCorner(),
      pick: () => this.#atCursor((x, y) => editor.pick({ x, y })),
    };
  }

  #finish() {
    const { editor } = this;
    const { session } = editor;
    if (editor.drawing?.finish?.()) return;
    if (!session.current) {
      if (editor.isFix) toast(t("Nothing has changed yet."));
      else editor.select(null);
      return;
    }
    if (session.isWaiting && editor.prompts.soon.at(-1) === "finish") return; // pressed again
    if (editor.prompts.isPutOff("finish")) return;
    const work = session.finish();
    if (!work) {
      toast(t("This mask is empty. Click the object, or drop the mask with Esc."));
      return;
    }
    editor.selected = editor.isFix ? editor.selected : null;
    editor.prompts.clicked = null;
    editor.update();
    editor.announce(t("Mask {number} finished. You have made {n}.", { number: work.number, n: session.state.masks.length }));
    if (editor.isFix) editor.options.onDone?.(session.newMask(work));
  }

  #drop() {
    const { editor } = this;
    this.#corner = null;
    editor.prompts.soon = [];
    if (editor.pointer.dropDrag() || editor.prompts.dragBox) {
      editor.prompts.showBox(null);
    } else if (editor.drawing?.drop()) {
      editor.announce(t("Dropped."));
    } else if (editor.session.current) {
      editor.session.drop();
      editor.prompts.clicked = null;
      editor.update();
      editor.announce(t("Dropped."));
    } else if (editor.isFix) {
      editor.options.onCancel?.();
    } else {
      if (editor.selected === null && editor.drawing) editor.tool = "prompt";
      editor.select(null);
    }
  }

  #travel(kind) {
    const { editor } = this;
    if (editor.pointer.isBusy) return; // not in the middle of a stroke
    if (kind === "undo" && editor.drawing?.undo?.()) return;
    editor.prompts.soon = [];
    if (!editor.session[kind]()) return;
    editor.prompts.clicked = null;
    editor.prompts.preview = null;
    editor.update();
    editor.announce(kind === "undo" ? t("Undone.") : t("Redone."));
  }

  /** `size`: 0 whole, 1 part, 2 subpart. */
  #choose(size) {
    const { editor } = this;
    const { current } = editor.session;
    const found = current && candidatesBySize(current)[size];
    if (found !== undefined && editor.session.chooseCandidate(found)) editor.update();
  }

  #nextCandidate() {
    const { current } = this.editor.session;
    const bySize = current ? candidatesBySize(current) : [];
    if (bySize.length > 1) this.#choose((bySize.indexOf(current.candidate) + 1) % bySize.length);
  }

  /** For touch screens, which have no second button. */
  #takeAway() {
    const { editor } = this;
    editor.isNegative = !editor.isNegative;
    if (!editor.drawing?.takesSign) editor.tool = "prompt";
    editor.update();
  }

  #resize(direction) {
    const { drawing, strokes, frames } = this.editor;
    (drawing?.resize ? drawing : strokes).resize(direction);
    frames.request();
  }

  #step(direction) {
    const { editor } = this;
    const ids = editor.session.rows().filter((row) => !row.isRejected).map((row) => row.id);
    if (ids.length === 0) return;
    const from = ids.indexOf(editor.session.current?.id ?? editor.selected);
    const start = direction > 0 ? from + 1 : from - 1 + (from < 0 ? 1 : 0);
    editor.select(ids[(start + ids.length) % ids.length]);
  }

  #remove() {
    const { editor } = this;
    if (editor.isFix) return;
    if (editor.session.current) {
      this.#drop();
      return;
    }
    if (editor.selected === null || !editor.row || editor.row.isRejected) return;
    const { title, isPrefilled } = editor.row;
    editor.session.remove(editor.selected);
    editor.selected = null;
    editor.update();
    editor.announce(isPrefilled ? t("{mask} rejected.", { mask: title }) : t("{mask} deleted.", { mask: title }));
  }

  #move(step) {
    const { editor } = this;
    if (editor.session.current || editor.selected === null) return;
    if (editor.row?.isPrefilled) toast(t("Pre-filled masks always stay below your own."));
    else if (editor.session.move(editor.selected, step)) editor.update();
    else toast(step > 0 ? t("This mask is already on top.") : t("This mask cannot move further down."));
  }

  // The keyboard's crosshair ---------------------------------------------------

  #atCursor(visit) {
    const { editor } = this;
    if (!editor.prompts.cursor) this.#walk(0, 0);
    visit(...editor.prompts.cursor);
  }

  /** Starts at the pointer, or in the middle of the visible part. */
  #walk(dx, dy, event) {
    const { editor } = this;
    const { viewport } = editor;
    const [x0, y0, x1, y1] = viewport.seen;
    const start = editor.prompts.cursor ?? (editor.prompts.spot ? [editor.prompts.spot.x, editor.prompts.spot.y] : [(x0 + x1) / 2, (y0 + y1) / 2]);
    const length = Math.max(1, Math.round(CURSOR_PX / viewport.scale));
    const step = event?.shiftKey ? length * CURSOR_FAST : event?.altKey ? 1 : length;
    const inside = (value, most) => Math.min(most - 1, Math.max(0, Math.floor(value)));
    const [x, y] = [inside(start[0] + dx * step, editor.size[0]), inside(start[1] + dy * step, editor.size[1])];
    editor.prompts.cursor = [x, y];
    viewport.reveal([x, y, x + 1, y + 1]);
    editor.prompts.spot = { x, y, label: 1 };
    editor.prompts.place = [x + 0.5, y + 0.5];
    if (this.#corner) editor.prompts.showBox(boxOf(this.#corner, [x, y]));
    else editor.prompts.showPreview();
    editor.frames.request();
  }

  #clickAtCursor(label) {
    const { editor } = this;
    this.#atCursor((x, y) => {
      if (!editor.drawing) {
        editor.prompts.click({ x, y, label });
        return;
      }
      editor.drawing.start([x + 0.5, y + 0.5], label === 0);
      editor.drawing.end();
    });
  }

  #boxCorner() {
    this.#atCursor((x, y) => {
      if (this.#corner) {
        this.editor.prompts.addBox(boxOf(this.#corner, [x, y]));
        this.#corner = null;
      } else {
        this.#corner = [x, y];
        this.editor.announce(t("First corner set. Move to the opposite corner and press the key again."));
      }
    });
  }

  #switchArea() {
    const { rail, list, canvas } = this.editor.parts;
    const areas = [canvas, rail.querySelector("button:not(:disabled)"), list.querySelector("button"), document.querySelector("#submit")].filter(Boolean);
    const at = areas.findIndex((area) => area === document.activeElement || (area !== canvas && area.parentElement.contains(document.activeElement)));
    areas[(at + 1) % areas.length].focus();
  }
}

function boxOf(a, b) {
  return [Math.min(a[0], b[0]), Math.min(a[1], b[1]), Math.max(a[0], b[0]) + 1, Math.max(a[1], b[1]) + 1];
}
