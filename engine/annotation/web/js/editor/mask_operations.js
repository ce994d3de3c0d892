// The operations on the selected mask or the one in progress, by keys and by a panel.

import { el, toast } from "../shared/dom.js";
import { withoutHoles, withoutSpecks, smoothed } from "../shared/regions.js";
import { copied, copy } from "./clipboard.js";
import { merge, moved, paste, reshape, split, withoutOthers } from "./edits.js";
import { slider } from "./panel.js";
import { plural, t } from "../shared/strings.js";

const SPECK_STEPS = 40; // of the slider
const MOST_SHARE = 0.01; // of the image, of a speck
const MOST_RADIUS = 20;

export class MaskOperations {
  least = 0; // specks have fewer pixels
  radius = 3; // of smoothing
  ghost = null; // pixels that a slider's operation would remove

  constructor(editor) {
    this.editor = editor;
    const [width, height] = editor.size;
    this.most = Math.max(100, Math.round(width * height * MOST_SHARE));
    this.least = this.#leastAt(SPECK_STEPS / 2);
  }

  /** What keys and buttons do. */
  table() {
    const changes = Object.entries(this.#changes()).map(([name, act]) => [name, () => this.editor.prompts.isPutOff(name) || act()]);
    return {
      ...Object.fromEntries(changes),
      edit: () => this.editor.panels.toggle("edit", t("Change the mask"), () => this.#panel(), () => this.#showGhost(null)),
      join: () => this.#startJoining(),
    };
  }

  /** Those that wait for the model's answer to a click. */
  #changes() {
    return {
      fillHoles: () => this.#reshape(withoutHoles, { kind: "fill_holes" }, t("This mask has no holes.")),
      removeSpecks: () => this.#reshape((mask) => withoutSpecks(mask, this.least), { kind: "remove_specks" }, t("This mask has no specks of that size.")),
      smooth: () => this.#reshape((mask) => smoothed(mask, this.radius), { kind: "smooth", radius: this.radius }, t("This outline is smooth already.")),
      cutOut: () => this.#cutOut(),
      split: () => this.#split(),
      copy: () => this.#copy(),
      paste: () => this.#paste(),
    };
  }

  /** The work of the mask that is meant; null, with a message, if there is none or it is still made. */
  #work() {
    const { session, selected, row } = this.editor;
    if (session.isWaiting) toast(t("The model has not answered yet. Try again in a moment."));
    else if (session.current?.mask || (row && !row.isRejected)) return session.workFor(selected);
    else toast(t("Select a mask first: double click it, or press Tab."));
    return null;
  }

  #reshape(change, event, nothing) {
    const work = this.#work();
    if (!work) return;
    const target = change(work.mask);
    if (target.isEmpty) toast(t("Nothing would be left of this mask."));
    else if (!reshape(this.editor.session, work, target, event)) toast(nothing);
    else this.editor.update();
  }

  #cutOut() {
    this.#reshape(() => withoutOthers(this.editor.session, this.editor.session.workFor(this.editor.selected)), { kind: "cut_out" }, t("No other mask that is shown overlaps this one."));
  }

  #split() {
    const { editor } = this;
    const work = this.#work();
    if (!work || this.#isFix()) return;
    const ids = split(editor.session, work);
    if (!ids.length) {
      toast(t("This mask is in one piece."));
      return;
    }
    editor.selected = ids[0];
    editor.update();
    editor.announce(plural(ids.length, "Split into {n} mask.", "Split into {n} masks."));
  }

  #isFix() {
    if (this.editor.isFix) toast(t("A review corrects one mask: it cannot be split, merged or added to."));
    return this.editor.isFix;
  }

  // Merging ------------------------------------------------------------------

  #startJoining() {
    const { editor } = this;
    if (editor.tool !== "join" && (this.#isFix() || !this.#work())) return;
    editor.useTool("join");
    if (editor.tool === "join") toast(t("Click the masks to merge with this one. The same key ends it."));
  }

  /** Merges the topmost other mask at a place. */
  joinAt([x, y]) {
    const { editor } = this;
    const { session } = editor;
    const work = this.#work();
    if (!work) return;
    const other = session.at(Math.floor(x), Math.floor(y)).find(({ id }) => id !== work.id && id !== work.replaces);
    if (!other) {
      toast(t("There is no other mask here."));
      return;
    }
    merge(session, work, other.id);
    editor.selected = work.id;
    editor.prompts.clicked = null;
    editor.update();
    editor.announce(t("Merged."));
  }

  // Copies -------------------------------------------------------------------

  #copy() {
    const work = this.#work();
    if (!work) return;
    copy(work.mask);
    toast(t("Copied. Paste it on this image or a later one."));
  }

  #paste() {
    const { editor } = this;
    if (this.#isFix()) return;
    const mask = copied();
    if (!mask) {
      toast(t("There is no copy: select a mask and copy it first."));
      return;
    }
    const placed = moved(mask, editor.size);
    if (placed.isEmpty) {
      toast(t("The copied mask lies outside this image."));
      return;
    }
    editor.select(null);
    editor.selected = paste(editor.session, placed);
    editor.update();
    editor.announce(t("Pasted."));
  }

  // The panel ----------------------------------------------------------------

  #panel() {
    const { editor } = this;
    const specks = slider({
      ...{ label: t("Specks below"), min: 0, max: SPECK_STEPS, value: this.#stepOf(this.least) },
      shown: (step) => t("{n} px", { n: this.#leastAt(step) }),
      onInput: (step) => {
        this.least = this.#leastAt(step);
        this.#showGhost((mask) => withoutSpecks(mask, this.least));
      },
    });
    const smooth = slider({
      ...{ label: t("Radius"), min: 1, max: MOST_RADIUS, value: this.radius },
      shown: (value) => t("{n} px", { n: value }),
      onInput: (value) => {
        this.radius = value;
        this.#showGhost((mask) => smoothed(mask, value));
      },
    });
    const button = (id, text) => {
      const key = editor.keys.hint(id).replace(/[ ()]/g, "");
      const click = () => {
        this.#showGhost(null);
        editor.run(id);
      };
      return el("button", { class: "button", type: "button", "data-action": id, onclick: click }, text, key && el("kbd", {}, key));
    };
    const several = editor.isFix ? [] : [button("cutOut", t("Cut out others")), button("split", t("Split into its pieces")), button("join", t("Merge with others")), button("copy", t("Copy")), button("paste", t("Paste"))];
    return [
      button("fillHoles", t("Fill holes")),
      el("div", { class: "panel-group" }, specks.node, button("removeSpecks", t("Remove specks"))),
      el("div", { class: "panel-group" }, smooth.node, button("smooth", t("Smooth the outline"))),
      ...several,
    ];
  }

  #leastAt(step) {
    return Math.round(2 * (this.most / 2) ** (step / SPECK_STEPS));
  }

  #stepOf(least) {
    return Math.round((SPECK_STEPS * Math.log(least / 2)) / Math.log(this.most / 2));
  }

  /** Shows what an operation would remove; `null` shows nothing. */
  #showGhost(change) {
    const { editor } = this;
    const mask = editor.session.current?.mask ?? (editor.row?.isRejected ? null : editor.row?.mask);
    this.ghost = change && mask ? mask.minus(change(mask)) : null;
    editor.frames.request();
  }
}
