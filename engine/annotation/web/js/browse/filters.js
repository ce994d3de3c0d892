// The filters beside the grid: words with their counts, numbers with a histogram.

import { byId, el, svg } from "../shared/dom.js";
import { count, words } from "../shared/format.js";
import { t } from "../shared/strings.js";
import { shownLabel } from "./labelling.js";

const WORDS = ["stage", "round", "source", "annotator", "model", "verdict", "label", "suggested"];
const NUMBERS = [
  { name: "predicted_iou", title: t("Predicted IoU"), digits: 3 },
  { name: "stability_score", title: t("Stability"), digits: 3 },
  { name: "area", title: t("Area in pixels"), digits: 0 },
  { name: "probability", title: t("Probability of the suggestion"), digits: 3, isRare: true },
  { name: "created_at", title: t("Made (UTC)"), isTime: true },
];
const WHICH = [
  { name: "near_duplicates", title: t("Near-duplicates"), usual: "with", texts: { with: t("shown"), without: t("left out"), only: t("only these") } },
  { name: "superseded", title: t("Superseded masks"), usual: "without", texts: { without: t("left out"), with: t("shown"), only: t("only these") } },
];
const NAMED = [
  { name: "program", title: t("Selected by program") },
  { name: "release", title: t("In release") },
];
const HEIGHT = 40;

export class FilterPanel {
  constructor(view) {
    this.view = view;
    this.parts = new Map();
    this.offered = {};
    const parts = [
      ...NAMED.map((field) => this.namedField(field)),
      ...WORDS.map((name) => this.wordField(name)),
      ...NUMBERS.map((field) => this.numberField(field)),
      ...WHICH.map((field) => this.whichField(field)),
    ];
    const clear = el("button", { class: "button", type: "button", onclick: () => this.clear() }, t("Clear all filters"));
    byId("fields").replaceChildren(...parts, clear);
  }

  clear() {
    const names = [...this.view.figuresQuery().keys()].filter((name) => name !== "dataset" && name !== "version");
    this.view.set(Object.fromEntries(names.map((name) => [name, null])));
  }

  /** Fills in the counts of an answer of the server, and the values of the view. */
  fill(figures) {
    for (const name of WORDS) this.fillWords(name, figures.counts[name]);
    for (const field of NUMBERS) this.fillNumber(field, figures.histograms[field.name]);
    this.fillWhich();
  }

  fillWhich() {
    for (const { name, usual } of WHICH) this.parts.get(name).value = this.view.params.get(name) ?? usual;
    for (const { name } of NAMED) this.fillNamed(name);
  }

  /** @param {Record<string, string[]>} names the dataset's latest runs of programs and its releases */
  offer(names) {
    this.offered = names;
    for (const { name } of NAMED) this.fillNamed(name);
  }

  namedField({ name, title }) {
    const select = el("select", { onchange: (event) => this.view.set({ [name]: event.target.value || null }) });
    this.parts.set(name, select);
    return el("label", { class: "which" }, title, select);
  }

  fillNamed(name) {
    const select = this.parts.get(name);
    const chosen = this.view.params.get(name);
    const names = [...new Set([...(chosen === null ? [] : [chosen]), ...(this.offered[name] ?? [])])];
    const options = names.map((one) => el("option", { value: one }, one));
    select.replaceChildren(el("option", { value: "" }, t("any or none")), ...options);
    select.value = chosen ?? "";
    select.parentElement.hidden = !names.length;
  }

  wordField(name) {
    const list = el("div", { class: "values" });
    this.parts.set(name, list);
    return el("fieldset", { "data-field": name }, el("legend", {}, words(name)), list);
  }

  fillWords(name, counts) {
    const chosen = new Set(this.view.params.getAll(name));
    const known = new Map(counts.map(({ value, masks }) => [value, masks]));
    for (const value of chosen) if (!known.has(value)) known.set(value, 0);
    const list = this.parts.get(name);
    const focused = [...list.querySelectorAll("input")].find((box) => box === document.activeElement)?.value ?? null;
    list.replaceChildren(
      ...[...known].map(([value, masks]) => {
        const box = el("input", { type: "checkbox", value, checked: chosen.has(value), onchange: () => this.choose(name) });
        return el("label", {}, box, el("span", { class: "value", title: shownValue(name, value) }, shownValue(name, value)), el("span", { class: "muted" }, count(masks)));
      }),
    );
    const isAllUnlabelled = ["label", "suggested"].includes(name) && known.size === 1 && known.has("unlabelled") && !chosen.size;
    list.parentElement.hidden = known.size === 0 || isAllUnlabelled;
    if (focused !== null) [...list.querySelectorAll("input")].find((box) => box.value === focused)?.focus();
  }

  choose(name) {
    const boxes = [...this.parts.get(name).querySelectorAll("input:checked")];
    this.view.set({ [name]: boxes.map((box) => box.value) });
  }

  numberField(field) {
    const { name, title, isTime } = field;
    const input = (end) =>
      el("input", {
        type: isTime ? "date" : "number",
        step: field.digits ? 0.001 : 1,
        "aria-label": end === "min" ? t("{what}, from", { what: title }) : t("{what}, to", { what: title }),
        "data-end": end,
        onchange: (event) => this.view.set({ [`${name}_${end}`]: toParam(field, end, event.target.value) }),
      });
    const part = { picture: el("div", { class: "histogram" }), inputs: [input("min"), input("max")], unknown: el("p", { class: "muted small" }) };
    this.parts.set(name, part);
    const reset = el("button", { class: "button button-quiet", type: "button", "aria-label": t("Clear {what}", { what: title }), onclick: () => this.setRange(field, null, null) }, "✕");
    part.reset = reset;
    return el(
      "fieldset",
      { "data-field": name },
      el("legend", {}, title),
      part.picture,
      el("div", { class: "range" }, part.inputs[0], "–", part.inputs[1], reset),
      part.unknown,
    );
  }

