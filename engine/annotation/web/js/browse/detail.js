// One image, large, with all its masks and how each of them came to be.

import { cropOf, traceOf } from "../review/mask_art.js";
import { reasonText } from "../review/keys.js";
import { loadPicture } from "../review/view.js";
import { api } from "../shared/api.js";
import { el } from "../shared/dom.js";
import { count, dateTime, decimal, score, words } from "../shared/format.js";
import { Mask } from "../shared/rle.js";
import { plural, t } from "../shared/strings.js";
import { shownLabel } from "./labelling.js";

const COLOURS = ["#4fd195", "#f078be", "#b282ff", "#d64664", "#6ee1dc", "#96d73c", "#ffb347", "#5896ff"];
const VERDICTS = { accept: ["badge-good", t("accepted")], reject: ["badge-bad", t("rejected")], fix: ["badge-accent", t("fixed")] };
const SOURCES = { annotator: t("Drawn"), prefill: t("Pre-filled by the model"), automatic: t("Made by the model"), imported: t("Imported") };

export class Detail {
  /** `on.close()`, `on.isChosen(mask_id)`, `on.choose(item, isChosen)`; `on.isOfMasks()`: masks can be chosen;
   * `on.reopen(taskId)`. */
  constructor(root, on) {
    this.root = root;
    this.on = on;
    this.image = this.picture = null;
    this.key = ""; // of what is shown or loaded
    this.taskId = null;
    root.addEventListener("keydown", (event) => {
      if (event.key === "Escape") on.close();
    });
    new ResizeObserver(() => this.draw()).observe(root);
  }

  /** Shows an image, or the work on the task `taskId`; `maskId` is marked. */
  async open({ imageId, taskId, maskId }) {
    this.root.hidden = false;
    this.marked = maskId;
    const key = taskId ? `task ${taskId}` : `image ${imageId}`;
    if (this.key === key && this.picture) return this.draw();
    this.image = this.picture = null;
    Object.assign(this, { key, taskId });
    this.root.replaceChildren(el("p", { class: "muted loading" }, t("Loading …")));
    try {
      const found = await (taskId ? api.finishedTask(taskId) : api.imageHistory(imageId));
      const picture = await loadPicture(found.image);
      if (this.root.hidden || this.key !== key) return;
      this.image = found;
      this.picture = picture;
      this.fill();
    } catch (problem) {
      this.root.replaceChildren(this.head(t("This image cannot be shown")), el("p", { class: "loading" }, problem.message));
    }
  }

  close() {
    this.root.hidden = true;
    this.image = this.picture = null;
  }

  head(title) {
    const close = el("button", { class: "button", type: "button", id: "close-detail", onclick: () => this.on.close() }, t("Back to the grid"));
    const again = this.taskId && el("button", { class: "button button-primary", type: "button", id: "reopen", onclick: () => this.on.reopen(this.taskId) }, t("Open it again"));
    return el("div", { class: "detail-head" }, el("h2", { title }, title), el("span", { class: "spacer" }), again, close);
  }

  fill() {
    const { image, dataset, split, near_image_id: near, captions, masks } = this.image;
    this.shapes = new Map(
      masks.map((mask, at) => {
        const crop = cropOf(mask.rle);
        return [mask.mask_id, { mask, trace: traceOf(crop), bits: Mask.fromRle(mask.rle), colour: COLOURS[at % COLOURS.length] }];
      }),
    );
    this.canvas = el("canvas", { onclick: (event) => this.onClick(event), "aria-label": image.file_name, role: "img" });
    const facts = [dataset, `${image.width} × ${image.height}`, words(split), near && t("nearly repeats image {id}", { id: near })];
    const current = masks.filter((mask) => !mask.superseded_by.length);
    const older = masks.filter((mask) => mask.superseded_by.length);
    this.list = el("ol", { class: "histories" }, [...current, ...older].map((mask) => this.entry(mask)));
    this.root.replaceChildren(
      this.head(image.file_name),
      el("div", { class: "detail-stage" }, this.canvas),
      el(
        "aside",
        { class: "detail-side" },
        el("p", { class: "muted" }, facts.filter(Boolean).join(" · ")),
        captions.map((one) => el("p", { class: "small" }, described(one))),
        masks.length ? this.list : el("p", {}, t("This image has no masks.")),
      ),
    );
    this.draw();
    this.root.querySelector("#close-detail").focus();
    this.entryOf(this.marked)?.scrollIntoView({ block: "nearest" });
  }

