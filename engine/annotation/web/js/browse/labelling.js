// Labels for chosen masks: a list of categories to search, their keys, and the suggestions.

import { Categories, dot, NONE_NAME as NONE } from "../shared/categories.js";
import { byId, el } from "../shared/dom.js";
import { percent } from "../shared/format.js";
import { t } from "../shared/strings.js";

const STORED_NONE = "none of these"; // as the server names it, in all languages
const UNLABELLED = "unlabelled";
const CONFIRM_KEY = ".";
const MOST_SECONDS = 300; // a longer pause is not work

/** A label of the server as people read it: a category's name, or the words for none. */
export function shownLabel(name) {
  if (name === STORED_NONE) return NONE;
  return name === UNLABELLED ? t("unlabelled") : name;
}

export class Labelling {
  /** `label(category)` labels the chosen masks; null: each as suggested. */
  constructor(label) {
    this.label = (name) => label(name === NONE ? STORED_NONE : name);
    this.categories = new Categories([]);
    this.began = performance.now();
    document.addEventListener("keydown", (event) => this.onKey(event));
  }

  /** The dataset's categories, in their order. */
  use(categories) {
    this.categories = new Categories(categories);
    this.byName = new Map(categories.map((one) => [one.name, one]));
  }

  get isUsed() {
    return this.categories.isUsed;
  }

  /** Seconds since the last label, or since the first mask was chosen. */
  get seconds() {
    return Math.min(MOST_SECONDS, (performance.now() - this.began) / 1000);
  }

  restart() {
    this.began = performance.now();
  }

  onKey(event) {
    if (byId("commands").hidden || !this.isUsed || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.closest("input:not([type=checkbox]), select, textarea, dialog")) return;
    const id = this.categories.forKey(event);
    if (event.key !== CONFIRM_KEY && id === undefined) return;
    event.preventDefault();
    this.label(id === undefined ? null : this.categories.nameOf(id));
  }

  /** The controls for the bar of commands. */
  controls() {
    const keys = new Map([...this.categories.keys].map(([key, id]) => [id, key]));
    const options = this.categories.search("").map(({ id, name }) => el("option", { value: name }, keys.has(id) ? t("key {key}", { key: keys.get(id) }) : ""));
    const input = el("input", {
      id: "category",
      list: "categories",
      placeholder: t("Category"),
      "aria-label": t("Category"),
      autocomplete: "off",
      onkeydown: (event) => event.key === "Enter" && this.labelFrom(event.target),
    });
    return el(
      "span",
      { class: "labelling" },
      el("datalist", { id: "categories" }, options),
      input,
      el("button", { class: "button button-primary", type: "button", "data-command": "label", onclick: () => this.labelFrom(input) }, t("Label")),
      el(
        "button",
        { class: "button", type: "button", "data-command": "confirm", title: t("Each mask gets the category suggested for it (key {key})", { key: CONFIRM_KEY }), onclick: () => this.label(null) },
        `${t("Confirm suggestions")} `,
        el("kbd", {}, CONFIRM_KEY),
      ),
    );
  }

  labelFrom(input) {
    const wanted = input.value.trim().toLowerCase();
    const found = [...this.byName.keys(), NONE].find((name) => name.toLowerCase() === wanted);
    input.setCustomValidity(found ? "" : t("No category has this name"));
    if (!input.reportValidity()) return;
    this.label(found);
  }

  /** What a card shows of a mask's label, or of the suggestion for it; null without either. */
  badge({ label, suggested, probability }) {
    if (!this.isUsed || label === undefined) return null;
    const isSuggestion = label === UNLABELLED;
    const name = isSuggestion ? suggested : label;
    if (name === UNLABELLED) return null;
    const shown = shownLabel(name);
    const text = isSuggestion && probability !== null ? t("{name}? {share}", { name: shown, share: percent(probability) }) : shown;
    const title = isSuggestion ? t("Suggested: {name}", { name: shown }) : t("Label: {name}", { name: shown });
    return el("span", { class: `badge name${isSuggestion ? " suggested" : ""}`, title }, dot(this.byName.get(name)?.color), text);
  }
}