  fillNumber(field, histogram) {
    const part = this.parts.get(field.name);
    const ends = ["min", "max"].map((end) => this.view.params.get(`${field.name}_${end}`));
    for (const [at, end] of ends.entries()) part.inputs[at].value = fromParam(field, end);
    part.picture.parentElement.hidden = Boolean(field.isRare) && !histogram.masks.some(Boolean) && ends.every((end) => end === null);
    part.reset.disabled = ends.every((end) => end === null);
    part.unknown.textContent = histogram.unknown ? t("{n} without it", { n: count(histogram.unknown) }) : "";
    part.picture.replaceChildren(this.histogram(field, histogram, ends));
  }

  /** Bars; a drag over them sets the range. */
  histogram(field, { edges, masks }, ends) {
    const [least, most] = ends.map((end) => toNumber(field, end));
    const highest = Math.max(1, ...masks);
    const isIn = (at) => (least === null || edges[at + 1] > least) && (most === null || edges[at] <= most);
    const bars = masks.map((number, at) => {
      const height = number ? Math.max(1.5, (HEIGHT * number) / highest) : 0;
      const text = svg("title", {}, `${shownEdge(field, edges[at])} – ${shownEdge(field, edges[at + 1])}: ${count(number)}`);
      const bar = svg("rect", { x: at + 0.05, y: HEIGHT - height, width: 0.9, height, class: isIn(at) ? "bar" : "bar bar-out" }, text);
      const whole = svg("rect", { x: at, y: 0, width: 1, height: HEIGHT, class: "bar-area" }, text.cloneNode(true));
      return [bar, whole];
    });
    const picture = svg(
      "svg",
      { viewBox: `0 0 ${masks.length} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", "aria-label": t("Histogram of {what}", { what: field.title }) },
      ...bars.flat(),
    );
    this.dragOver(picture, masks.length, (from, to) => this.setRange(field, edges[from], edges[to + 1]));
    return picture;
  }

  dragOver(picture, bins, choose) {
    let from = null;
    const binOf = (event) => {
      const { left, width } = picture.getBoundingClientRect();
      return Math.min(bins - 1, Math.max(0, Math.floor(((event.clientX - left) / width) * bins)));
    };
    const mark = (a, b) => {
      for (const [at, bar] of picture.querySelectorAll(".bar").entries()) bar.classList.toggle("bar-out", at < a || at > b);
    };
    picture.addEventListener("pointerdown", (event) => {
      from = binOf(event);
      picture.setPointerCapture(event.pointerId);
      mark(from, from);
    });
    picture.addEventListener("pointermove", (event) => {
      if (from !== null) mark(Math.min(from, binOf(event)), Math.max(from, binOf(event)));
    });
    picture.addEventListener("pointerup", (event) => {
      if (from === null) return;
      const to = binOf(event);
      choose(Math.min(from, to), Math.max(from, to));
      from = null;
    });
  }

  setRange(field, least, most) {
    const value = (number, isEnd) => {
      if (number === null) return null;
      if (field.isTime) return new Date(1_000 * (isEnd ? Math.ceil(number) - 1 : Math.floor(number))).toISOString().slice(0, 19);
      if (field.digits) return number.toFixed(field.digits);
      return String(isEnd ? Math.ceil(number) - 1 : Math.ceil(number));
    };
    this.view.set({ [`${field.name}_min`]: value(least, false), [`${field.name}_max`]: value(most, true) });
  }

  whichField({ name, title, usual, texts }) {
    const options = Object.entries(texts).map(([value, text]) => el("option", { value }, text));
    const change = (event) => this.view.set({ [name]: event.target.value === usual ? null : event.target.value });
    const select = el("select", { onchange: change }, options);
    this.parts.set(name, select);
    return el("label", { class: "which" }, title, select);
  }
}

function shownValue(name, value) {
  if (name === "round") return value === "0" ? t("outside the loop") : t("Round {round}", { round: value });
  if (name === "verdict" && value === "none") return t("No verdict");
  if (name === "suggested" && value === "unlabelled") return t("No suggestion");
  if (name === "label" || name === "suggested") return shownLabel(value);
  return name === "annotator" || name === "model" ? value : words(value);
}

function shownEdge(field, edge) {
  if (field.isTime) return new Date(1_000 * edge).toISOString().slice(0, 16).replace("T", " ");
  return field.digits ? edge.toFixed(field.digits) : count(edge);
}

/** The number of a parameter of the address, or null. */
function toNumber(field, value) {
  if (value === null) return null;
  if (!field.isTime) return Number(value);
  return Date.parse(/[Zz+]|-\d\d:/.test(value.slice(10)) || value.length < 11 ? value : `${value}Z`) / 1_000;
}

function fromParam(field, value) {
  return value === null ? "" : field.isTime ? value.slice(0, 10) : value;
}

/** A date as the end of a range means all of that day. */
function toParam(field, end, value) {
  if (!value) return null;
  return field.isTime && end === "max" ? `${value}T23:59:59` : value;
}