  entry(mask) {
    const { image } = this.image;
    const latest = mask.verdicts.at(-1)?.verdict;
    const [style, text] = VERDICTS[latest] ?? [];
    const item = { mask_id: mask.mask_id, image };
    const box = this.on.isOfMasks() && el("input", {
      type: "checkbox",
      checked: this.on.isChosen(mask.mask_id),
      disabled: mask.superseded_by.length > 0,
      "aria-label": t("Select this mask"),
      onchange: (event) => this.on.choose(item, event.target.checked),
    });
    const swatch = el("span", { class: "swatch", style: { background: this.shapes.get(mask.mask_id).colour } });
    return el(
      "li",
      { "data-mask-id": mask.mask_id, "data-old": mask.superseded_by.length > 0, onclick: () => this.mark(mask.mask_id) },
      el("div", { class: "entry-head" }, box, swatch, el("strong", {}, madeBy(mask)), text && el("span", { class: `badge ${style}` }, text), mask.superseded_by.length > 0 && el("span", { class: "badge" }, t("superseded"))),
      el("p", { class: "muted small" }, factsOf(mask)),
      el("ul", { class: "events" }, historyOf(mask, (id) => this.nameOf(id)).map((line) => el("li", {}, line))),
      steps(mask),
    );
  }

  /** A short name of another mask of the image. */
  nameOf(id) {
    const mask = this.image.masks.find((one) => one.mask_id === id);
    return mask ? t("the mask {made} on {time}", { made: madeBy(mask).toLowerCase(), time: dateTime(mask.created_at) }) : t("a mask that is gone");
  }

  entryOf(id) {
    return [...(this.list?.children ?? [])].find((one) => one.dataset.maskId === id);
  }

  mark(id) {
    this.marked = id;
    this.draw();
  }

  refreshChoice() {
    for (const one of this.list?.children ?? []) {
      const box = one.querySelector("input");
      if (box) box.checked = this.on.isChosen(one.dataset.maskId);
    }
  }

  onClick(event) {
    const ratio = devicePixelRatio / this.scale;
    const [x, y] = [event.offsetX * ratio, event.offsetY * ratio].map(Math.floor);
    const under = [...this.shapes.values()].filter(({ mask, bits }) => !mask.superseded_by.length && bits.has(x, y));
    under.sort((a, b) => a.mask.area - b.mask.area);
    this.mark(under[0]?.mask.mask_id ?? null);
    this.entryOf(this.marked)?.scrollIntoView({ block: "nearest" });
  }

  draw() {
    if (!this.picture || this.root.hidden) return;
    const { canvas, picture } = this;
    const size = this.image.image;
    const { clientWidth, clientHeight } = canvas.parentElement;
    this.scale = Math.min(clientWidth / size.width, clientHeight / size.height) * devicePixelRatio;
    canvas.width = Math.max(1, Math.round(size.width * this.scale));
    canvas.height = Math.max(1, Math.round(size.height * this.scale));
    canvas.style.width = `${canvas.width / devicePixelRatio}px`;
    const context = canvas.getContext("2d");
    context.imageSmoothingQuality = "medium";
    context.drawImage(picture, 0, 0, canvas.width, canvas.height);
    context.setTransform(this.scale, 0, 0, this.scale, 0, 0);
    const shown = [...this.shapes.values()].filter(({ mask }) => !mask.superseded_by.length && mask.mask_id !== this.marked);
    for (const shape of shown) stroke(context, shape.trace, shape.colour, 1.5 / this.scale);
    const marked = this.shapes.get(this.marked);
    if (marked) {
      stroke(context, marked.trace, "rgb(0 0 0 / 70%)", 6 / this.scale);
      stroke(context, marked.trace, "#fff", 3 / this.scale);
      drawClicks(context, marked.mask.steps, 5 / this.scale);
    }
    for (const one of this.list.children) one.toggleAttribute("data-marked", one.dataset.maskId === this.marked);
  }
}

