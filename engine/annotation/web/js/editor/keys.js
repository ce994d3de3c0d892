// Keys: what each does, how a key press is named, and the overlay that shows and changes them.

import { el, openDialog } from "../shared/dom.js";
import { LOCALE, t } from "../shared/strings.js";

const STORE = "dataengine.keys";
const LABELS = t("Labels");
const either = new Intl.ListFormat(LOCALE, { type: "disjunction" });

/** @typedef {[id: string, title: string, keys: string[]]} KeyRow */

/** A key's name is that of KeyboardEvent.key, with Ctrl+, Alt+, Shift+ before it;
 * Cmd counts as Ctrl. For characters such as "?" the shift that types them is not named.
 * @type {[title: string, rows: KeyRow[]][]} */
const GROUPS = [
  [t("This mask"), [
    ["finish", t("Finish this mask"), ["Enter", "N"]],
    ["drop", t("Discard it, or deselect the selected mask"), ["Escape"]],
    ["undo", t("Undo"), ["Ctrl+Z"]],
    ["redo", t("Redo"), ["Ctrl+Shift+Z", "Ctrl+Y"]],
    ["nextCandidate", t("Next suggestion: whole, part, subpart"), ["C"]],
    ["candidate0", t("The whole"), ["1"]],
    ["candidate1", t("A part"), ["2"]],
    ["candidate2", t("A part of the part"), ["3"]],
    ["preview", t("Preview under the pointer on or off"), ["P"]],
  ]],
  [t("Tools"), [
    ["prompt", t("Click and box"), ["V"]],
    ["scribble", t("Scribble: a stroke becomes several clicks"), ["Q"]],
    ["lasso", t("Polygon and lasso on or off"), ["D"]],
    ["snap", t("Outlines snap to edges on or off"), ["Shift+E"]],
    ["wand", t("Regions of like pixels on or off"), ["W"]],
    ["brush", t("Brush on or off"), ["B"]],
    ["eraser", t("Eraser on or off"), ["E"]],
    ["smaller", t("Smaller brush or regions"), ["["]],
    ["larger", t("Larger brush or regions"), ["]"]],
  ]],
  [t("Change the mask"), [
    ["edit", t("Show these operations, with sizes"), ["M"]],
    ["fillHoles", t("Fill its holes"), ["Shift+F"]],
    ["removeSpecks", t("Remove specks"), ["Shift+R"]],
    ["smooth", t("Smooth its outline"), ["Shift+S"]],
    ["cutOut", t("Cut out the other masks"), ["Shift+X"]],
    ["split", t("Make a mask of each piece"), ["Shift+D"]],
    ["join", t("Merge: click the masks to merge with it"), ["J"]],
    ["copy", t("Copy the mask"), ["Ctrl+C"]],
    ["paste", t("Paste it, also on another image"), ["Ctrl+V"]],
  ]],
  [t("All masks"), [
    ["nextMask", t("Select the next mask"), ["Tab"]],
    ["previousMask", t("Select the previous mask"), ["Shift+Tab"]],
    ["remove", t("Delete the selected mask; reject a pre-filled one"), ["Delete", "Backspace"]],
    ["up", t("Move the selected mask up"), ["PageUp"]],
    ["down", t("Move the selected mask down"), ["PageDown"]],
    ["hide", t("Hide or show all masks"), ["H"]],
    ["solo", t("Show only the selected mask"), ["S"]],
    ["opacity", t("Change the opacity"), ["O"]],
    ["contour", t("Show outlines only"), ["K"]],
  ]],
  [LABELS, [
    ["labelList", t("Open the list of categories, for this mask or the next ones"), ["T"]],
    ["labelConfirm", t("Take the suggested label of the selected mask"), ["A"]],
  ]],
  [t("View"), [
    ["fit", t("Fit the image"), ["F", "0"]],
    ["zoomIn", t("Zoom in"), ["+", "="]],
    ["zoomOut", t("Zoom out"), ["-"]],
    ["adjust", t("Brightness, contrast, gamma, histogram"), ["I"]],
    ["invert", t("Invert the image"), ["Shift+I"]],
    ["channel", t("Next channel: red, green, blue, all"), ["Shift+C"]],
    ["resetView", t("Show the image as it is"), ["Shift+V"]],
    ["grid", t("Grid on or off"), ["Shift+G"]],
    ["map", t("Map of a large image on or off"), ["Shift+M"]],
    ["loupe", t("Magnifier while drawing on or off"), ["Shift+L"]],
    ["ruler", t("Ruler on or off: drag to measure"), ["R"]],
    ["guidelines", t("Guidelines"), ["G"]],
    ["help", t("Show these keys"), ["?"]],
    ["switchArea", t("Move between tools, list and image"), ["F6"]],
  ]],
  [t("Without a mouse"), [
    ["left", t("Move the crosshair left (Shift: faster)"), ["ArrowLeft"]],
    ["right", t("Move it right"), ["ArrowRight"]],
    ["upwards", t("Move it up"), ["ArrowUp"]],
    ["downwards", t("Move it down"), ["ArrowDown"]],
    ["positive", t("Click there: belongs to the object"), ["."]],
    ["negative", t("Click there: does not belong to it"), [","]],
    ["corner", t("First, then second corner of a box"), ["X"]],
    ["pick", t("Select the mask there"), ["L"]],
  ]],
  [t("Image"), [
    ["submit", t("Submit this image and open the next"), ["Ctrl+Enter"]],
    ["skip", t("Skip this image"), ["Ctrl+Space"]],
  ]],
];

