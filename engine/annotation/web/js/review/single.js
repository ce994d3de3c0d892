// One mask, large: with or without its outline, zoomed and panned, before and after a fix.

import { byId, el } from "../shared/dom.js";
import { Fingers } from "../shared/fingers.js";
import { DASH, count, decimal } from "../shared/format.js";
import { t } from "../shared/strings.js";
import { reasonText } from "./keys.js";
import { swipeOf } from "./swipe.js";
import { BEFORE, OUTLINE, boxOfRle, drawMask, viewAround } from "./mask_art.js";

const SHOWS = ["overlay", "image", "mask"];
const SHOW_NAMES = { overlay: t("Outline"), image: t("Image only"), mask: t("Mask only") };
const VERDICT_BADGES = {
  accept: ["badge-good", t("accepted")],
  reject: ["badge-bad", t("rejected")],
  fix: ["badge-accent", t("fixed")],
};
const SOURCES = {
  annotator: t("drawn by an annotator"),
  prefill: t("pre-filled by the model"),
  automatic: t("made by the model"),
  imported: t("imported"),
};

export const nextShow = (show) => SHOWS[(SHOWS.indexOf(show) + 1) % SHOWS.length];
export const showName = (show) => SHOW_NAMES[show];


export class Single {
  task = null;
  picture = null;
  mask = null;
  entry = null; // the mask's verdict so far
  /** @type {Element | null} */
  label = null; // what is shown of the mask's label
  index = null;
  view = null; // the visible part of the image: {x, y, scale}
  frame = 0;
  /** @type {((x: number, y: number) => void) | null} takes the place of the next click */
  onPlace = null;

  constructor(on) {
    this.root = byId("single");
    this.canvas = byId("single-canvas");
    this.show = "overlay";
    this.isBefore = false;
    this.isWhole = false;
    this.on = on;
    new ResizeObserver(() => this.fit()).observe(this.canvas.parentElement);
    this.listen();
  }

  get isOpen() {
    return !this.root.hidden;
  }

  /** Show a mask: `entry` is the verdict so far, `total` how many masks there are, `label` what is shown of
   * its label, or null. */
  open({ task, picture, index, entry, total, show, label }) {
    const isOther = this.task !== task || this.index !== index || !this.isOpen;
    Object.assign(this, { task, picture, index, entry, show, label, mask: task.masks[index] });
    this.root.hidden = false;
    if (isOther) this.isBefore = false;
    byId("single-title").textContent = t("Mask {number} of {total}", { number: index + 1, total });
    this.fillFacts();
    this.fillButtons();
    if (isOther) this.fit();
    else this.draw();
  }

  close() {
    this.root.hidden = true;
  }

  get rle() {
    return (!this.isBefore && this.entry?.fix?.rle) || this.mask.rle;
  }

  fillFacts() {
    const { mask, task, entry } = this;
    const share = (100 * mask.area) / (task.image.width * task.image.height);
    const rows = [
      [t("Area"), `${t("{n} px", { n: count(mask.area) })} (${t("{n} %", { n: share < 0.1 ? `< ${decimal(0.1)}` : decimal(share) })})`],
      [t("Predicted IoU"), decimal(mask.predicted_iou, 3)],
      [t("Made"), SOURCES[mask.source] ?? mask.source],
      [t("Model"), mask.model ?? DASH],
      [t("Annotator"), mask.annotator ?? DASH],
      ...(this.label ? [[t("Label"), this.label]] : []),
    ];
    byId("single-facts").replaceChildren(
      ...rows.map(([name, value]) => el("tr", {}, el("th", { scope: "row" }, name), el("td", {}, value))),
    );
    const [style, text] = VERDICT_BADGES[entry?.verdict] ?? ["", t("no verdict yet")];
    byId("single-verdict").replaceChildren(
      el("span", { class: `badge ${style}` }, text),
      entry?.reason ? el("span", { class: "muted" }, ` ${reasonText(entry.reason)}`) : "",
    );
  }

  fillButtons() {
    for (const button of this.root.querySelectorAll("[data-show]")) {
      button.setAttribute("aria-pressed", String(button.dataset.show === this.show));
    }
    byId("before").hidden = !this.entry?.fix;
    byId("before").setAttribute("aria-pressed", String(this.isBefore));
    byId("zoom").firstChild.textContent = `${this.isWhole ? t("Around the mask") : t("Whole image")} `;
    byId("single-note").hidden = !this.entry?.fix;
    byId("single-note").textContent = this.isBefore ? t("Before the fix") : t("After the fix");
    byId("single-note").dataset.before = String(this.isBefore);
  }

  setBefore(isBefore) {
    if (!this.entry?.fix) return;
    this.isBefore = isBefore;
    this.fillButtons();
    this.draw();
  }

  /** Switches between the whole image and the mask's surroundings. */
  toggleWhole() {
    this.isWhole = !this.isWhole;
    this.fillButtons();
    this.fit();
  }

