// A table of rows that are made elsewhere.

import { el } from "./dom.js";
import { t } from "./strings.js";

/** `heads`: titles of the columns; an empty one is that of buttons. */
export function table(heads, rows) {
  const head = el("tr", {}, heads.map((text) => el("th", { scope: "col" }, text || el("span", { class: "visually-hidden" }, t("Actions")))));
  return el("table", { class: "table" }, el("thead", {}, head), el("tbody", {}, rows));
}
