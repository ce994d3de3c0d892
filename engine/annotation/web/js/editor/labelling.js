// Labels in the editor: keys and a list of categories for the mask in progress or the selected one; the
// last label is that of the next new masks.

import { pickCategory } from "../shared/category_picker.js";
import { el, toast } from "../shared/dom.js";
import { t } from "../shared/strings.js";

export class Labelling {
  /** @param {import("../shared/categories.js").Categories} categories */
  constructor(editor, categories) {
    this.editor = editor;
    this.categories = categories;
  }

  /** Id of the mask that a label is for; null: the next new masks. */
  get #subject() {
    return this.editor.session.current?.id ?? this.editor.selected;
  }

  /** @param {number} category */
  give(category) {
    const { editor } = this;
    const { session } = editor;
    const id = this.#subject;
    if (id !== null && editor.row?.isRejected) {
      toast(t("This mask is rejected. Restore it first."));
      return;
    }
    session.nextLabel = category;
    if (id !== null) session.setLabel(id, category);
    editor.update();
    const name = this.categories.nameOf(category);
    editor.announce(id === null ? t("The next masks are labelled {name}.", { name }) : t("Labelled {name}.", { name }));
  }

  /** Takes the suggestion for the selected mask. */
  confirm() {
    const suggested = this.editor.row?.suggested;
    if (suggested) this.give(suggested.category_id);
    else toast(t("Select a mask with a suggested label first."));
  }

  async pick() {
    const title = this.#subject === null ? t("Label of the next masks") : t("Label");
    const found = await pickCategory(this.categories, title);
    if (found !== undefined && !this.editor.isDestroyed) this.give(found);
  }

  /** The button in the bar: the label of the mask that is meant, which opens the list. */
  chip() {
    const { session, row } = this.editor;
    const isNext = this.#subject === null;
    const label = isNext ? session.nextLabel : session.labelOf(this.#subject);
    const badge = this.categories.badge(label, isNext ? null : (row?.suggested ?? null));
    const hint = this.editor.keys.hint("labelList");
    const key = hint.replace(/[ ()]/g, "");
    const title = (isNext ? t("Label of the next masks") : t("Label")) + hint;
    return el(
      "button",
      { class: "button label-chip", type: "button", "data-action": "labelList", title, onclick: () => this.pick() },
      isNext && badge ? el("span", { class: "muted" }, t("Next:")) : null,
      badge ?? el("span", { class: "muted" }, t("No label")),
      key && el("kbd", {}, key),
    );
  }
}
