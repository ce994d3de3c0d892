// Two-finger gestures on a touch screen: moving and zooming.

export class Fingers {
  #at = new Map(); // pointer id -> [x, y]

  get count() {
    return this.#at.size;
  }

  down(event) {
    if (event.pointerType === "touch") this.#at.set(event.pointerId, [event.clientX, event.clientY]);
  }

  /** The movement of two fingers since the last call: {x, y, dx, dy, factor}, in client pixels; null
   * without two fingers. */
  move(event) {
    if (!this.#at.has(event.pointerId)) return null;
    const before = this.#pair();
    this.#at.set(event.pointerId, [event.clientX, event.clientY]);
    if (!before) return null;
    const { x, y, apart } = this.#pair();
    return { x, y, dx: x - before.x, dy: y - before.y, factor: apart / before.apart };
  }

  up(event) {
    this.#at.delete(event.pointerId);
  }

  #pair() {
    if (this.count !== 2) return null;
    const [[ax, ay], [bx, by]] = this.#at.values();
    return { x: (ax + bx) / 2, y: (ay + by) / 2, apart: Math.max(1, Math.hypot(ax - bx, ay - by)) };
  }
}