const ACTIONS = new Map(
  GROUPS.flatMap(([, rows]) => rows.map(([id, title, keys]) => [id, { title, keys }])),
);

/** Keys that cannot be changed, for the overlay. */
const MOUSE = [
  [t("click"), t("belongs to the object")],
  [t("right click, Shift+click"), t("does not belong to it")],
  [t("drag"), t("box around the object")],
  [t("drag a click, click it"), t("move it, remove it")],
  [t("click, drag with the polygon"), t("corner, free line; the first corner closes")],
  [t("double click, Alt+click"), t("select the mask there; again: the one under it")],
  [t("wheel"), t("zoom")],
  [t("Space+drag, middle drag"), t("move the image")],
  [t("Ctrl with the polygon"), t("corners stay where they are set, where they snap to edges")],
  [t("Shift or right button with a tool"), t("removes where it would add, and the reverse")],
];

const TOUCH = [
  [t("tap"), t("belongs to the object")],
  [t("hold, or the tool ⊖"), t("does not belong to it")],
  [t("two fingers"), t("zoom and move the image")],
];

/** A key press by name: "Ctrl+Shift+Z", "?", "Tab". */
export function nameOf(event) {
  let key = event.key === " " ? "Space" : event.key;
  const isLetter = key.length === 1 && key.toLowerCase() !== key.toUpperCase();
  if (isLetter) key = key.toUpperCase();
  // AltGr types characters on many keyboards, and reads as Ctrl+Alt
  const isTyped = event.getModifierState?.("AltGraph") && key.length === 1;
  let name = "";
  if ((event.ctrlKey || event.metaKey) && !isTyped) name += "Ctrl+";
  if (event.altKey && !isTyped) name += "Alt+";
  if (event.shiftKey && (isLetter || key.length > 1)) name += "Shift+";
  return name + key;
}

export class Keys {
  /** @type {Record<string, string[]>} */
  #changed = read();

  /** @type {import("../shared/categories.js").Categories | null} whose keys come before those of actions */
  categories = null;

  /** The action of a key press, or null. Shift with an arrow key means the same, only faster. */
  actionOf(event) {
    const name = nameOf(event);
    const plain = name.startsWith("Shift+Arrow") ? name.slice(6) : name;
    for (const id of ACTIONS.keys()) if (this.#active(id).includes(plain)) return id;
    return null;
  }

  of(id) {
    return this.#changed[id] ?? ACTIONS.get(id)?.keys ?? [];
  }

  /** The keys of an action without those that label a mask; where there are categories, 1 to 9 do
   * nothing else. */
  #active(id) {
    if (!this.categories?.isUsed) return this.of(id);
    const { keys } = this.categories;
    return this.of(id).filter((name) => !keys.has(name.toLowerCase()) && !/^[1-9]$/.test(name));
  }

  /** Whether an action has a key. */
  isUsed(name) {
    return [...ACTIONS.keys()].some((id) => this.of(id).includes(name));
  }

