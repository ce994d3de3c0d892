// What the pointer means: a click, a box, a stroke, or moving the image. It knows nothing of masks.

const DRAG_PX = 4; // on the screen; less is a click with an unsteady hand
const DOUBLE_MS = 350;
const WHEEL_SPEED = 0.0016;

export class Pointer {
  #drag = null;
  #last = null; // the last click, to recognise a double one
  #isSpaceDown = false;

  /** `intents`: `click(point, label)`, `doubleClick(point)`, `pick(point)`, `dragBox(box|null)`,
   * `box(box)`, `strokeStart(point, isErasing)`, `strokeTo(point)`, `strokeEnd()`, `hover(point|null,
   * label)`, `tool()` -> "prompt" | "brush" | "eraser". Points are image pixels with fractions. */
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
    on(canvas, "pointercancel", () => this.#cancel());
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
    if (isDown) event.preventDefault(); // it would scroll
    this.#isSpaceDown = isDown;
    this.canvas.classList.toggle("is-grabbing", isDown);
  }

  #down(event) {
    if (this.#drag) return;
    this.canvas.focus({ preventScroll: true });
    event.preventDefault();
    this.canvas.setPointerCapture(event.pointerId);
    const start = this.viewport.ofEvent(event);
    const screen = [event.clientX, event.clientY];
    const kind = this.#kindOf(event);
    const isOther = event.button === 2 || event.shiftKey;
    this.#drag = { kind, start, screen, last: screen, isOther, hasMoved: false };
    if (kind === "stroke") {
      this.intents.strokeStart(start, (this.intents.tool() === "eraser") !== isOther);
    }
  }

  #kindOf(event) {
    if (event.button === 1 || this.#isSpaceDown) return "pan";
    if (event.altKey) return "pick";
    return this.intents.tool() === "prompt" ? "prompt" : "stroke";
  }

  #move(event) {
    const point = this.viewport.ofEvent(event);
    const drag = this.#drag;
    if (!drag) {
      this.intents.hover(point, event.shiftKey ? 0 : 1);
      return;
    }
    const away = Math.hypot(event.clientX - drag.screen[0], event.clientY - drag.screen[1]);
    drag.hasMoved ||= away > DRAG_PX;
    if (drag.kind === "pan") {
      this.viewport.pan(event.clientX - drag.last[0], event.clientY - drag.last[1]);
    } else if (drag.kind === "stroke") {
      // all places between two frames: a fast stroke stays round
      const events = event.getCoalescedEvents?.() ?? [];
      for (const part of events.length ? events : [event]) {
        this.intents.strokeTo(this.viewport.ofEvent(part));
      }
    } else if (drag.kind === "prompt" && drag.hasMoved && !drag.isOther) {
      this.intents.dragBox(boxOf(drag.start, point));
    }
    drag.last = [event.clientX, event.clientY];
  }

  #up(event) {
    const drag = this.#drag;
    if (!drag) return;
    this.#drag = null;
    const point = this.viewport.ofEvent(event);
    if (drag.kind === "stroke") this.intents.strokeEnd();
    else if (drag.kind === "pick") this.intents.pick(drag.start);
    else if (drag.kind === "prompt") this.#finishPrompt(drag, point, event);
  }

  #finishPrompt(drag, point, event) {
    if (drag.hasMoved && !drag.isOther) {
      this.intents.box(boxOf(drag.start, point));
      return;
    }
    const now = event.timeStamp;
    const last = this.#last;
    const isNear =
      last && Math.hypot(drag.screen[0] - last.screen[0], drag.screen[1] - last.screen[1]) <= DRAG_PX;
    if (isNear && !drag.isOther && now - last.at < DOUBLE_MS) {
      this.#last = null;
      this.intents.doubleClick(drag.start);
      return;
    }
    this.#last = drag.isOther ? null : { at: now, screen: drag.screen };
    this.intents.click(drag.start, drag.isOther ? 0 : 1);
  }

  #cancel() {
    if (this.#drag?.kind === "stroke") this.intents.strokeEnd();
    this.intents.dragBox(null);
    this.#drag = null;
  }

  get isBusy() {
    return this.#drag !== null;
  }

  /** Drops a box that is being drawn; true where there was one. */
  dropDrag() {
    if (this.#drag?.kind !== "prompt" || !this.#drag.hasMoved) return false;
    this.#cancel();
    return true;
  }

  #wheel(event) {
    event.preventDefault();
    const lines = event.deltaMode === 1 ? 33 : event.deltaMode === 2 ? 400 : 1;
    // a pinch on a touchpad comes as a small wheel step with Ctrl
    const speed = event.ctrlKey ? WHEEL_SPEED * 6 : WHEEL_SPEED;
    const delta = Math.max(-240, Math.min(240, event.deltaY * lines));
    const corner = this.canvas.getBoundingClientRect();
    const [x, y] = [event.clientX - corner.left, event.clientY - corner.top];
    this.viewport.zoomAt(x, y, Math.exp(-delta * speed));
    if (!this.#drag) this.intents.hover(this.viewport.toImage(x, y), event.shiftKey ? 0 : 1);
  }

  close() {
    this.abort.abort();
  }
}

function boxOf(a, b) {
  return [Math.min(a[0], b[0]), Math.min(a[1], b[1]), Math.max(a[0], b[0]), Math.max(a[1], b[1])];
}
