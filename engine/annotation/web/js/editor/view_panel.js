// The panel that adjusts the view, and what its keys do. The settings hold for later images too, until the
// tab is closed.

import { el, toast } from "../shared/dom.js";
import { NEUTRAL } from "./adjust.js";
import { decimal } from "../shared/format.js";
import { slider } from "./panel.js";
import { t } from "../shared/strings.js";

const STORE = "dataengine.view";
const CHANNELS = [t("Red"), t("Green"), t("Blue")];
const DEFAULTS = Object.freeze({ ...NEUTRAL, stretch: 0, hasGrid: false, hasMap: true, hasLoupe: false, hasSnap: false, hasPressure: true });
const STRETCH_MS = 250; // the server is asked once the slider rests

/** @typedef {import("./adjust.js").Adjustment & {stretch: number, hasGrid: boolean, hasMap: boolean,
 * hasLoupe: boolean, hasSnap: boolean, hasPressure: boolean}} View
 * stretch: percent of the values that become black, and as many white; 0: as stored */

export class ViewPanel {
  /** @type {View} */
  view = read();
  #timer = 0;

  constructor(editor) {
    this.editor = editor;
  }

  /** What keys and buttons do. */
  table() {
    const { editor } = this;
    return {
      adjust: () => editor.panels.toggle("adjust", t("Adjust the view"), () => this.#panel()),
      invert: () => this.#set({ isInverted: !this.view.isInverted }, true),
      channel: () => this.#nextChannel(),
      grid: () => this.#set({ hasGrid: !this.view.hasGrid }, true),
      map: () => this.#set({ hasMap: !this.view.hasMap }, true),
      loupe: () => this.#switch("hasLoupe", t("Magnifier on."), t("Magnifier off.")),
      pressure: () => this.#switch("hasPressure", t("The pen's pressure on."), t("The pen's pressure off.")),
      snap: () => this.#switch("hasSnap", t("Snapping to edges on."), t("Snapping to edges off.")),
      resetView: () => this.#reset(),
    };
  }

  /** The percentiles that become black and white; null for the picture as it is stored. */
  get between() {
    const { stretch } = this.view;
    return stretch ? { low: stretch, high: 100 - stretch } : null;
  }

  /** The picture's address for the chosen stretch. */
  urlOf(side) {
    const { api, task } = this.editor.options;
    return api.imageUrl(task.image.id, side, this.between);
  }

  tileUrlOf(path) {
    const { api, task } = this.editor.options;
    return api.tileUrl(task.image.id, path, this.between);
  }

  /** `isShown`: the panel, if it is open, is to show the change. */
  #set(changes, isShown = false) {
    const { editor } = this;
    const before = this.view;
    this.view = { ...before, ...changes };
    write(this.view);
    if (this.view.stretch !== before.stretch) this.#stretch();
    editor.adjusted.set(this.view);
    if (isShown && editor.panels.open === "adjust") editor.panels.refresh();
  }

  #switch(name, on, off) {
    this.#set({ [name]: !this.view[name] }, true);
    this.editor.announce(this.view[name] ? on : off);
  }

  /** Shows the image as it is; what helps to draw stays. */
  #reset() {
    const { hasLoupe, hasSnap, hasPressure } = this.view;
    this.#set({ ...DEFAULTS, hasLoupe, hasSnap, hasPressure }, true);
  }

  #stretch() {
    const { editor } = this;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(async () => {
      try {
        editor.tiles?.clear();
        await editor.picture.reload();
      } catch (problem) {
        toast(t("The picture could not be rendered anew: {problem}", { problem: problem.message }), "bad");
      }
    }, STRETCH_MS);
  }

  #nextChannel() {
    const channel = this.view.channel === null ? 0 : this.view.channel === 2 ? null : this.view.channel + 1;
    this.#set({ channel }, true);
    this.editor.announce(channel === null ? t("All channels.") : t("{colour} channel.", { colour: CHANNELS[channel] }));
  }

  #panel() {
    const { view, editor } = this;
    const part = (label, name, min, max, step, shown) => slider({
      ...{ label, min, max, step, shown },
      value: name === "gamma" ? Math.log2(view.gamma) : view[name],
      onInput: (value) => this.#set({ [name]: name === "gamma" ? 2 ** value : value }),
    }).node;
    const signed = (value) => (value > 0 ? `+${value}` : String(value));
    return [
      part(t("Brightness"), "brightness", -100, 100, 1, signed),
      part(t("Contrast"), "contrast", -100, 100, 1, signed),
      part(t("Gamma"), "gamma", -3, 3, 0.1, (value) => decimal(2 ** value, 2)),
      part(t("Stretch the histogram"), "stretch", 0, 20, 0.1, (value) => (value ? t("{n} %", { n: decimal(value) }) : t("off"))),
      el("p", { class: "muted panel-note" }, t("Black and white for this share of the darkest and brightest values, from the stored file's full depth.")),
      this.#channels(),
      el("div", { class: "panel-toggles" }, this.#toggle("invert", t("Inverted"), view.isInverted), this.#toggle("grid", t("Grid"), view.hasGrid), this.#toggle("map", t("Map"), view.hasMap)),
      el("div", { class: "panel-toggles" }, this.#toggle("loupe", t("Magnifier"), view.hasLoupe), this.#toggle("snap", t("Snap to edges"), view.hasSnap), this.#toggle("pressure", t("Pen pressure"), view.hasPressure)),
      el("button", { class: "button", type: "button", "data-action": "resetView", onclick: () => editor.run("resetView") }, t("Reset")),
    ];
  }

  #channels() {
    const button = (text, channel) =>
      el("button", { class: "button", type: "button", "aria-pressed": String(this.view.channel === channel), onclick: () => this.#set({ channel }, true) }, text);
    return el("div", { class: "panel-toggles", role: "group", "aria-label": t("Channel") }, button(t("All"), null), CHANNELS.map((name, channel) => button(name, channel)));
  }

  #toggle(action, text, isOn) {
    const title = `${text}${this.editor.keys.hint(action)}`;
    return el("button", { class: "button", type: "button", title, "data-action": action, "aria-pressed": String(isOn), onclick: () => this.editor.run(action) }, text);
  }

  close() {
    clearTimeout(this.#timer);
  }
}

/** @returns {View} */
function read() {
  try {
    const stored = JSON.parse(sessionStorage.getItem(STORE) ?? "{}");
    const isKnown = ([name, value]) => name in DEFAULTS && (name === "channel" || typeof value === typeof DEFAULTS[name]);
    return { ...DEFAULTS, ...Object.fromEntries(Object.entries(stored).filter(isKnown)) };
  } catch {
    return { ...DEFAULTS };
  }
}

function write(view) {
  try {
    sessionStorage.setItem(STORE, JSON.stringify(view));
  } catch {
    // no storage: the settings hold for this image
  }
}
