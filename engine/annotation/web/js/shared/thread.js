// The comments on an image: a list with pins on the picture, and a form for the next one.

import { api } from "./api.js";
import { byId, el, toast } from "./dom.js";
import { dateTime } from "./format.js";
import { t } from "./strings.js";

const MAX_LENGTH = 2_000;

/** `view.toScreen(x, y)` returns the place of an image point in CSS pixels of the pins' parent,
 * `view.show(x, y)` moves the picture there, `view.changed()` is called after the thread has changed.
 * `root` is the list, `pins` lies over the picture; the page puts both where they belong. */
export class Thread {
  /** @type {any[]} */
  comments = [];
  task = null;
  place = null; // of the comment that is being written: {x, y, mask_id}

  constructor(view, title = t("Comments")) {
    this.view = view;
    this.pins = el("div", { class: "pins" });
    this.list = el("ol", { class: "thread-list" });
    this.where = el("p", { class: "thread-where muted" });
    this.text = el("textarea", { class: "thread-text", rows: 2, maxlength: MAX_LENGTH, placeholder: t("Write a comment"), "aria-label": t("Comment") });
    this.send = el("button", { class: "button", type: "submit", disabled: true }, t("Send"));
    const form = el("form", { class: "thread-form", onsubmit: (event) => this.#submit(event) }, this.where, this.text, this.send);
    this.text.addEventListener("input", () => (this.send.disabled = !this.hasText));
    this.text.addEventListener("keydown", (event) => {
      event.stopPropagation(); // no key typed here is the page's
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) this.#submit(event);
      if (event.key === "Escape") this.pinAt(null);
    });
    this.root = el("section", { class: "thread", "aria-label": title }, el("h2", {}, title), this.list, form);
  }

  get hasText() {
    return this.text.value.trim() !== "";
  }

  /** Whether the reader has written a comment in the present task. */
  get hasMine() {
    return this.comments.some((comment) => comment.is_mine && comment.task_id === this.task.id);
  }

  get isOpen() {
    return this.comments.some((comment) => comment.resolved_at === null);
  }

  /** Shows the thread of a task's image. */
  async open(task) {
    this.task = task;
    this.comments = [];
    this.text.value = "";
    this.pinAt(null);
    this.#fill();
    try {
      const found = await api.comments(task.image.id);
      if (this.task !== task) return;
      this.comments = found;
      this.#fill();
      this.root.hidden = !found.length;
    } catch (problem) {
      if (problem.status !== 401) toast(t("The comments could not be loaded."), "bad");
    }
  }

  close() {
    this.task = null;
    this.pins.replaceChildren();
  }

  /** The place of the comment to write; null: an answer without a place. */
  pinAt(place) {
    this.place = place;
    this.#say(place ? t("At {x}, {y}", { x: Math.round(place.x), y: Math.round(place.y) }) : "");
    this.#fillPins();
    if (place) this.text.focus();
  }

  askPlace() {
    this.#say(t("Click the place on the image."));
  }

  #say(text) {
    this.where.textContent = text;
    this.where.hidden = !text;
    this.root.hidden = !text && !this.comments.length;
  }

  /** Sends what is written, if anything; throws where the server refuses it. */
  async flush() {
    if (!this.hasText || !this.task) return;
    const { task } = this;
    const body = { lease_id: task.lease_id, text: this.text.value, ...this.place };
    const added = await api.comment(task.id, body);
    if (this.task !== task) return;
    this.comments = [...this.comments, added];
    this.text.value = "";
    this.#fill();
    this.pinAt(null);
  }

  async #submit(event) {
    event.preventDefault();
    this.send.disabled = true;
    try {
      await this.flush();
    } catch (problem) {
      if (problem.status !== 401) toast(problem.message, "bad");
    }
    this.send.disabled = !this.hasText;
  }

  #fill() {
    this.list.replaceChildren(...this.comments.map((comment, number) => this.#entry(comment, number + 1)));
    this.list.lastElementChild?.scrollIntoView({ block: "nearest" });
    this.send.disabled = !this.hasText;
    this.#fillPins();
    this.view.changed?.();
  }

  #entry(comment, number) {
    const { author, text, created_at: at, resolved_at: resolved, x } = comment;
    const go = el("button", { class: "pin-number", type: "button", title: t("Show the place"), "aria-label": t("Show the place of comment {number}", { number }), onclick: () => this.show(comment) }, String(number));
    return el(
      "li",
      { class: `comment ${resolved ? "is-resolved" : ""}`, id: `comment-${comment.id}` },
      x === null ? el("span", { class: "pin-number is-answer", "aria-hidden": "true" }, "↳") : go,
      el(
        "div",
        { class: "comment-body" },
        el("div", { class: "comment-head muted" }, el("strong", {}, author), ` ${dateTime(at)}`, resolved && ` · ${t("resolved")}`),
        el("p", { class: "comment-text" }, text),
      ),
    );
  }

  show(comment) {
    this.view.show(comment.x, comment.y);
    this.mark(comment.id);
  }

  mark(id) {
    for (const node of this.list.children) node.classList.toggle("is-marked", node.id === `comment-${id}`);
    byId(`comment-${id}`)?.scrollIntoView({ block: "nearest" });
  }

  #fillPins() {
    const pinned = this.comments.map((comment, index) => ({ ...comment, number: String(index + 1) })).filter((one) => one.x !== null);
    const pins = pinned.map(({ id, x, y, number, resolved_at: resolved }) => {
      const attributes = { class: `pin ${resolved ? "is-resolved" : ""}`, type: "button", "aria-label": t("Comment {number}", { number }), onclick: () => this.mark(id) };
      return { x, y, node: el("button", attributes, number) };
    });
    if (this.place) pins.push({ ...this.place, node: el("span", { class: "pin is-new" }, "+") });
    this.placed = pins;
    this.pins.replaceChildren(...pins.map(({ node }) => node));
    this.layOut();
  }

  /** To be called after the picture has moved. */
  layOut() {
    for (const { x, y, node } of this.placed ?? []) {
      const [left, top] = this.view.toScreen(x, y);
      node.style.transform = `translate(${left}px, ${top}px)`;
    }
  }
}
