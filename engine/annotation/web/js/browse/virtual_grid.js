// A grid of any number of cards: only those in sight exist, and their data is loaded in pages.

import { el } from "../shared/dom.js";

const PAGE = 60;
const KEPT_PAGES = 20;
const SETTLE_MS = 70; // a fast scroll loads only the pages where it ends
const MAX_HEIGHT = 8_000_000; // in pixels: browsers cut elements that are much higher
const CARD = 10.5; // least width and the caption's height, in rem
const CAPTION = 2.1;
const GAP = 0.6;

export class VirtualGrid {
  /** `on.load(offset, limit, signal)` resolves to `{total, items}`, `on.card(item)` makes a card,
   * `on.seen(cards)` is told which cards came into sight, `on.open(item)` and `on.toggle(item)`
   * answer Enter and Space, `on.loaded(total)` comes after the first page. */
  constructor(root, on) {
    this.root = root;
    this.on = on;
    this.inner = el("div", { class: "virtual-inner", role: "row" });
    root.append(this.inner);
    this.cards = new Map(); // index -> element
    this.reset();
    root.addEventListener("scroll", () => this.renderSoon(), { passive: true });
    root.addEventListener("keydown", (event) => this.onKey(event));
    new ResizeObserver(() => this.fit()).observe(root);
  }

  /** Forgets all cards and loads the first page. */
  async show() {
    this.reset();
    this.root.setAttribute("aria-busy", "true");
    await this.load(0);
    this.root.removeAttribute("aria-busy");
  }

  reset() {
    this.aborting?.abort();
    this.aborting = new AbortController();
    clearTimeout(this.timer);
    this.pages = new Map(); // number -> items, or null while it is loaded
    this.total = 0;
    this.cursor = 0;
    for (const card of this.cards.values()) card.remove();
    this.cards.clear();
    this.root.scrollTop = 0;
    this.fit();
  }

  async load(number) {
    const { signal } = this.aborting;
    this.pages.set(number, null);
    try {
      const { total, items } = await this.on.load(number * PAGE, PAGE, signal);
      if (signal.aborted) return;
      this.pages.set(number, items);
      this.total = total;
      if (number === 0) this.on.loaded(total);
      this.fit();
    } catch (problem) {
      this.pages.delete(number);
      if (!signal.aborted) this.on.failed(problem);
    }
  }

  item(index) {
    return this.pages.get(Math.floor(index / PAGE))?.[index % PAGE] ?? null;
  }

  /** The index of an item that is loaded; -1: it is not. */
  placeOf(item) {
    for (const [page, items] of this.pages) {
      const place = items?.indexOf(item) ?? -1;
      if (place >= 0) return page * PAGE + place;
    }
    return -1;
  }

  /** Measures the grid anew. */
  fit() {
    const rem = parseFloat(getComputedStyle(document.documentElement).fontSize);
    const width = this.root.clientWidth - 2 * GAP * rem;
    this.gap = GAP * rem;
    this.columns = Math.max(1, Math.floor((width + this.gap) / (CARD * rem + this.gap)));
    this.side = Math.floor((width - (this.columns - 1) * this.gap) / this.columns);
    this.rowHeight = this.side + CAPTION * rem + this.gap;
    this.fullHeight = Math.ceil(this.total / this.columns) * this.rowHeight + this.gap;
    this.inner.style.height = `${Math.min(this.fullHeight, MAX_HEIGHT)}px`;
    this.renderSoon();
  }

  /** How far the grid is scrolled, as if it had its full height. */
  get top() {
    const { scrollTop, clientHeight } = this.root;
    if (this.fullHeight <= MAX_HEIGHT) return scrollTop;
    return (scrollTop / (MAX_HEIGHT - clientHeight)) * (this.fullHeight - clientHeight);
  }

  renderSoon() {
    this.frame ??= requestAnimationFrame(() => {
      this.frame = null;
      this.render();
    });
  }

  render() {
    const { top, columns } = this;
    const first = Math.max(0, Math.floor(top / this.rowHeight) - 1) * columns;
    const end = Math.min(this.total, (Math.ceil((top + this.root.clientHeight) / this.rowHeight) + 1) * columns);
    for (const [index, card] of this.cards) {
      if (index >= first && index < end) continue;
      card.remove();
      this.cards.delete(index);
    }
    const fresh = [];
    for (let index = first; index < end; index += 1) {
      let card = this.cards.get(index);
      const item = this.item(index);
      if (item && !card) {
        card = this.on.card(item);
        card.id = `card-${index}`;
        this.cards.set(index, card);
        this.inner.append(card);
        fresh.push(card);
      }
      if (card) this.place(card, index, top);
    }
    if (fresh.length) this.on.seen(fresh);
    this.loadMissing(first, end);
    this.markCursor();
  }

  place(card, index, top) {
    const x = this.gap + (index % this.columns) * (this.side + this.gap);
    const y = this.gap + Math.floor(index / this.columns) * this.rowHeight - top + this.root.scrollTop;
    card.style.transform = `translate(${x}px, ${y}px)`;
    card.style.width = `${this.side}px`;
  }

  loadMissing(first, end) {
    clearTimeout(this.timer);
    const wanted = [];
    for (let page = Math.floor(first / PAGE); page * PAGE < end; page += 1) if (!this.pages.has(page)) wanted.push(page);
    if (!wanted.length) return;
    this.timer = setTimeout(() => {
      for (const page of wanted) this.load(page);
      const shown = new Set(wanted);
      for (const page of this.pages.keys()) {
        if (this.pages.size <= KEPT_PAGES) break;
        const isInSight = page * PAGE < end && (page + 1) * PAGE > first;
        if (!shown.has(page) && !isInSight && this.pages.get(page)) this.pages.delete(page);
      }
    }, SETTLE_MS);
  }

  onKey(event) {
    const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -this.columns, ArrowDown: this.columns };
    const item = this.item(this.cursor);
    if (event.key in steps) this.moveTo(this.cursor + steps[event.key]);
    else if (event.key === "Home") this.moveTo(0);
    else if (event.key === "End") this.moveTo(this.total - 1);
    else if (event.key === "Enter" && item) this.on.open(item);
    else if (event.key === " " && item) this.on.toggle(item);
    else return;
    event.preventDefault();
  }

  moveTo(index) {
    this.cursor = Math.min(Math.max(0, index), Math.max(0, this.total - 1));
    const y = Math.floor(this.cursor / this.columns) * this.rowHeight;
    const { top, root } = this;
    const target = y < top ? y : Math.max(top, y + this.rowHeight + this.gap - root.clientHeight);
    if (target !== top) {
      const isScaled = this.fullHeight > MAX_HEIGHT;
      const share = target / (this.fullHeight - root.clientHeight);
      root.scrollTop = isScaled ? share * (MAX_HEIGHT - root.clientHeight) : target;
    }
    this.renderSoon();
  }

  markCursor() {
    for (const [index, card] of this.cards) card.toggleAttribute("data-cursor", index === this.cursor);
    this.root.setAttribute("aria-activedescendant", this.cards.get(this.cursor)?.id ?? "");
  }
}