  fit() {
    if (!this.isOpen || !this.mask) return;
    const { clientWidth, clientHeight } = this.canvas.parentElement;
    this.canvas.width = Math.max(1, Math.round(clientWidth * devicePixelRatio));
    this.canvas.height = Math.max(1, Math.round(clientHeight * devicePixelRatio));
    const size = this.task.image;
    const whole = { x: 0, y: 0, width: size.width, height: size.height };
    const box = this.isWhole ? whole : this.boxOfBoth();
    this.view = viewAround(box, size, this.canvas.width, this.canvas.height, this.isWhole ? 0 : 0.5);
    this.draw();
  }

  /** The box that holds the mask before and after its fix. */
  boxOfBoth() {
    const boxes = [this.mask.rle, this.entry?.fix?.rle].filter(Boolean).map(boxOfRle);
    const x = Math.min(...boxes.map((box) => box.x));
    const y = Math.min(...boxes.map((box) => box.y));
    const right = Math.max(...boxes.map((box) => box.x + box.width));
    const bottom = Math.max(...boxes.map((box) => box.y + box.height));
    return { x, y, width: right - x, height: bottom - y };
  }

  draw() {
    if (this.frame) return;
    this.frame = requestAnimationFrame(() => {
      this.frame = 0;
      if (!this.isOpen) return;
      const colour = this.isBefore ? BEFORE : OUTLINE;
      drawMask(this.canvas, this.picture, this.task.image, this.rle, this.view, this.show, colour);
      this.on.drawn?.();
    });
  }

  zoom(factor, x = this.canvas.width / 2, y = this.canvas.height / 2) {
    const { view } = this;
    const least = Math.min(this.canvas.width / this.task.image.width, this.canvas.height / this.task.image.height) / 2;
    const scale = Math.min(Math.max(view.scale * factor, least), 60);
    // the pixel under the pointer stays in place
    this.view = { scale, x: view.x + x / view.scale - x / scale, y: view.y + y / view.scale - y / scale };
    this.draw();
  }

  /** Moves a place of the image to the middle. */
  center(x, y) {
    const { scale } = this.view;
    this.view = { scale, x: x - this.canvas.width / 2 / scale, y: y - this.canvas.height / 2 / scale };
    this.draw();
  }

  /** The place in the image of a pointer event; null outside.
   * @returns {[x: number, y: number] | null} */
  placeOf(event) {
    const corner = this.canvas.getBoundingClientRect();
    const step = devicePixelRatio / this.view.scale;
    const [x, y] = [this.view.x + (event.clientX - corner.left) * step, this.view.y + (event.clientY - corner.top) * step];
    const { width, height } = this.task.image;
    return x >= 0 && y >= 0 && x < width && y < height ? [x, y] : null;
  }

  pinch({ x, y, dx, dy, factor }) {
    const corner = this.canvas.getBoundingClientRect();
    const step = devicePixelRatio / this.view.scale;
    this.view = { ...this.view, x: this.view.x - dx * step, y: this.view.y - dy * step };
    this.zoom(factor, (x - corner.left) * devicePixelRatio, (y - corner.top) * devicePixelRatio);
  }

  listen() {
    const { canvas } = this;
    const fingers = new Fingers();
    let from = null;
    canvas.addEventListener(
      "wheel",
      (event) => {
        event.preventDefault();
        const step = event.deltaMode === 1 ? event.deltaY * 30 : event.deltaY;
        this.zoom(Math.exp(-step * 0.0018), event.offsetX * devicePixelRatio, event.offsetY * devicePixelRatio);
      },
      { passive: false },
    );
    canvas.addEventListener("click", (event) => {
      const place = this.onPlace && this.placeOf(event);
      if (place) this.onPlace(...place);
    });
    canvas.addEventListener("pointerdown", (event) => {
      fingers.down(event);
      from = { x: event.clientX, y: event.clientY, at: event.timeStamp, view: this.view };
      canvas.setPointerCapture(event.pointerId);
    });
    canvas.addEventListener("pointermove", (event) => {
      const pinch = fingers.move(event);
      if (pinch) {
        from = null; // the remaining finger does not move the image
        this.pinch(pinch);
      }
      if (!from) return;
      const step = devicePixelRatio / from.view.scale;
      this.view = {
        ...from.view,
        x: from.view.x - (event.clientX - from.x) * step,
        y: from.view.y - (event.clientY - from.y) * step,
      };
      this.draw();
    });
    for (const name of ["pointerup", "pointercancel"]) {
      canvas.addEventListener(name, (event) => {
        fingers.up(event);
        const isSwipe = from && name === "pointerup" && event.pointerType === "touch" && !this.onPlace;
        const verdict = isSwipe ? swipeOf(from, { x: event.clientX, y: event.clientY, at: event.timeStamp }) : null;
        if (verdict) {
          this.view = from.view; // the image was not meant to move
          this.draw();
          this.on.swipe(verdict);
        }
        from = null;
      });
    }
    for (const button of this.root.querySelectorAll("[data-show]")) {
      button.addEventListener("click", () => this.on.show(button.dataset.show));
    }
    byId("before").addEventListener("click", () => this.setBefore(!this.isBefore));
    byId("zoom").addEventListener("click", () => this.toggleWhole());
  }
}
