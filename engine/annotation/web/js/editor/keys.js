// Keys: what each does, how a key press is named, and the overlay that shows and changes them.

import { el, openDialog } from "../shared/dom.js";

const STORE = "dataengine.keys";

/** @typedef {[id: string, title: string, keys: string[]]} KeyRow */

/** A key's name is that of KeyboardEvent.key, with Ctrl+, Alt+, Shift+ before it;
 * Cmd counts as Ctrl. For characters such as "?" the shift that types them is not named.
 * @type {Record<string, KeyRow[]>} */
const GROUPS = {
  "This mask": [
    ["finish", "Finish this mask", ["Enter", "N"]],
    ["drop", "Discard it, or deselect the selected mask", ["Escape"]],
    ["undo", "Undo", ["Ctrl+Z"]],
    ["redo", "Redo", ["Ctrl+Shift+Z", "Ctrl+Y"]],
    ["nextCandidate", "Next suggestion: whole, part, subpart", ["C"]],
    ["candidate0", "The whole", ["1"]],
    ["candidate1", "A part", ["2"]],
    ["candidate2", "A part of the part", ["3"]],
    ["preview", "Preview under the pointer on or off", ["P"]],
  ],
  Tools: [
    ["prompt", "Click and box", ["V"]],
    ["scribble", "Scribble: a stroke becomes several clicks", ["Q"]],
    ["lasso", "Polygon and lasso on or off", ["D"]],
    ["snap", "Outlines snap to edges on or off", ["Shift+E"]],
    ["wand", "Regions of like pixels on or off", ["W"]],
    ["brush", "Brush on or off", ["B"]],
    ["eraser", "Eraser on or off", ["E"]],
    ["smaller", "Smaller brush or regions", ["["]],
    ["larger", "Larger brush or regions", ["]"]],
  ],
  "Change the mask": [
    ["edit", "Show these operations, with sizes", ["M"]],
    ["fillHoles", "Fill its holes", ["Shift+F"]],
    ["removeSpecks", "Remove specks", ["Shift+R"]],
    ["smooth", "Smooth its outline", ["Shift+S"]],
    ["cutOut", "Cut out the other masks", ["Shift+X"]],
    ["split", "Make a mask of each piece", ["Shift+D"]],
    ["join", "Merge: click the masks to merge with it", ["J"]],
    ["copy", "Copy the mask", ["Ctrl+C"]],
    ["paste", "Paste it, also on another image", ["Ctrl+V"]],
  ],
  "All masks": [
    ["nextMask", "Select the next mask", ["Tab"]],
    ["previousMask", "Select the previous mask", ["Shift+Tab"]],
    ["remove", "Delete the selected mask; reject a pre-filled one", ["Delete", "Backspace"]],
    ["up", "Move the selected mask up", ["PageUp"]],
    ["down", "Move the selected mask down", ["PageDown"]],
    ["hide", "Hide or show all masks", ["H"]],
    ["solo", "Show only the selected mask", ["S"]],
    ["opacity", "Change the opacity", ["O"]],
    ["contour", "Show outlines only", ["K"]],
  ],
  Labels: [
    ["labelList", "Open the list of categories, for this mask or the next ones", ["T"]],
    ["labelConfirm", "Take the suggested label of the selected mask", ["A"]],
  ],
  View: [
    ["fit", "Fit the image", ["F", "0"]],
    ["zoomIn", "Zoom in", ["+", "="]],
    ["zoomOut", "Zoom out", ["-"]],
    ["adjust", "Brightness, contrast, gamma, histogram", ["I"]],
    ["invert", "Invert the image", ["Shift+I"]],
    ["channel", "Next channel: red, green, blue, all", ["Shift+C"]],
    ["resetView", "Show the image as it is", ["Shift+V"]],
    ["grid", "Grid on or off", ["Shift+G"]],
    ["map", "Map of a large image on or off", ["Shift+M"]],
    ["loupe", "Magnifier while drawing on or off", ["Shift+L"]],
    ["ruler", "Ruler on or off: drag to measure", ["R"]],
    ["guidelines", "Guidelines", ["G"]],
    ["help", "Show these keys", ["?"]],
    ["switchArea", "Move between tools, list and image", ["F6"]],
  ],
  "Without a mouse": [
    ["left", "Move the crosshair left (Shift: faster)", ["ArrowLeft"]],
    ["right", "Move it right", ["ArrowRight"]],
    ["upwards", "Move it up", ["ArrowUp"]],
    ["downwards", "Move it down", ["ArrowDown"]],
    ["positive", "Click there: belongs to the object", ["."]],
    ["negative", "Click there: does not belong to it", [","]],
    ["corner", "First, then second corner of a box", ["X"]],
    ["pick", "Select the mask there", ["L"]],
  ],
  Image: [
    ["submit", "Submit this image and open the next", ["Ctrl+Enter"]],
    ["skip", "Skip this image", ["Ctrl+Space"]],
  ],
};

const ACTIONS = new Map(
  Object.values(GROUPS).flatMap((rows) => rows.map(([id, title, keys]) => [id, { title, keys }])),
);

/** Keys that cannot be changed, for the overlay. */
const MOUSE = [
  ["click", "belongs to the object"],
  ["right click, Shift+click", "does not belong to it"],
  ["drag", "box around the object"],
  ["drag a click, click it", "move it, remove it"],
  ["click, drag with the polygon", "corner, free line; the first corner closes"],
  ["double click, Alt+click", "select the mask there; again: the one under it"],
  ["wheel", "zoom"],
  ["Space+drag, middle drag", "move the image"],
  ["Ctrl with the polygon", "corners stay where they are set, where they snap to edges"],
  ["Shift or right button with a tool", "removes where it would add, and the reverse"],
];

const TOUCH = [
  ["tap", "belongs to the object"],
  ["hold, or the tool ⊖", "does not belong to it"],
  ["two fingers", "zoom and move the image"],
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
    const draw = () => body.replaceChildren(...this.#tables(note, draw), ...this.#labelTable(), fixedTable("Mouse", MOUSE), fixedTable("Touch", TOUCH));
    const reset = () => {
      this.reset();
      draw();
    };
    draw();
    const button = el("button", { class: "button", type: "button", onclick: reset }, "Reset all keys");
    const dialog = openDialog("Keys", note, body, el("div", { class: "dialog-actions" }, button));
    dialog.classList.add("keys-dialog");
    dialog.id = "keys-dialog";
    return dialog;
  }

  /** The keys of categories. */
  #labelTable() {
    const { categories } = this;
    if (!categories?.isUsed) return [];
    const rows = [...categories.keys].map(([key, id]) => [key.toUpperCase(), categories.nameOf(id)]);
    return [fixedTable("Keys of labels", rows)];
  }

  #tables(note, redraw) {
    const isUsed = Boolean(this.categories?.isUsed);
    const shownGroups = Object.entries(GROUPS).filter(([title]) => title !== "Labels" || isUsed);
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
      note.textContent = `Press the new key for “${what}”, or Escape to keep the old one.`;
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
    const label = `${what}: ${this.#active(id).map(shown).join(" or ") || "no key"}. Change`;
    const button = el(
      "button",
      { class: "keys-row", type: "button", "aria-label": label, "data-action": id, onclick: listen },
      el("span", {}, what),
      el("span", { class: "keys-names" }, names.length ? names : "none"),
    );
    return button;
  }
}

const HOW = "Click a line, then press a key, to change it. Changes are kept in this browser.";

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
