// The categories of a dataset on a page: names, colours, and the keys that label a mask.

import { el } from "./dom.js";
import { percent } from "./format.js";
import { t } from "./strings.js";

export const NONE = 0; // the id that stands for none of these
export const NONE_NAME = t("none of these");
const DIGITS = [..."123456789"];

/** @typedef {{id: number, name: string, color: string, key: string | null, parent?: number | null, description?: string | null}} Category
 * @typedef {{category_id: number, probability: number}} Suggested */

/** The spot of colour before a category's name. */
export function dot(color) {
  const spot = el("span", { class: "dot" });
  spot.style.setProperty("--color", color ?? "var(--muted)");
  return spot;
}

/** Adds to a task's masks what is suggested for them, once the server has found it, and calls `then`;
 * nothing happens if it finds nothing.
 * @param {Categories} categories
 * @param {AbortSignal} signal of the work on the task */
export async function loadSuggestions(api, task, categories, signal, then) {
  if (!categories.isUsed || !task.masks.length) return;
  try {
    const found = new Map((await api.suggestions(task.id, { signal })).map((one) => [one.mask_id, one]));
    if (signal.aborted || !found.size) return;
    for (const mask of task.masks) mask.suggested = found.get(mask.mask_id) ?? null;
    then();
  } catch (problem) {
    if (!signal.aborted) console.info("There are no suggested labels", problem); // the work does not need them
  }
}

export class Categories {
  #byId;

  /** `isTaken(key)`: whether the page uses a key itself, so that it labels nothing.
   * @param {Category[]} list
   * @param {(key: string) => boolean} isTaken */
  constructor(list, isTaken = () => false) {
    this.list = list;
    this.isTaken = isTaken;
    this.#byId = new Map(list.map((one) => [one.id, one]));
  }

  get isUsed() {
    return this.list.length > 0;
  }

  has(id) {
    return id === NONE || this.#byId.has(id);
  }

  nameOf(id) {
    return id === NONE ? NONE_NAME : (this.#byId.get(id)?.name ?? t("a removed category"));
  }

  colourOf(id) {
    return this.#byId.get(id)?.color ?? null;
  }

  /** The category of each key: a category's own one, else the digits that are left, in the list's order. */
  get keys() {
    const own = this.list.filter(({ key }) => key && !this.isTaken(key));
    const found = new Map(own.map(({ id, key }) => [key, id]));
    const named = new Set(found.values());
    const free = DIGITS.filter((key) => !found.has(key) && !this.isTaken(key));
    for (const { id } of this.list) {
      if (!free.length) break;
      if (!named.has(id)) found.set(free.shift(), id);
    }
    return found;
  }

  /** The category that a key press stands for; undefined: none.
   * @param {KeyboardEvent} event */
  forKey(event) {
    if (!this.isUsed || event.ctrlKey || event.metaKey || event.altKey || event.shiftKey) return undefined;
    return this.keys.get(event.key.toLowerCase());
  }

  /** What a text finds, the names that begin with it first. */
  search(text) {
    const wanted = text.trim().toLowerCase();
    const all = [...this.list.map(({ id, name }) => ({ id, name })), { id: NONE, name: NONE_NAME }];
    const found = all.filter(({ name }) => name.toLowerCase().includes(wanted));
    const isFirst = ({ name }) => (name.toLowerCase().startsWith(wanted) ? 0 : 1);
    return found.sort((a, b) => isFirst(a) - isFirst(b));
  }

  /** A mask's label, or the suggestion for it, with a dashed border; null without either.
   * @param {number | null} label
   * @param {Suggested | null} suggested */
  badge(label, suggested = null) {
    if (!this.isUsed || (label === null && suggested === null)) return null;
    const id = label ?? suggested.category_id;
    const name = this.nameOf(id);
    const isSuggested = label === null;
    const text = isSuggested ? t("{name}? {share}", { name, share: percent(suggested.probability) }) : name;
    const title = isSuggested ? t("Suggested: {name}", { name }) : t("Label: {name}", { name });
    return el("span", { class: `label-name${isSuggested ? " suggested" : ""}`, title }, dot(this.colourOf(id)), text);
  }
}
