// The editor's elements: tools on the left, the canvas with its floating bar, the list on the right.

import { el, svg } from "../shared/dom.js";
import { decimal, percent } from "../shared/format.js";
import { candidatesBySize, trustedIouOf } from "./work.js";
import { pieces, t } from "../shared/strings.js";

const ICONS = {
  prompt: ["M3 2l10 6-4.2 1.2L7 13.5z"],
  takeAway: ["M8 14A6 6 0 108 2a6 6 0 000 12z", "M5 8h6"],
  scribble: ["M2.5 11c1-6 3.500-8 4.500-6.500S4.500 12 6.500 12s3-7 5-7 .5 6 2 6"],
  lasso: ["M3 11.5L2.500 4l6-1.500 5 4.500-3 5.500z", "M2.500 4h.01M8.500 2.500h.01M13.500 7h.01M10.500 12.500h.01M3 11.500h.01"],
  wand: ["M3 13l6.500-6.500", "M11 2v2.500M11 7v2.500M7.500 5.500H10M12.500 5.500H15"],
  brush: ["M13.5 2.5L8 8", "M7.6 7.6c-2.2-.3-3.2 1-3.4 2.6-.1 1.1-.6 1.900-1.7 2.5 2.7 1.300 6.4.7 6.6-2.6"],
  eraser: ["M6.5 12.5L2.5 8.5l5.5-5.5 5 5-4.5 4.5z", "M5 6l5 5", "M6.5 12.5h7"],
  edit: ["M5.500 2.500h5v3h3v8h-8v-3h-3v-8z", "M5.500 5.500h5v5h-5z"],
  adjust: ["M8 13.500a5.500 5.500 0 100-11 5.500 5.500 0 000 11z", "M8 2.500v11M8 5h4M8 8h5M8 11h4"],
  undo: ["M6 3L3 6l3 3", "M3 6h6.5a3.5 3.5 0 010 7H6"],
  redo: ["M10 3l3 3-3 3", "M13 6H6.5a3.5 3.5 0 000 7H10"],
  preview: ["M8 2v3M8 11v3M2 8h3M11 8h3", "M8 8h.01"],
  hide: ["M1.5 8S4 3.5 8 3.5 14.5 8 14.5 8 12 12.5 8 12.5 1.5 8 1.5 8z", "M2.5 13.5l11-11"],
  solo: ["M8 13A5 5 0 108 3a5 5 0 000 10z", "M8 8h.01"],
  opacity: ["M8 2.5s4 4.200 4 7a4 4 0 01-8 0c0-2.800 4-7 4-7z", "M4.5 10h7"],
  contour: ["M3 5.5L8 2.5l5 3v5l-5 3-5-3z"],
  fit: ["M2.5 6V2.5H6M10 2.5h3.5V6M13.5 10v3.5H10M6 13.5H2.5V10"],
  help: ["M6 6a2 2 0 114 0c0 1.5-2 1.5-2 3.200", "M8 12h.01"],
};

const RAIL = [
  ["prompt", "takeAway", "scribble", "lasso", "wand", "brush", "eraser"],
  ["undo", "redo", "edit"],
  ["preview", "hide", "solo", "opacity", "contour", "fit"],
  ["adjust", "help"],
];

const TITLES = {
  prompt: t("Click and box"), takeAway: t("Clicks mark what does not belong to the object"), brush: t("Brush"), eraser: t("Eraser"),
  scribble: t("Scribble: a stroke becomes several clicks"), lasso: t("Polygon and lasso"), wand: t("Regions of like pixels"),
  undo: t("Undo"), redo: t("Redo"), edit: t("Change the mask"), adjust: t("Adjust the view"),
  preview: t("Preview under the pointer"), hide: t("Hide all masks"), solo: t("Only the selected mask"),
  opacity: t("Opacity"), contour: t("Outlines only"), fit: t("Fit the image"), help: t("All keys"),
};

const TOGGLES = new Set(["prompt", "takeAway", "scribble", "lasso", "wand", "brush", "eraser", "edit", "adjust", "preview", "hide", "solo", "contour"]);

/** Only these have an id: no page around the editor uses it. */
const IDS = new Set(["undo", "redo", "finish"]);

function icon(name) {
  const lines = ICONS[name].map((d) => svg("path", { d }));
  return svg("svg", { class: "icon", viewBox: "0 0 16 16", "aria-hidden": "true" }, lines);
}

const STYLES = "/static/css/editor.css";

/** Adds the style sheet, so that a page that opens the editor need not name it. */
function addStyles() {
  if (document.querySelector(`link[href="${STYLES}"]`)) return;
  document.head.append(el("link", { rel: "stylesheet", href: STYLES }));
}

