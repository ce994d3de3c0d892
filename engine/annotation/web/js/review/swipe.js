// A swipe of one finger: quick, and far more sideways than up or down. A slow one moves the image.

const LEAST_PX = 60;
const MOST_MS = 400;
const SIDEWAYS = 2;

/** What a movement of a finger means: "accept" to the right, "reject" to the left, else null.
 * @param {{x: number, y: number, at: number}} from in client pixels and milliseconds
 * @param {{x: number, y: number, at: number}} to */
export function swipeOf(from, to) {
  const [dx, dy] = [to.x - from.x, to.y - from.y];
  if (to.at - from.at > MOST_MS || Math.abs(dx) < LEAST_PX || Math.abs(dx) < SIDEWAYS * Math.abs(dy)) return null;
  return dx > 0 ? "accept" : "reject";
}

/** Calls `on(verdict)` for swipes over an element; where it scrolls, that is left to the browser. */
export function listenForSwipes(node, on) {
  let from = null;
  node.addEventListener("pointerdown", (event) => {
    const isFinger = event.pointerType === "touch" && event.isPrimary;
    from = isFinger ? { x: event.clientX, y: event.clientY, at: event.timeStamp } : null;
  });
  node.addEventListener("pointercancel", () => (from = null));
  node.addEventListener("pointerup", (event) => {
    const verdict = from && swipeOf(from, { x: event.clientX, y: event.clientY, at: event.timeStamp });
    from = null;
    if (verdict) on(verdict);
  });
}
