// The list of masks. Only visible rows exist, so 5,000 masks scroll as fast as five.

import { CRISP, sprite } from "./layers.js";
import { el, svg } from "../shared/dom.js";
import { t } from "../shared/strings.js";

const ROW = 3.7; // rem, as in editor.css
const THUMB = 2.85;
const SPARE_ROWS = 4;

/** Rows are {id, title, note, mask, rgb, isHidden, isRejected, label, suggested}. */
export class MaskList {
  #rows = [];
  #selected = null;
  #elements = new Map();
  #frame = 0;

  /** `actions`: `select(id)`, `toggle(id)`, `restore(id)`; `label(row)` returns what
   * is shown of its label, or null; `picture()` returns what thumbnails are cut
   * from: {bitmap, scale} or null. */
  constructor(container, actions) {
    this.actions = actions;
    this.filler = el("div", { class: "mask-list-filler", role: "list", "aria-label": t("Masks") });
    this.container = container;
    container.append(this.filler);
    container.addEventListener("scroll", () => this.#schedule(), { passive: true });
    this.observer = new ResizeObserver(() => this.#schedule());
    this.observer.observe(container);
  }

  show(rows, selected) {
    const hasNewSelection = selected !== this.#selected;
    this.#rows = rows;
    this.#selected = selected;
    if (hasNewSelection && selected !== null) this.#reveal(rows.findIndex((row) => row.id === selected));
    this.#schedule();
  }

  /** Redraws the thumbnails from a better picture. */
  refresh() {
    for (const { node } of this.#elements.values()) node.remove();
    this.#elements.clear();
    this.#schedule();
  }

  #reveal(index) {
    if (index < 0) return;
    const top = index * this.rowHeight;
    const { scrollTop, clientHeight } = this.container;
    if (top < scrollTop) this.container.scrollTop = top;
    const below = top + this.rowHeight - clientHeight;
    if (below > scrollTop) {
      this.filler.style.height = `${this.#rows.length * this.rowHeight}px`;
      this.container.scrollTop = below;
    }
  }

  /** In pixels; the root's font grows with the window. */
  get rowHeight() {
    return ROW * rem();
  }

  #schedule() {
    this.#frame ||= requestAnimationFrame(() => {
      this.#frame = 0;
      this.#draw();
    });
  }

  #draw() {
    const { rowHeight, container } = this;
    this.filler.style.height = `${this.#rows.length * rowHeight}px`;
    const first = Math.max(0, Math.floor(container.scrollTop / rowHeight) - SPARE_ROWS);
    const count = Math.ceil(container.clientHeight / rowHeight) + 2 * SPARE_ROWS;
    const seen = this.#rows.slice(first, first + count);
    const ids = new Set(seen.map((row) => row.id));
    for (const [id, { node }] of this.#elements) {
      if (ids.has(id) || node.contains(document.activeElement)) continue;
      node.remove();
      this.#elements.delete(id);
    }
    seen.forEach((row, i) => this.#place(row, first + i));
  }

  #place(row, index) {
    const isSelected = row.id === this.#selected;
    const signature = [row.title, row.note, row.isHidden, row.isRejected, row.rgb, isSelected, row.label, row.suggested?.category_id].join("|");
    let entry = this.#elements.get(row.id);
    if (entry?.signature !== signature || entry.mask !== row.mask) {
      const node = this.#build(row, isSelected);
      const hadFocus = entry?.node.contains(document.activeElement);
      if (entry) entry.node.replaceWith(node);
      else this.filler.append(node);
      if (hadFocus) node.querySelector("button").focus({ preventScroll: true });
      entry = { node, signature, mask: row.mask };
      this.#elements.set(row.id, entry);
    }
    entry.node.style.transform = `translateY(${index * this.rowHeight}px)`;
    entry.node.setAttribute("aria-posinset", index + 1);
    entry.node.setAttribute("aria-setsize", this.#rows.length);
  }

  #build(row, isSelected) {
    const { select, toggle, restore } = this.actions;
    const thumb = el("canvas", { class: "mask-thumb", "aria-hidden": "true" });
    this.#drawThumb(thumb, row);
    const text = el(
      "span",
      { class: "mask-text" },
      el("span", { class: "mask-title" }, row.title),
      el("span", { class: "mask-note" }, this.actions.label(row), row.note),
    );
    const main = el(
      "button",
      { class: "mask-main", type: "button", "aria-pressed": String(isSelected), onclick: () => select(row.id) },
      thumb,
      text,
    );
    const aside = row.isRejected
      ? el("button", { class: "button button-quiet mask-aside", type: "button", "aria-label": t("Restore {mask}", { mask: row.title }), onclick: () => restore(row.id) }, t("Restore"))
      : el("button", { class: "button button-quiet mask-aside", type: "button", "aria-label": row.isHidden ? t("Show {mask}", { mask: row.title }) : t("Hide {mask}", { mask: row.title }), "aria-pressed": String(row.isHidden), onclick: () => toggle(row.id) }, eye(row.isHidden));
    const states = [isSelected && "is-selected", row.isHidden && "is-hidden", row.isRejected && "is-rejected"];
    const names = ["mask-row", ...states].filter(Boolean).join(" ");
    return el("div", { class: names, role: "listitem", "data-mask": row.id }, main, aside);
  }

  #drawThumb(canvas, row) {
    const ratio = window.devicePixelRatio || 1;
    canvas.width = canvas.height = Math.round(THUMB * rem() * ratio);
    const context = canvas.getContext("2d");
    const [x0, y0, x1, y1] = row.mask.box;
    const side = Math.max(x1 - x0, y1 - y0, 4) * 1.3;
    const density = canvas.width / side;
    context.scale(density, density);
    context.translate(side / 2 - (x0 + x1) / 2, side / 2 - (y0 + y1) / 2);
    const picture = this.actions.picture();
    if (picture) {
      context.drawImage(picture.bitmap, 0, 0, row.mask.width, row.mask.height);
    }
    if (row.mask.isEmpty) return;
    const { canvas: cut, x, y, width, height } = sprite(row.mask, { rgb: row.rgb, opacity: 0.45 }, Math.min(density, CRISP - 0.1));
    context.drawImage(cut, x, y, width, height);
  }

  close() {
    this.observer.disconnect();
    cancelAnimationFrame(this.#frame);
  }
}

function rem() {
  return parseFloat(getComputedStyle(document.documentElement).fontSize);
}

function eye(isHidden) {
  const lines = [svg("path", { d: "M1.5 8s2.4-4.5 6.5-4.5S14.5 8 14.5 8 12.1 12.5 8 12.5 1.5 8 1.5 8Z" }), svg("circle", { cx: 8, cy: 8, r: 2 })];
  if (isHidden) lines.push(svg("path", { d: "M2.5 13.5l11-11" }));
  return svg("svg", { class: "icon", viewBox: "0 0 16 16", "aria-hidden": "true" }, lines);
}
