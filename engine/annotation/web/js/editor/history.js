// Undo and redo over whole states. States are immutable and share unchanged parts, so keeping
// a few hundred of them costs little more than keeping one.

const LIMIT = 400;

export class History {
  #past = [];
  #future = [];

  /** `before` and `after`: states for undo and redo, the nearest first. */
  constructor(state, { before = [], after = [] } = {}) {
    this.state = state;
    this.#past = [...before].reverse();
    this.#future = [...after].reverse();
  }

  /** What the constructor takes. */
  get around() {
    return { before: [...this.#past].reverse(), after: [...this.#future].reverse() };
  }

  get canUndo() {
    return this.#past.length > 0;
  }

  get canRedo() {
    return this.#future.length > 0;
  }

  /** A step that can be undone. */
  commit(state) {
    this.#past.push(this.state);
    if (this.#past.length > LIMIT) this.#past.shift();
    this.#future = [];
    this.state = state;
  }

  /** A change that belongs to the last step, such as the model's answer to a click. */
  amend(state) {
    this.state = state;
  }

  undo() {
    if (!this.canUndo) return false;
    this.#future.push(this.state);
    this.state = this.#past.pop();
    return true;
  }

  redo() {
    if (!this.canRedo) return false;
    this.#past.push(this.state);
    this.state = this.#future.pop();
    return true;
  }

  /** Removes the last step without a redo, for a click that turns out to be a double click. */
  forget() {
    if (this.canUndo) this.state = this.#past.pop();
  }
}