  /** For titles of buttons: " (Enter)". */
  hint(id) {
    const [first] = this.#active(id);
    return first ? ` (${shown(first)})` : "";
  }

  /** The key leaves whatever had it before. */
  change(id, name) {
    for (const other of ACTIONS.keys()) {
      if (other === id || !this.of(other).includes(name)) continue;
      this.#changed[other] = this.of(other).filter((key) => key !== name);
    }
    this.#changed[id] = [name];
    this.#write();
  }

  reset() {
    this.#changed = {};
    this.#write();
  }

  #write() {
    try {
      localStorage.setItem(STORE, JSON.stringify(this.#changed));
    } catch {
      // no storage: the change holds until the page is left
    }
  }

  /** The overlay. */
  show() {
    const body = el("div", { class: "keys-columns" });
    const note = el("p", { class: "muted", "aria-live": "polite" }, HOW);
    const draw = () => body.replaceChildren(...this.#tables(note, draw), ...this.#labelTable(), fixedTable(t("Mouse"), MOUSE), fixedTable(t("Touch"), TOUCH));
    const reset = () => {
      this.reset();
      draw();
    };
    draw();
    const button = el("button", { class: "button", type: "button", onclick: reset }, t("Reset all keys"));
    const dialog = openDialog(t("Keys"), note, body, el("div", { class: "dialog-actions" }, button));
    dialog.classList.add("keys-dialog");
    dialog.id = "keys-dialog";
    return dialog;
  }

  /** The keys of categories. */
  #labelTable() {
    const { categories } = this;
    if (!categories?.isUsed) return [];
    const rows = [...categories.keys].map(([key, id]) => [key.toUpperCase(), categories.nameOf(id)]);
    return [fixedTable(t("Keys of labels"), rows)];
  }

  #tables(note, redraw) {
    const isUsed = Boolean(this.categories?.isUsed);
    const shownGroups = GROUPS.filter(([title]) => title !== LABELS || isUsed);
    return shownGroups.map(([title, rows]) =>
      el(
        "section",
        {},
        el("h3", {}, title),
        rows.map(([id, what]) => this.#row(id, what, note, redraw)),
      ),
    );
  }

  #row(id, what, note, redraw) {
    const names = this.#active(id).map((key) => el("kbd", {}, shown(key)));
    const listen = () => {
      note.textContent = t("Press the new key for “{what}”, or Escape to keep the old one.", { what });
      button.classList.add("is-listening");
      button.onkeydown = (event) => {
        if (["Shift", "Control", "Alt", "Meta"].includes(event.key)) return;
        event.preventDefault();
        event.stopPropagation();
        note.textContent = HOW;
        if (event.key !== "Escape") this.change(id, nameOf(event));
        redraw();
      };
    };
    const label = t("{what}: {keys}. Change", { what, keys: either.format(this.#active(id).map(shown)) || t("no key") });
    const button = el(
      "button",
      { class: "keys-row", type: "button", "aria-label": label, "data-action": id, onclick: listen },
      el("span", {}, what),
      el("span", { class: "keys-names" }, names.length ? names : t("none")),
    );
    return button;
  }
}

const HOW = t("Click a line, then press a key, to change it. Changes are kept in this browser.");

function shown(key) {
  const words = { Escape: "Esc", ArrowLeft: "←", ArrowRight: "→", ArrowUp: "↑", ArrowDown: "↓" };
  const short = { ...words, Delete: "Del", PageUp: "PgUp", PageDown: "PgDn" };
  return key
    .split(/\+(?=.)/)
    .map((part) => short[part] ?? part)
    .join("+");
}

function fixedTable(title, table) {
  const rows = table.map(([how, what]) =>
    el("div", { class: "keys-row" }, el("span", {}, what), el("span", { class: "keys-names muted" }, how)),
  );
  return el("section", {}, el("h3", {}, title), rows);
}

function read() {
  try {
    const stored = JSON.parse(localStorage.getItem(STORE) ?? "{}");
    const isValid = ([id, keys]) =>
      ACTIONS.has(id) && Array.isArray(keys) && keys.every((key) => typeof key === "string");
    return Object.fromEntries(Object.entries(stored).filter(isValid));
  } catch {
    return {};
  }
}
