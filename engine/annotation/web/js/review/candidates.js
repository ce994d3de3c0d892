// Where people disagree on an image: the masks of each of them and the merged ones, side by side. Picking
// a set accepts its masks and rejects the others; single masks can still be judged one by one.

import { byId, el } from "../shared/dom.js";
import { plural, t } from "../shared/strings.js";
import { drawMasks } from "./mask_art.js";

export class Candidates {
  /** @param {import("./review.js").Review} review */
  constructor(review) {
    this.review = review;
    this.root = byId("candidates");
    this.sets = [];
    new ResizeObserver(() => this.draw()).observe(this.root);
    byId("sides").addEventListener("click", () => this.toggle());
  }

  get isOpen() {
    return !this.root.hidden;
  }

  /** Shows the sets of a task; nothing if its masks are of one version. */
  open(task) {
    this.sets = (task.candidates ?? []).map((set) => ({ ...set, masks: task.masks.filter((mask) => set.mask_ids.includes(mask.mask_id)) }));
    byId("sides").hidden = !this.sets.length;
    byId("accept-rest").hidden = this.sets.length > 0; // the sets repeat each other
    this.cards = this.sets.map((set, index) => this.#card(set, index));
    this.root.replaceChildren(...this.cards);
    this.setOpen(this.sets.length > 0);
  }

  toggle() {
    if (this.review.isReady && this.sets.length) this.setOpen(!this.isOpen);
  }

  setOpen(isOpen) {
    const { review } = this;
    if (isOpen && review.single.isOpen) review.closeSingle();
    this.root.hidden = !isOpen;
    if (review.task) byId("grid").hidden = isOpen;
    byId("sides").textContent = isOpen ? t("One by one") : t("Side by side");
    this.draw();
    if (isOpen) this.root.querySelector("button")?.focus({ preventScroll: true });
  }

  #card(set, index) {
    const title = set.name ?? t("Merged");
    const count = plural(set.masks.length, "{n} mask", "{n} masks");
    const tip = set.name === null ? t("Objects that most of them masked, with the pixels that most have") : null;
    return el(
      "article",
      { class: "candidate-set", "data-set": index, "data-picked": "false", title: tip },
      el("header", {}, el("h2", {}, title), el("span", { class: "muted" }, count)),
      el("canvas", { "aria-label": t("Masks of {name}", { name: title }) }),
      el("button", { class: "button", type: "button", onclick: () => this.pick(index) }, set.name === null ? t("Use the merged masks") : t("Pick {name}'s masks", { name: title })),
    );
  }

  /** Accepts the masks of a set and rejects all others. */
  async pick(index) {
    const { review } = this;
    if (!review.isReady) return;
    const mine = new Set(this.sets[index].mask_ids);
    if (!(await review.judging.mayReplace(review.verdicts.ids, t("Pick this set")))) return;
    review.settleTime();
    const { verdicts } = review;
    verdicts.setEach(verdicts.ids, (id) => ({ verdict: mine.has(id) ? "accept" : "reject", reason: null, fix: null }));
    review.refresh(verdicts.ids.map((_, place) => place));
  }

  /** Marks the set whose masks are the accepted ones. */
  showVerdicts() {
    const { verdicts } = this.review;
    const accepted = verdicts.ids.filter((id) => verdicts.get(id)?.verdict === "accept");
    for (const [index, set] of this.sets.entries()) {
      const isPicked = verdicts.left().length === 0 && accepted.length === set.mask_ids.length && set.mask_ids.every((id) => accepted.includes(id));
      this.cards[index].dataset.picked = String(isPicked);
      this.cards[index].querySelector("button").setAttribute("aria-pressed", String(isPicked));
    }
  }

  draw() {
    const { picture, task } = this.review;
    if (!this.isOpen || !picture || !task) return;
    for (const [index, card] of this.cards.entries()) {
      const canvas = card.querySelector("canvas");
      canvas.width = Math.max(1, Math.round(canvas.clientWidth * devicePixelRatio));
      canvas.height = Math.max(1, Math.round((canvas.width * task.image.height) / task.image.width));
      drawMasks(canvas, picture, task.image, this.sets[index].masks);
    }
  }
}
