// Panels beside the tools: one is open at a time, and it stays open while the image is worked on.

import { el } from "../shared/dom.js";
import { t } from "../shared/strings.js";

export class Panels {
  #open = null; // {name, node, head, build, onClose}

  /** `stage`: the element that the panels lie in; `onChange()` is called when one opens or closes. */
  constructor(stage, onChange) {
    this.stage = stage;
    this.onChange = onChange;
  }

  get open() {
    return this.#open?.name ?? null;
  }

  /** Opens a panel, or closes it if it is open. `build()` returns a list of its children; `onClose` is called when
   * it closes. */
  toggle(name, title, build, onClose = () => {}) {
    const isOpen = this.open === name;
    this.close();
    if (isOpen) return;
    const cross = el("button", { class: "button button-quiet", type: "button", "aria-label": t("Close: {panel}", { panel: title }), onclick: () => this.close() }, "✕");
    const head = el("div", { class: "panel-head" }, el("h2", {}, title), cross);
    const node = el("section", { class: "editor-panel", "aria-label": title }, head, build());
    this.#open = { name, node, head, build, onClose };
    this.stage.append(node);
    this.onChange();
  }

  /** Builds the open panel again; the focus stays in its place. */
  refresh() {
    const { node, head, build } = this.#open;
    const controls = () => [...node.querySelectorAll("button, input")];
    const at = controls().indexOf(document.activeElement);
    node.replaceChildren(head, ...build());
    if (at >= 0) controls()[at]?.focus();
  }

  /** True if one was open. */
  close() {
    if (!this.#open) return false;
    const { node, onClose } = this.#open;
    this.#open = null;
    node.remove();
    onClose();
    this.onChange();
    return true;
  }
}

/** A labelled slider with its value beside it. `onInput(value)` is called while it moves, `shown(value)` is
 * the text of a value. */
export function slider({ label, min, max, step = 1, value, shown = (number) => String(number), onInput }) {
  const text = el("span", { class: "slider-value", "aria-hidden": "true" });
  const input = el("input", { type: "range", min, max, step, value, "aria-label": label });
  const show = () => {
    text.textContent = shown(Number(input.value));
    input.setAttribute("aria-valuetext", text.textContent);
  };
  input.addEventListener("input", () => {
    show();
    onInput(Number(input.value));
  });
  const set = (to) => {
    input.value = to;
    show();
  };
  show();
  return { node: el("label", { class: "slider" }, el("span", {}, label), text, input), set };
}
