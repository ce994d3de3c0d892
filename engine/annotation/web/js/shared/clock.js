// Measures the time spent on each mask and on the whole task, and logs events. Time counts only while the
// tab is visible and the last input is less than half a minute ago.

const MAX_IDLE_MS = 30_000;
const MAX_EVENTS = 2_000; // of one mask, as the server allows
const MAX_PATH = 20_000;

export class WorkLog {
  #lastInput;
  #lastTick;
  #logs = new Map();

  /** `now`: monotonic milliseconds; `isHidden`: whether the tab is hidden. */
  constructor({ now = () => performance.now(), isHidden = () => document.hidden } = {}) {
    this.now = now;
    this.isHidden = isHidden;
    this.#lastInput = this.#lastTick = now();
    this.total = 0;
    this.current = null; // id of the mask that time is counted for
  }

  /** To be called at every input. */
  touch() {
    this.tick();
    this.#lastInput = this.now();
  }

  tick() {
    const now = this.now();
    const until = Math.min(now, this.#lastInput + MAX_IDLE_MS);
    const seconds = this.isHidden() ? 0 : Math.max(0, until - this.#lastTick) / 1_000;
    this.#lastTick = now;
    this.total += seconds;
    if (this.current !== null) this.of(this.current).seconds += seconds;
  }

  /** From now on time counts for this mask; null: for none. */
  turnTo(id) {
    if (id === this.current) return;
    this.tick();
    this.current = id;
  }

  of(id) {
    if (!this.#logs.has(id)) this.#logs.set(id, { seconds: 0, events: [] });
    return this.#logs.get(id);
  }

  /** Logs an event of schema `Event`; returns it, so that the answer's score can be added. */
  note(id, event) {
    this.tick();
    const log = this.of(id);
    const noted = { ...event, at: round(log.seconds) };
    if (noted.path) noted.path = thinned(noted.path);
    if (log.events.length < MAX_EVENTS) log.events.push(noted);
    return noted;
  }

  unnote(id) {
    this.of(id).events.pop();
  }

  /** For a submission or draft. */
  report(id) {
    const log = this.of(id);
    return { seconds: round(log.seconds), trajectory: log.events };
  }

  restore(id, { seconds, trajectory }) {
    this.#logs.set(id, { seconds, events: [...trajectory] });
  }
}

function round(seconds) {
  return Math.round(seconds * 100) / 100;
}

/** Keeps every nth point of a path that is too long, and the last one. */
function thinned(path) {
  if (path.length <= MAX_PATH) return path;
  const step = Math.ceil(path.length / (MAX_PATH - 1));
  return path.filter((_, i) => i % step === 0 || i === path.length - 1);
}
