// Sends prompts to the model. Clicks go first: a pending preview is aborted for them, unless it has the
// same prompt. Answers are cached by prompt, so undo, redo and a click on a previewed place need no
// request.

import { answerFrom, keyOf } from "./work.js";

const HOVER_MS = 40;
const KEPT_ANSWERS = 200;
const FIRST_RETRY_MS = 500;
const LAST_RETRY_MS = 8_000;

export class Prompter {
  #answers = new Map();
  #asked = null; // {key, abort}: for a click
  #peek = null; // the same for a preview
  #next = null; // the preview to request once the present one is answered
  #timer = null;

  /** `send(prompt, signal)` resolves to a Prediction. `handlers`: `answer(answer)`, `preview(answer)`,
   * `trouble(error, isLasting)`, `waiting(isWaiting)`. */
  constructor(send, handlers) {
    this.send = send;
    this.handlers = handlers;
  }

  known(prompt) {
    return this.#answers.get(keyOf(prompt)) ?? null;
  }

  /** For a click: the answer is passed to `handlers.answer`; temporary failures are tried again. */
  ask(prompt) {
    const key = keyOf(prompt);
    if (this.#asked?.key === key) return;
    this.cancel();
    this.#stopHover(key);
    const request = { key, abort: new AbortController() };
    this.#asked = request;
    this.handlers.waiting(true);
    void this.#persist(prompt, request);
  }

  /** Aborts the request of a click that was undone. */
  cancel() {
    if (!this.#asked) return;
    this.#asked.abort.abort();
    this.#asked = null;
    this.handlers.waiting(false);
  }

  async #persist(prompt, request) {
    let wait = FIRST_RETRY_MS;
    for (;;) {
      try {
        const answer = await this.#fetch(prompt, request);
        if (this.#asked !== request) return;
        this.#asked = null;
        this.handlers.waiting(false);
        this.handlers.answer(answer);
        return;
      } catch (error) {
        if (this.#asked !== request) return;
        const isTemporary = error.isTemporary ?? false;
        this.handlers.trouble(error, !isTemporary);
        if (!isTemporary) {
          this.cancel();
          return;
        }
      }
      await new Promise((resolve) => setTimeout(resolve, wait));
      if (this.#asked !== request) return;
      wait = Math.min(wait * 2, LAST_RETRY_MS);
    }
  }

  /** Waits for a pending preview of the same prompt, if there is one. */
  async #fetch(prompt, request) {
    if (this.#peek?.key === request.key) {
      try {
        return await this.#peek.answer;
      } catch {
        // aborted or failed: requested again
      }
    }
    return this.#request(prompt, request);
  }

  async #request(prompt, { key, abort }) {
    const answer = answerFrom(await this.send(prompt, abort.signal), key);
    this.#answers.set(key, answer);
    if (this.#answers.size > KEPT_ANSWERS) this.#answers.delete(this.#answers.keys().next().value);
    return answer;
  }

  /** For the place under the pointer. At most one request is pending; of later ones only the last is
   * sent, and not before the server had as long a rest as the answer took. `wanted(answer)`: whether a
   * late answer is still useful. */
  hover(prompt, wanted) {
    const answer = this.known(prompt);
    if (answer) {
      this.#next = null;
      this.handlers.preview(answer);
      return;
    }
    if (this.#peek?.key === keyOf(prompt)) {
      this.#next = null;
      return;
    }
    this.#next = { prompt, wanted };
    if (this.#peek || this.#asked) return;
    this.#timer ??= setTimeout(() => this.#sendNext(), HOVER_MS);
  }

  #sendNext() {
    this.#timer = null;
    if (!this.#next || this.#peek || this.#asked) return;
    const { prompt, wanted } = this.#next;
    const began = performance.now();
    this.#next = null;
    const peek = { key: keyOf(prompt), abort: new AbortController() };
    peek.answer = this.#request(prompt, peek);
    this.#peek = peek;
    const isPresent = () => this.#peek === peek;
    peek.answer
      .then((answer) => {
        if (isPresent() && !this.#asked && wanted(answer)) this.handlers.preview(answer);
      })
      .catch((error) => {
        if (isPresent() && error.name !== "AbortError") this.handlers.trouble(error, false);
      })
      .finally(() => {
        if (!isPresent()) return;
        this.#peek = null;
        this.#timer ??= setTimeout(() => this.#sendNext(), performance.now() - began);
      });
  }

  /** Aborts the preview: the pointer left, or a click goes first. */
  stopHover() {
    this.#stopHover(null);
  }

  #stopHover(keepKey) {
    clearTimeout(this.#timer);
    this.#timer = this.#next = null;
    if (!this.#peek || this.#peek.key === keepKey) return;
    this.#peek.abort.abort();
    this.#peek = null;
  }

  close() {
    this.cancel();
    this.stopHover();
  }
}
