// What is shown: the query of the page's address, so that a link shows the same again.

import { t } from "../shared/strings.js";

/** Parts of the address that the server's queries do not have. */
const OF_PAGE = ["show", "image", "mask", "task"];
const OF_ORDER = ["sort", "descending"];

export class View {
  /** `usual`: what is shown if the address does not say; `changed(isSameList)`: called after each
   * change; the list stays if only an image is opened. */
  constructor(usual, changed) {
    this.usual = usual;
    this.changed = changed;
    this.params = new URLSearchParams(location.search);
    addEventListener("popstate", () => {
      const before = String(this.query());
      this.params = new URLSearchParams(location.search);
      this.changed(before === String(this.query()));
    });
  }

  get dataset() {
    return this.params.get("dataset") ?? "";
  }

  get show() {
    return this.params.get("show") ?? this.usual;
  }

  get image() {
    return Number(this.params.get("image")) || null;
  }

  /** The own submitted task that is open, or null. */
  get task() {
    return Number(this.params.get("task")) || null;
  }

  /** Sets parameters: `{stage: ["a", "b"], sort: null}`; null or an empty list removes one. */
  set(values, { isReplaced = false } = {}) {
    const before = String(this.query());
    for (const [name, value] of Object.entries(values)) {
      this.params.delete(name);
      for (const one of [value ?? []].flat()) this.params.append(name, String(one));
    }
    const address = this.params.size ? `?${this.params}` : location.pathname;
    if (isReplaced) history.replaceState(null, "", address);
    else history.pushState(null, "", address);
    this.changed(before === String(this.query()));
  }

  /** The server's query for a page of the list; `show` comes with it so that it is part of what is compared. */
  query() {
    const found = new URLSearchParams(this.params);
    for (const name of OF_PAGE.slice(1)) found.delete(name);
    return found;
  }

  /** The query for the list, without what only this page knows. */
  listQuery() {
    const found = this.query();
    for (const name of OF_PAGE) found.delete(name);
    return found;
  }

  /** The query for counts and histograms. */
  figuresQuery() {
    const found = this.listQuery();
    for (const name of OF_ORDER) found.delete(name);
    return found;
  }

  /** What is searched for, in words for people; null: nothing. */
  get search() {
    const words = this.params.get("words");
    if (words !== null) return `“${words}”`;
    return this.params.has("like") ? t("masks like one that you chose") : null;
  }

  /** Whether a filter is set. */
  get isFiltered() {
    const others = this.figuresQuery();
    for (const name of ["dataset", "version"]) others.delete(name);
    return others.size > 0;
  }

  /** The address of the view, pinned to a version of the mask table. */
  link(version) {
    const found = new URLSearchParams(this.params);
    if (version !== null) found.set("version", String(version));
    return `${location.origin}${location.pathname}?${found}`;
  }
}
