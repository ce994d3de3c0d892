// The grid: every mask as a crop with its outline, so that many can be judged at once.

import { el } from "../shared/dom.js";
import { decimal } from "../shared/format.js";
import { t } from "../shared/strings.js";
import { reasonText } from "./keys.js";
import { listenForSwipes } from "./swipe.js";
import { boxOfRle, drawMask, viewAround } from "./mask_art.js";

// In rem, as in the style sheet.
const [SMALLEST, LARGEST, GAP, CAPTION] = [10.5, 26, 0.6, 1.9];

/** The sign of each verdict, and its text. */
export const MARKS = { accept: ["✓", t("accept")], reject: ["✕", t("reject")], fix: ["✎", t("fix")] };

/** `on.select(index)` after a click, `on.open(index)` after a double click, `on.swipe(index, verdict)`. */
export class Grid {
  task = null;
  picture = null;
  rleOf = null;
  show = "overlay";

  constructor(root, on) {
    this.root = root;
    this.on = on;
    this.cards = [];
    this.waiting = new Set(); // visible cards that are not drawn yet
    this.sight = new IntersectionObserver((entries) => this.onSight(entries), { root, rootMargin: "400px" });
    this.sizes = new ResizeObserver(() => this.layOut());
    this.sizes.observe(root);
  }

  /** Show a task's masks. `rleOf(index)` is the mask as it is now: after a fix, the new one. */
  fill(task, picture, rleOf) {
    this.sight.disconnect();
    Object.assign(this, { task, picture, rleOf, show: "overlay" });
    this.cards = task.masks.map((mask, index) => this.card(task, mask, index));
    this.root.replaceChildren(...this.cards);
    this.root.scrollTop = 0;
    for (const card of this.cards) this.sight.observe(card);
    this.layOut();
  }

  /** Shows the masks as large as possible without scrolling. */
  layOut() {
    const rem = parseFloat(getComputedStyle(document.documentElement).fontSize);
    const [width, height] = [this.root.clientWidth / rem - 2 + GAP, this.root.clientHeight / rem - 1.5 + GAP];
    const fits = (size) => {
      const columns = Math.floor(width / (size + GAP));
      return columns > 0 && Math.ceil(this.cards.length / columns) * (size + CAPTION + GAP) <= height;
    };
    let size = LARGEST;
    while (size > SMALLEST && !fits(size)) size -= 0.5;
    this.root.style.gridTemplateColumns = size > SMALLEST ? `repeat(auto-fill, ${size}rem)` : "";
    this.redraw();
  }

  card(task, mask, index) {
    const score = mask.predicted_iou === null ? "" : decimal(mask.predicted_iou, 2);
    const card = el(
      "div",
      {
        class: "mask-card",
        id: `mask-${index}`,
        role: "option",
        "aria-selected": "false",
        "data-mask-id": mask.mask_id,
        "data-verdict": "",
        "data-index": index,
      },
      el("canvas"),
      el("span", { class: "mark", "aria-hidden": "true" }),
      el("div", { class: "label-slot" }),
      el(
        "div",
        { class: "caption" },
        el("span", {}, String(index + 1)),
        " ", // between the words of its name
        el("span", {}, task.note && mask.annotator ? t("by {name}", { name: mask.annotator }) : ""),
        " ",
        el("span", { class: "reason" }),
        " ",
        el("span", { title: t("Predicted IoU") }, score),
      ),
    );
    card.addEventListener("click", () => this.on.select(index));
    listenForSwipes(card, (verdict) => this.on.swipe(index, verdict));
    card.addEventListener("dblclick", () => this.on.open(index));
    return card;
  }

  setVerdict(index, entry) {
    const card = this.cards[index];
    const [sign, verdict] = MARKS[entry?.verdict] ?? ["", t("no verdict yet")];
    card.dataset.verdict = entry?.verdict ?? "";
    card.querySelector(".mark").textContent = sign;
    card.querySelector(".reason").textContent = reasonText(entry?.reason ?? "");
    const caption = card.querySelector(".caption").textContent.replace(/\s+/g, " ").trim();
    card.setAttribute("aria-label", t("Mask {caption}, {verdict}", { caption, verdict }));
  }

  /** `badge`: what is shown of the mask's label, or null. */
  setLabel(index, badge) {
    const card = this.cards[index];
    card.querySelector(".label-slot").replaceChildren(badge ?? "");
    card.setAttribute("aria-description", badge?.textContent ?? "");
  }

  setCursor(index) {
    this.root.querySelector("[aria-selected=true]")?.setAttribute("aria-selected", "false");
    const card = this.cards[index];
    if (!card) return;
    card.setAttribute("aria-selected", "true");
    this.root.setAttribute("aria-activedescendant", card.id);
    card.scrollIntoView({ block: "nearest" });
  }

  /** Cards in a row, as the browser has laid them out. */
  get columns() {
    const top = this.cards[0]?.offsetTop;
    const count = this.cards.findIndex((card) => card.offsetTop !== top);
    return count < 0 ? Math.max(1, this.cards.length) : count;
  }

  setShow(show) {
    this.show = show;
    this.redraw();
  }

  redraw(index = null) {
    const cards = index === null ? this.cards : [this.cards[index]];
    for (const card of cards) if (card.dataset.near) this.queue(card);
  }

  onSight(entries) {
    for (const { target, isIntersecting } of entries) {
      if (isIntersecting) {
        target.dataset.near = "1";
        this.queue(target);
      } else {
        delete target.dataset.near;
        target.firstChild.width = 0; // frees the memory
      }
    }
  }

  queue(card) {
    if (!this.waiting.size) requestAnimationFrame(() => this.drawSome());
    this.waiting.add(card);
  }

  /** Draws for a few milliseconds per frame, so that keys stay responsive. */
  drawSome() {
    const end = performance.now() + 12;
    for (const card of this.waiting) {
      this.waiting.delete(card);
      if (card.dataset.near && card.isConnected) this.draw(card);
      if (performance.now() > end) break;
    }
    if (this.waiting.size) requestAnimationFrame(() => this.drawSome());
  }

  draw(card) {
    const canvas = card.firstChild;
    const side = Math.round(canvas.clientWidth * devicePixelRatio);
    if (!side) return;
    if (canvas.width !== side) canvas.width = canvas.height = side;
    const rle = this.rleOf(Number(card.dataset.index));
    const size = this.task.image;
    drawMask(canvas, this.picture, size, rle, viewAround(boxOfRle(rle), size, side, side), this.show);
  }
}
