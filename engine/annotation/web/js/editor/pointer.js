// Turns pointer events into clicks, boxes, strokes and moves of the image. It knows nothing about masks.

import { Fingers } from "../shared/fingers.js";

const DRAG_PX = 4; // on the screen; a shorter drag is a click
const FINGER_PX = 12; // the same for a finger
const LONG_MS = 500; // a longer touch marks what does not belong to the object
const DOUBLE_MS = 350;
const WHEEL_SPEED = 0.0016;

export class Pointer {
  #drag = null;
  #last = null; // the last click, to recognise a double one
  #isSpaceDown = false;
  #fingers = new Fingers();
  #long = null; // timer of a long touch

  /** `intents`: `click(point, label)`, `doubleClick(point)`, `pick(point)`, `dragBox(box|null, point)`,
   * `box(box)`, `strokeStart(point, isOther, pressure)`, `strokeTo(point, pressure)`, `strokeEnd()`, `strokeDrop()`,
   * `hover(point|null, label)`, `tool()` -> "prompt" or what strokes are for, `isNegative()`: whether plain
   * clicks say what does not belong to the object; `pointAt(point)` -> place of the click drawn there, or
   * null, `pointTo(place, point)`, `pointEnd()`, `pointRemove(place)`; `mapTo(x, y)`: shows what is under this
   * place of the canvas on the map, false beside it. Points are image pixels with fractions. */
  constructor(canvas, viewport, intents) {
    this.canvas = canvas;
    this.viewport = viewport;
    this.intents = intents;
    this.abort = new AbortController();
    const { signal } = this.abort;
    const on = (target, name, handler, options = {}) =>
      target.addEventListener(name, handler, { signal, ...options });
    on(canvas, "pointerdown", (event) => this.#down(event));
    on(canvas, "pointermove", (event) => this.#move(event));
    on(canvas, "pointerup", (event) => this.#up(event));
    on(canvas, "pointercancel", (event) => {
      this.#fingers.up(event);
      this.#cancel();
    });
    on(canvas, "pointerleave", () => !this.#drag && intents.hover(null, 1));
    on(canvas, "contextmenu", (event) => event.preventDefault());
    on(canvas, "wheel", (event) => this.#wheel(event), { passive: false });
    on(window, "keydown", (event) => this.#space(event, true), { capture: true });
    on(window, "keyup", (event) => this.#space(event, false), { capture: true });
    on(window, "blur", () => this.#space({ key: " " }, false));
  }

  #space(event, isDown) {
    if (event.key !== " " || event.ctrlKey) return;
    const isControl = event.target?.closest?.("button, input, select, textarea, a, dialog");
    if (isDown && isControl) return;
    if (isDown) event.preventDefault(); // otherwise the page scrolls
    this.#isSpaceDown = isDown;
    this.canvas.classList.toggle("is-grabbing", isDown);
  }

  #down(event) {
    this.#fingers.down(event);
    if (this.#fingers.count > 1) {
      this.#cancel(true); // the first finger belongs to a two-finger gesture
      return;
    }
    if (this.#drag) return;
    this.canvas.focus({ preventScroll: true });
    event.preventDefault();
    this.canvas.setPointerCapture(event.pointerId);
    const start = this.viewport.ofEvent(event);
    const screen = [event.clientX, event.clientY];
    const kind = this.#onMap(event) ? "map" : this.#kindOf(event);
    const isTouch = event.pointerType === "touch";
    const isOther = event.button === 2 || event.shiftKey || this.intents.isNegative();
    const reach = isTouch ? FINGER_PX : DRAG_PX;
    const place = kind === "prompt" ? this.intents.pointAt(start) : null;
    this.#drag = { kind, start, screen, last: screen, isOther, reach, place, hasMoved: false };
    if (kind === "stroke") {
      this.intents.strokeStart(start, isOther, pressureOf(event));
    } else if (kind === "prompt" && isTouch && !isOther && place === null) {
      this.#long = setTimeout(() => this.#press(this.#drag), LONG_MS);
    }
  }

  /** A long touch clicks at once; lifting the finger does nothing more. */
  #press(drag) {
    if (!drag || drag.hasMoved) return;
    this.#drag = null;
    navigator.vibrate?.(20);
    this.intents.click(drag.start, 0);
  }

  #onMap(event) {
    const corner = this.canvas.getBoundingClientRect();
    return event.button === 0 && this.intents.mapTo(event.clientX - corner.left, event.clientY - corner.top);
  }

  #kindOf(event) {
    if (event.button === 1 || this.#isSpaceDown) return "pan";
    if (event.altKey) return "pick";
    return this.intents.tool() === "prompt" ? "prompt" : "stroke";
  }

  #move(event) {
    const pinch = this.#fingers.move(event);
    if (pinch) {
      this.#pinch(pinch);
      return;
    }
    const point = this.viewport.ofEvent(event);
    const drag = this.#drag;
    if (!drag) {
      if (event.pointerType !== "touch") this.intents.hover(point, this.#labelOf(event));
      return;
    }
    const away = Math.hypot(event.clientX - drag.screen[0], event.clientY - drag.screen[1]);
    drag.hasMoved ||= away > drag.reach;
    if (drag.kind === "map") {
      const corner = this.canvas.getBoundingClientRect();
      this.intents.mapTo(event.clientX - corner.left, event.clientY - corner.top);
    } else if (drag.kind === "pan") {
      this.viewport.pan(event.clientX - drag.last[0], event.clientY - drag.last[1]);
    } else if (drag.kind === "stroke") {
      // all positions between two frames, so that a fast stroke stays smooth
      const events = event.getCoalescedEvents?.() ?? [];
      for (const part of events.length ? events : [event]) {
        this.intents.strokeTo(this.viewport.ofEvent(part), pressureOf(part));
      }
    } else if (drag.kind === "prompt" && drag.hasMoved && drag.place !== null) {
      this.intents.pointTo(drag.place, point);
    } else if (drag.kind === "prompt" && drag.hasMoved && !drag.isOther) {
      this.intents.dragBox(boxOf(drag.start, point), point);
    }
    drag.last = [event.clientX, event.clientY];
  }

  #labelOf(event) {
    return event.shiftKey || this.intents.isNegative() ? 0 : 1;
  }

  #pinch({ x, y, dx, dy, factor }) {
    const corner = this.canvas.getBoundingClientRect();
    this.viewport.pan(dx, dy);
    this.viewport.zoomAt(x - corner.left, y - corner.top, factor);
  }

  #up(event) {
    this.#fingers.up(event);
    clearTimeout(this.#long);
    const drag = this.#drag;
    if (!drag) return;
    this.#drag = null;
    const point = this.viewport.ofEvent(event);
    if (drag.kind === "stroke") this.intents.strokeEnd();
    else if (drag.kind === "pick") this.intents.pick(drag.start);
    else if (drag.kind === "prompt") this.#finishPrompt(drag, point, event);
  }

  #finishPrompt(drag, point, event) {
    if (drag.hasMoved && drag.place !== null) {
      this.intents.pointEnd();
      return;
    }
    if (drag.hasMoved && !drag.isOther) {
      this.intents.box(boxOf(drag.start, point));
      return;
    }
    const now = event.timeStamp;
    const last = this.#last;
    const isNear =
      last && Math.hypot(drag.screen[0] - last.screen[0], drag.screen[1] - last.screen[1]) <= drag.reach;
    if (isNear && !drag.isOther && now - last.at < DOUBLE_MS) {
      this.#last = null;
      this.intents.doubleClick(drag.start);
      return;
    }
    this.#last = drag.isOther || drag.place !== null ? null : { at: now, screen: drag.screen };
    if (drag.place !== null) this.intents.pointRemove(drag.place);
    else this.intents.click(drag.start, drag.isOther ? 0 : 1);
  }

  /** `isDropped`: a stroke in progress is discarded. */
  #cancel(isDropped = false) {
    clearTimeout(this.#long);
    if (this.#drag?.kind === "stroke") this.intents[isDropped ? "strokeDrop" : "strokeEnd"]();
    this.intents.dragBox(null);
    this.#drag = null;
  }

  get isBusy() {
    return this.#drag !== null;
  }

  /** Discards a box that is being drawn; true if there was one. */
  dropDrag() {
    if (this.#drag?.kind !== "prompt" || !this.#drag.hasMoved) return false;
    this.#cancel();
    return true;
  }

  #wheel(event) {
    event.preventDefault();
    const lines = event.deltaMode === 1 ? 33 : event.deltaMode === 2 ? 400 : 1;
    // a pinch on a touchpad arrives as a small wheel step with Ctrl
    const speed = event.ctrlKey ? WHEEL_SPEED * 6 : WHEEL_SPEED;
    const delta = Math.max(-240, Math.min(240, event.deltaY * lines));
    const corner = this.canvas.getBoundingClientRect();
    const [x, y] = [event.clientX - corner.left, event.clientY - corner.top];
    this.viewport.zoomAt(x, y, Math.exp(-delta * speed));
    if (!this.#drag) this.intents.hover(this.viewport.toImage(x, y), this.#labelOf(event));
  }

  close() {
    clearTimeout(this.#long);
    this.abort.abort();
  }
}

/** Of a pen, 0 to 1; null for all else, and for pens that do not say. */
export function pressureOf({ pointerType, pressure }) {
  return pointerType === "pen" && pressure > 0 ? pressure : null;
}

function boxOf(a, b) {
  return [Math.min(a[0], b[0]), Math.min(a[1], b[1]), Math.max(a[0], b[0]), Math.max(a[1], b[1])];
}
