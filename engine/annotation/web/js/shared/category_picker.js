// A dialog with the list of categories, to be searched by typing.

import { dot } from "./categories.js";
import { el, openDialog } from "./dom.js";
import { t } from "./strings.js";

const MOST_SHOWN = 200;

/** Resolves to the id of the category that was picked; undefined if the dialog was closed.
 * @param {import("./categories.js").Categories} categories
 * @returns {Promise<number | undefined>} */
export function pickCategory(categories, title = t("Label")) {
  if (document.getElementById("category-picker")) return Promise.resolve(undefined);
  return new Promise((resolve) => {
    new Picker(categories, title, resolve);
  });
}

class Picker {
  constructor(categories, title, done) {
    this.categories = categories;
    this.picked = undefined;
    this.keys = new Map([...categories.keys].map(([key, id]) => [id, key]));
    this.list = el("div", { id: "category-options", class: "picker-list", role: "listbox", "aria-label": t("Categories") });
    this.input = el("input", {
      type: "search",
      role: "combobox",
      autofocus: true,
      autocomplete: "off",
      placeholder: t("Type to search"),
      "aria-label": t("Category"),
      "aria-expanded": "true",
      "aria-controls": "category-options",
      oninput: () => this.draw(),
      onkeydown: (event) => this.onKey(event),
    });
    this.dialog = openDialog(title, this.input, this.list);
    this.dialog.id = "category-picker";
    this.dialog.addEventListener("close", () => done(this.picked));
    this.draw();
  }

  draw() {
    this.found = this.categories.search(this.input.value).slice(0, MOST_SHOWN);
    this.list.replaceChildren(...this.found.map((one, place) => this.option(one, place)));
    if (!this.found.length) this.list.append(el("p", { class: "muted" }, t("No category has this name.")));
    this.mark(0);
  }

  option({ id, name }, place) {
    const key = this.keys.get(id);
    return el(
      "div",
      { class: "picker-option", role: "option", id: `category-option-${place}`, onclick: () => this.pick(id) },
      dot(this.categories.colourOf(id)),
      el("span", {}, name),
      key && el("kbd", {}, key.toUpperCase()),
    );
  }

  mark(place) {
    this.place = place;
    for (const [at, option] of [...this.list.children].entries()) option.setAttribute("aria-selected", String(at === place));
    this.input.setAttribute("aria-activedescendant", this.found.length ? `category-option-${place}` : "");
    this.list.children[place]?.scrollIntoView({ block: "nearest" });
  }

  onKey(event) {
    const count = this.found.length;
    if (event.key === "Enter" && count) this.pick(this.found[this.place].id);
    else if (event.key === "ArrowDown" && count) this.mark((this.place + 1) % count);
    else if (event.key === "ArrowUp" && count) this.mark((this.place + count - 1) % count);
    else return;
    event.preventDefault();
  }

  pick(id) {
    this.picked = id;
    this.dialog.close();
  }
}