function stroke(context, trace, colour, width) {
  context.strokeStyle = colour;
  context.lineWidth = width;
  context.stroke(trace);
}

/** Clicks of the marked mask: green on the object, red on the background. */
function drawClicks(context, steps, radius) {
  for (const { x, y, label } of steps) {
    if (x === null || y === null) continue;
    context.beginPath();
    context.arc(x, y, radius, 0, 2 * Math.PI);
    context.fillStyle = label ? "#4fd195" : "#ff8378";
    context.fill();
  }
}

function madeBy({ source, annotator: name }) {
  const made = SOURCES[source] ?? words(source);
  if (!name) return made;
  return source === "prefill" ? t("{made}, kept by {name}", { made, name }) : t("{made} by {name}", { made, name });
}

function factsOf(mask) {
  return [
    words(mask.stage),
    mask.round > 0 && t("round {round}", { round: mask.round }),
    mask.model,
    t("{n} px", { n: count(mask.area) }),
    mask.predicted_iou !== null && t("predicted IoU {score}", { score: score(mask.predicted_iou) }),
    mask.stability_score !== null && t("stability {score}", { score: score(mask.stability_score) }),
  ]
    .filter(Boolean)
    .join(" · ");
}

function described({ caption, model }) {
  return `“${caption}” (${model})`;
}

/** The mask's history as lines of text, in order of time. */
function historyOf(mask, nameOf) {
  const effort = [mask.clicks && plural(mask.clicks, "{n} click", "{n} clicks"), mask.seconds && t("{n} s", { n: decimal(mask.seconds) })];
  const point = mask.point_xy && !mask.steps.length && t("prompt point ({place})", { place: mask.point_xy.map((one) => Math.round(one)).join(", ") });
  const made = t("Made {time}", { time: dateTime(mask.created_at) });
  const lines = [[made, ...effort, point, t("run {id}", { id: mask.run_id })].filter(Boolean).join(" · ")];
  if (mask.supersedes) lines.push(t("Supersedes {mask}", { mask: nameOf(mask.supersedes) }));
  for (const { verdict, annotator, created_at: at, seconds, reason } of mask.verdicts)
    lines.push([judged(verdict, annotator || t("somebody"), dateTime(at)), seconds > 0 && t("{n} s", { n: decimal(seconds) }), reasonText(reason)].filter(Boolean).join(" · "));
  for (const { name, annotator, model, created_at: at } of mask.labels)
    lines.push(t("Labelled {category} by {name}, {time}", { category: shownLabel(name), name: annotator ?? model ?? t("an import"), time: dateTime(at) }));
  for (const one of mask.captions) lines.push(described(one));
  for (const id of mask.superseded_by) lines.push(t("Superseded by {mask}", { mask: nameOf(id) }));
  return lines;
}

function judged(verdict, name, time) {
  if (verdict === "accept") return t("Accepted by {name}, {time}", { name, time });
  return verdict === "reject" ? t("Rejected by {name}, {time}", { name, time }) : t("Fixed by {name}, {time}", { name, time });
}

/** The prompts by which an annotator made it. */
function steps(mask) {
  if (!mask.steps.length) return null;
  const text = ({ kind, at, x, y, label }) => {
    const step = `${t("{n} s", { n: decimal(at) })}: ${words(kind).toLowerCase()}`;
    if (x === null) return step;
    const place = `${Math.round(x)}, ${Math.round(y)}`;
    return label === 0 ? t("{step} at ({place}), background", { step, place }) : t("{step} at ({place})", { step, place });
  };
  return el("details", {}, el("summary", {}, plural(mask.steps.length, "{n} step", "{n} steps")), el("ol", { class: "events" }, mask.steps.map((step) => el("li", {}, text(step)))));
}
