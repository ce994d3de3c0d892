// Labels on the review page: a mask's label, the suggestion for it, or what people who disagree say; the
// reviewer confirms it or picks another one.

import { api } from "../shared/api.js";
import { Categories, loadSuggestions } from "../shared/categories.js";
import { pickCategory } from "../shared/category_picker.js";
import { byId, el, toast } from "../shared/dom.js";
import { t } from "../shared/strings.js";
import { isCommand } from "./keys.js";

export class Labelling {
  categories = new Categories([], isCommand);
  /** @type {AbortController | null} */
  loading = null;

  /** @param {import("./review.js").Review} review */
  constructor(review) {
    this.review = review;
  }

  /** Shows what is suggested for the masks of the task, once it is known. */
  suggest() {
    const { review } = this;
    this.loading?.abort();
    this.loading = new AbortController();
    const show = () => {
      for (const [place, mask] of review.task.masks.entries()) review.grid.setLabel(place, this.badge(mask));
      review.showSingle();
    };
    void loadSuggestions(api, review.task, this.categories, this.loading.signal, show);
  }

  /** @param {import("../shared/categories.js").Category[]} listed */
  use(listed) {
    this.categories = new Categories(listed, isCommand);
    for (const button of document.querySelectorAll("[data-command^=label]")) button.toggleAttribute("hidden", !this.categories.isUsed);
  }

  /** The category that is confirmed by one key: the mask's label, else what most of the people say who
   * disagree, else the suggestion; null: there is none. */
  proposalFor(mask) {
    if (mask.category_id !== null) return mask.category_id;
    const votes = new Map();
    for (const { category_id: id } of mask.disputed) votes.set(id, (votes.get(id) ?? 0) + 1);
    const [first] = [...votes].sort((a, b) => b[1] - a[1]);
    return first?.[0] ?? mask.suggested?.category_id ?? null;
  }

  /** What is shown of a mask's label; null: nothing. */
  badge(mask) {
    const { categories } = this;
    if (!categories.isUsed) return null;
    const given = this.review.verdicts.labelOf(mask.mask_id);
    if (given !== null) return el("span", { class: "label-given", title: t("Your label") }, categories.badge(given), " ✓");
    if (mask.is_label_asked) return el("span", { class: "label-disputed", title: t("Confirm this label or give another") }, categories.badge(mask.category_id, mask.suggested ?? null), " ?");
    if (!mask.disputed.length) return categories.badge(mask.category_id, mask.suggested ?? null);
    const said = mask.disputed.map(({ name, category_id: id }) => el("span", {}, `${name}: `, categories.badge(id)));
    return el("span", { class: "label-disputed", title: t("People disagree") }, said);
  }

  /** Places of the masks whose label the reviewer has to give, as people disagree or a model doubts it, and has not. */
  get undecided() {
    const { task, verdicts } = this.review;
    const isAsked = (mask) => mask.is_label_asked || mask.disputed.length > 0;
    const isOpen = (mask) => isAsked(mask) && isUnsaid(mask.mask_id);
    const isUnsaid = (id) => verdicts.labelOf(id) === null && verdicts.get(id)?.verdict !== "reject";
    return this.categories.isUsed ? [...task.masks.keys()].filter((place) => isOpen(task.masks[place])) : [];
  }

  give(category) {
    const { review } = this;
    review.judging.closeReasons();
    review.verdicts.setLabel(review.idOf(review.index), category, review.takeSeconds());
    review.refresh([review.index]);
    byId("announce").textContent = t("Labelled {name}.", { name: this.categories.nameOf(category) });
  }

  confirm() {
    if (!this.categories.isUsed) return;
    const proposal = this.proposalFor(this.review.task.masks[this.review.index]);
    if (proposal !== null) this.give(proposal);
    else toast(t("No label is suggested for this mask. T opens the list."));
  }

  async pick() {
    const { review } = this;
    if (!this.categories.isUsed) return;
    const { task } = review;
    const found = await pickCategory(this.categories);
    if (found !== undefined && review.task === task) this.give(found);
  }
}