/** Fills `container`; returns the parts by name. `run(action)` is called by buttons. */
export function buildLayout(container, keys, run, { hasList }) {
  addStyles();
  const buttons = {};
  const railButton = (name) => {
    const title = TITLES[name] + keys.hint(name);
    const pressed = TOGGLES.has(name) ? "false" : null;
    const id = IDS.has(name) ? name : null;
    const attributes = { id, "data-action": name, class: "button rail-button", type: "button", title, "aria-label": TITLES[name], "aria-pressed": pressed };
    buttons[name] = el("button", { ...attributes, onclick: () => run(name) }, icon(name));
    return buttons[name];
  };
  const rail = el("div", { class: "editor-rail", role: "toolbar", "aria-label": t("Tools"), "aria-orientation": "vertical" });
  for (const group of RAIL) rail.append(el("div", { class: "rail-group" }, group.map(railButton)));

  const canvas = el("canvas", {
    id: "canvas",
    class: "editor-canvas",
    tabindex: "0",
    role: "application",
    "data-testid": "canvas",
    "aria-label": t("Image. Arrow keys move a crosshair, full stop and comma click there, question mark shows all keys."),
  });
  const hint = el("div", { class: "editor-hint", hidden: true });
  const bar = el("div", { class: "editor-bar", role: "group", "aria-label": t("This mask") });
  const live = el("div", { class: "visually-hidden", role: "status", "aria-live": "polite", id: "announce" });
  const busy = el("div", { class: "editor-busy", hidden: true }, t("asking the model …"));
  const zoom = el("output", { class: "editor-zoom", "aria-label": t("Zoom") });
  const stage = el("div", { class: "editor-stage" }, canvas, hint, bar, busy, zoom, live);

  const counts = el("div", { class: "side-counts muted" });
  const list = el("div", { id: "mask-list", class: "mask-list", "data-testid": "mask-list" });
  const side = el("aside", { class: "editor-side", "aria-label": t("Masks"), hidden: !hasList }, el("div", { class: "side-head" }, el("h2", {}, t("Masks")), counts), list);

  container.classList.add("editor");
  container.classList.toggle("has-list", hasList);
  container.replaceChildren(rail, stage, side);
  return { buttons, rail, canvas, hint, bar, live, busy, zoom, counts, list, side, stage };
}

const NAMES = [t("Whole"), t("Part"), t("Subpart")];

/** Buttons for the model's suggestions, the largest first. */
function candidateButtons(work, keys, run) {
  const { answer, candidate } = work;
  return candidatesBySize(work).map((i, size) => {
    const score = answer.ious[i];
    const attributes = {
      class: "button candidate",
      type: "button",
      "data-candidate": i,
      "aria-pressed": String(i === candidate),
      title: t("Predicted IoU {iou}", { iou: decimal(score, 2) }) + keys.hint(`candidate${size}`),
      onclick: () => run(`candidate${size}`),
    };
    const meter = el("span", { class: "candidate-meter", "aria-hidden": "true" }, el("span", { style: { width: `${Math.round(score * 100)}%` } }));
    return el("button", attributes, el("span", {}, `${NAMES[size]} `, el("span", { class: "candidate-score" }, percent(score))), meter);
  });
}

function barButton(id, text, keys, run, { primary = false, disabled = false } = {}) {
  const names = `button ${primary ? "button-primary" : ""}`;
  const key = keys.hint(id).replace(/[ ()]/g, "");
  const attributes = { id: IDS.has(id) ? id : null, "data-action": id, class: names, type: "button", disabled };
  return el("button", { ...attributes, onclick: () => run(id) }, text, key && el("kbd", {}, key));
}

/** The floating bar: what can be done with the mask in progress or the selected one. `selected` is a
 * row of the list or null; `chip`: the button of its label, or null. */
export function fillBar(bar, { work, selected, isFix, keys, run, chip }) {
  const finish = (disabled) => barButton("finish", isFix ? t("Use this mask") : t("Finish"), keys, run, { primary: true, disabled });
  let parts;
  if (work) {
    const several = work.answer && work.answer.masks.filter(Boolean).length > 1;
    parts = [
      several ? el("span", { class: "bar-group" }, candidateButtons(work, keys, run)) : score(work),
      finish(false),
      barButton("drop", t("Drop"), keys, run),
    ];
  } else if (selected) {
    const isOwn = !selected.isPrefilled;
    const name = isFix ? t("This mask") : selected.title;
    const remove = selected.isRejected ? ["restore", t("Restore")] : ["remove", isOwn ? t("Delete") : t("Reject")];
    parts = [
      el("span", { class: "bar-text" }, pieces("{mask} – click or paint to correct it", { mask: el("strong", {}, name) })),
      isFix ? finish(true) : barButton(...remove, keys, run),
      ...(isOwn && !isFix ? [barButton("up", t("Up"), keys, run), barButton("down", t("Down"), keys, run)] : []),
      barButton("drop", isFix ? t("Cancel") : t("Leave"), keys, run),
    ];
  } else {
    parts = [el("span", { class: "bar-text muted" }, t("Click an object, or drag a box around it.")), finish(true)];
  }
  const focused = bar.contains(document.activeElement) ? document.activeElement.getAttribute("data-action") : null;
  bar.replaceChildren(...[...parts, chip].filter(Boolean));
  if (focused) bar.querySelector(`[data-action="${focused}"]`)?.focus();
}

function score(work) {
  const iou = trustedIouOf(work);
  if (iou === null) return null;
  return el("span", { class: "bar-text muted", title: t("Predicted IoU") }, t("IoU {iou}", { iou: decimal(iou, 2) }));
}
