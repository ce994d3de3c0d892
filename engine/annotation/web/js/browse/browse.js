// Browse: all masks and images of a dataset by filters; what is chosen is sent to people or deleted.

import { MARKS } from "../review/grid.js";
import { api } from "../shared/api.js";
import { ask, byId, el, toast } from "../shared/dom.js";
import { count, score, words } from "../shared/format.js";
import { mountHeader } from "../shared/header.js";
import { plural, t } from "../shared/strings.js";
import { Detail } from "./detail.js";
import { FilterPanel } from "./filters.js";
import { Labelling, shownLabel } from "./labelling.js";
import { drawCards } from "./pictures.js";
import { View } from "./view.js";
import { VirtualGrid } from "./virtual_grid.js";

const MAX_CHOSEN = 500; // of one command
const PAGE = 200;
const SORTS = {
  image: t("Image"),
  predicted_iou: t("Predicted IoU"),
  stability_score: t("Stability"),
  area: t("Area"),
  created_at: t("Time"),
  probability: t("Probability of the suggestion"),
};
const SHOWS = { masks: t("Masks"), images: t("Images"), finished: t("My work") };
const SOURCES = { annotator: t("annotator"), prefill: t("prefill"), automatic: t("automatic"), imported: t("imported") };

class BrowsePage {
  constructor(me) {
    this.isReviewer = me.role !== "annotator";
    this.version = null; // of the mask table, of the list that is shown
    this.chosen = new Map(); // mask id, or image id in the list of images -> image id
    this.view = new View(this.isReviewer ? "masks" : "finished", (isSameList) => (isSameList ? this.showImage() : this.showList()));
    this.filters = new FilterPanel(this.view);
    this.offered = new Map(); // by dataset, for filters
    this.labelling = new Labelling((category) => this.runLabel(category));
    this.lastChosen = null; // of the list, by a click: the start of a range
    this.grid = new VirtualGrid(byId("grid"), {
      load: (offset, limit, signal) => this.load(offset, limit, signal),
      card: (item) => this.card(item),
      seen: (cards) => drawCards(this.view.dataset, cards),
      open: (item) => this.openItem(item),
      toggle: (item) => this.choose(item, !this.chosen.has(keyOf(item))),
      loaded: (total) => this.onLoaded(total),
      failed: (problem) => this.onFailed(problem),
    });
    this.detail = new Detail(byId("detail"), {
      close: () => this.view.set({ image: null, mask: null, task: null }),
      isOfMasks: () => this.view.show === "masks",
      reopen: (taskId) => this.reopen(taskId),
      isChosen: (id) => this.chosen.has(id),
      choose: (item, isChosen) => this.choose(item, isChosen),
    });
    this.listen();
  }

  listen() {
    byId("dataset").addEventListener("change", (event) => {
      this.view.params = new URLSearchParams();
      this.view.set({ dataset: event.target.value });
    });
    byId("show").replaceChildren(
      ...Object.entries(SHOWS).map(([name, title]) =>
        el("button", { class: "button", type: "button", "data-show": name, onclick: () => this.view.set({ show: name === "masks" ? null : name, image: null, mask: null, task: null }) }, title),
      ),
    );
    byId("show").hidden = !this.isReviewer;
    byId("sort").replaceChildren(...Object.entries(SORTS).map(([value, title]) => el("option", { value }, title)));
    byId("sort").addEventListener("change", (event) => this.view.set({ sort: event.target.value === "image" ? null : event.target.value }));
    byId("direction").addEventListener("click", () => {
      const isDescending = this.view.params.get("descending") === "true";
      this.view.set({ descending: isDescending ? null : "true" });
    });
    byId("search").addEventListener("change", (event) => this.view.set({ words: event.target.value.trim() || null, like: null }));
    byId("all").addEventListener("click", () => this.chooseAll());
    byId("link").addEventListener("click", () => this.copyLink());
    if (matchMedia("(max-width: 50rem)").matches) byId("filters").open = false;
  }

  async start() {
    if (!this.isReviewer) return this.showList();
    const datasets = await api.browseDatasets();
    if (!datasets.length && this.view.show !== "finished") return this.showEmpty(t("No dataset"), t("Add images with `dataengine ingest`, and they are shown here."));
    this.offered = new Map(datasets.map(({ name, programs, releases }) => [name, { program: programs, release: releases }]));
    byId("dataset").replaceChildren(...datasets.map(({ name, images }) => el("option", { value: name }, plural(images, "{name} ({n} image)", "{name} ({n} images)", { name }))));
    if (this.view.dataset || !datasets.length) this.showList();
    else this.view.set({ dataset: datasets[0].name }, { isReplaced: true });
  }

  /** Shows the list of the view anew. */
  async showList() {
    this.version = null;
    if (this.isReviewer && this.view.dataset && this.view.dataset !== this.labelledDataset) {
      this.labelling.use(await api.categories(this.view.dataset));
      this.labelledDataset = this.view.dataset;
    }
    this.chosen.clear();
    this.showChosen();
    this.fillToolbar();
    document.body.dataset.state = "loading";
    this.showImage();
    await Promise.all([this.grid.show(), this.view.show === "finished" ? null : this.showFigures()]);
    document.body.dataset.state = "ready";
  }

  fillToolbar() {
    const { params, show } = this.view;
    document.body.dataset.show = show;
    byId("dataset").value = this.view.dataset;
    this.filters.offer(this.offered.get(this.view.dataset) ?? {});
    byId("sort").value = params.get("sort") ?? "image";
    const isDescending = params.get("descending") === "true";
    byId("direction").textContent = isDescending ? "↓" : "↑";
    byId("direction").title = isDescending ? t("Highest first") : t("Lowest first");
    byId("direction").setAttribute("aria-label", byId("direction").title);
    for (const button of byId("show").children) button.setAttribute("aria-pressed", String(button.dataset.show === show));
    byId("grid").setAttribute("aria-label", SHOWS[show] ?? SHOWS.masks);
    this.filters.fillWhich();
    this.showSearch();
    const version = params.get("version");
    byId("pinned").hidden = version === null;
    const latest = el("button", { class: "button", type: "button", onclick: () => this.view.set({ version: null }) }, t("Show the newest"));
    byId("pinned").replaceChildren(t("This link shows the masks as of version {version} of the mask table.", { version }), latest);
  }

  showSearch() {
    const { search, params } = this.view;
    byId("search").value = params.get("words") ?? "";
    byId("sort").disabled = byId("direction").disabled = search !== null; // the best first
    byId("searched").hidden = search === null;
    const clear = el("button", { class: "button", type: "button", onclick: () => this.view.set({ words: null, like: null }) }, t("End the search"));
    byId("searched").replaceChildren(t("Search for {what}, the best first, at most {most}.", { what: search, most: MAX_CHOSEN }), clear);
  }

  onFailed(problem) {
    if (this.view.search === null || problem.isTemporary) toast(problem.message, "bad");
    else this.showEmpty(t("Nothing can be searched for"), problem.message);
  }

  async showFigures() {
    const asked = String(this.view.figuresQuery());
    try {
      const figures = await api.browse("figures", this.view.figuresQuery());
      if (asked === String(this.view.figuresQuery())) this.filters.fill(figures);
    } catch (problem) {
      if (this.view.search === null) toast(problem.message, "bad"); // else the list says it
    }
  }

  async load(offset, limit, signal) {
    if (this.view.show === "finished") {
      const { total, tasks } = await api.finished(offset, limit, { signal });
      return { total, items: tasks };
    }
    const query = this.view.listQuery();
    query.set("offset", String(offset));
    query.set("limit", String(limit));
    if (this.version !== null) query.set("version", String(this.version));
    const kind = this.view.show === "images" ? "images" : "masks";
    const page = await api.browse(kind, query, { signal });
    if (offset === 0) this.version = page.version;
    return { total: page.total, items: page[kind] };
  }

  onLoaded(total) {
    byId("total").textContent = this.view.show === "masks" ? plural(total, "{n} mask", "{n} masks") : plural(total, "{n} image", "{n} images");
    byId("all").disabled = total === 0 || total > MAX_CHOSEN;
    byId("all").title = total > MAX_CHOSEN ? t("At most {most} can be selected: set filters", { most: MAX_CHOSEN }) : "";
    if (total) byId("empty").hidden = true;
    else if (this.view.show === "finished") this.showEmpty(t("Nothing submitted yet"), t("The images that you have annotated will be here."));
    else if (this.view.search !== null) this.showEmpty(t("Nothing was found"), t("Other filters may leave it out."));
    else if (this.view.isFiltered) this.showEmpty(t("Nothing passes the filters"), t("Remove some of them."));
    else this.showEmpty(t("No masks yet"), t("Make some with `dataengine generate`, or annotate images; the images are under Images."));
  }

  showEmpty(title, text) {
    byId("empty").replaceChildren(el("h2", {}, title), el("p", {}, text));
    byId("empty").hidden = false;
    document.body.dataset.state = "ready";
  }

  /** Opens or closes the image of the address. */
  showImage() {
    const { image, task, params } = this.view;
    const isOpen = image !== null || task !== null;
    byId("grid").inert = isOpen;
    if (isOpen) this.detail.open({ imageId: image, taskId: task, maskId: params.get("mask") });
    else {
      if (!byId("detail").hidden) byId("grid").focus();
      this.detail.close();
    }
  }

  openItem(item) {
    if (item.task_id) return this.view.set({ task: item.task_id });
    this.view.set({ image: (item.image ?? item).id, mask: item.mask_id ?? null });
  }

  async reopen(taskId) {
    try {
      await api.reopen(taskId);
      location.assign("/annotate");
    } catch (problem) {
      toast(problem.message, "bad");
    }
  }

  card(item) {
    const image = item.image ?? item;
    const key = keyOf(item);
    const box = el("input", {
      type: "checkbox",
      tabindex: -1,
      "aria-label": t("Select"),
      checked: this.chosen.has(key),
      onclick: (event) => {
        event.stopPropagation();
        if (event.shiftKey) this.chooseRange(item);
      },
      onchange: (event) => this.choose(item, event.target.checked),
    });
    const text = item.mask_id ? [item.annotator ?? SOURCES[item.source], score(item.score ?? item.predicted_iou)] : [image.file_name, plural(item.masks, "{n} mask", "{n} masks")];
    const card = el(
      "div",
      {
        class: "card",
        role: "gridcell",
        "aria-selected": String(this.chosen.has(key)),
        "aria-label": [...new Set([image.file_name, ...text])].join(" "),
        "data-key": key,
        "data-verdict": item.verdict ?? "",
        "data-old": Boolean(item.is_superseded),
        title: [image.file_name, item.model, item.stage && words(item.stage)].filter(Boolean).join(" · "),
        onclick: () => this.openItem(item),
      },
      el("canvas"),
      !item.task_id && el("label", { class: "pick", title: t("Shift selects all from the last one on"), onclick: (event) => event.stopPropagation() }, box),
      item.verdict in MARKS && mark(item.verdict),
      item.can_reopen && el("span", { class: "badge near", title: t("Its round is not complete: you can open it again") }, t("open round")),
      item.is_near_duplicate && el("span", { class: "badge near" }, t("near-duplicate")),
      this.labelling.badge(item),
      el("div", { class: "caption" }, el("span", {}, text[0]), " ", el("span", {}, text[1])),
    );
    return Object.assign(card, { item });
  }

  choose(item, isChosen) {
    if (item.task_id) return;
    const key = keyOf(item);
    if (isChosen && this.chosen.size >= MAX_CHOSEN) toast(t("At most {most} can be selected.", { most: MAX_CHOSEN }), "bad");
    else if (isChosen) {
      if (!this.chosen.size) this.labelling.restart();
      this.chosen.set(key, (item.image ?? item).id);
      this.lastChosen = item;
    } else this.chosen.delete(key);
    this.showChosen();
  }

  /** Chooses all items from the last one chosen to this one, as far as they are loaded. */
  chooseRange(item) {
    const places = [this.lastChosen, item].map((one) => this.grid.placeOf(one));
    if (places.includes(-1)) return;
    const [first, last] = [Math.min(...places), Math.max(...places)];
    for (let place = first; place <= last; place += 1) {
      const one = this.grid.item(place);
      if (one) this.choose(one, true);
    }
  }

  async chooseAll() {
    try {
      for (let offset = 0; ; offset += PAGE) {
        const { total, items } = await this.load(offset, PAGE, undefined);
        if (!this.chosen.size) this.labelling.restart();
        for (const item of items) if (!item.is_superseded) this.chosen.set(keyOf(item), (item.image ?? item).id);
        if (offset + PAGE >= total) break;
      }
    } catch (problem) {
      toast(problem.message, "bad");
    }
    this.showChosen();
  }

  showChosen() {
    for (const card of this.grid.cards.values()) {
      const isChosen = this.chosen.has(card.dataset.key);
      card.setAttribute("aria-selected", String(isChosen));
      const box = card.querySelector("input");
      if (box) box.checked = isChosen;
    }
    this.detail.refreshChoice();
    const number = this.chosen.size;
    byId("commands").hidden = number === 0;
    const isOfImages = this.view.show === "images";
    const selected = isOfImages ? plural(number, "{n} image selected", "{n} images selected") : plural(number, "{n} mask selected", "{n} masks selected");
    const button = (style, command, title, text) =>
      el("button", { class: `button ${style}`, type: "button", "data-command": command, title, onclick: () => this.run(command) }, text);
    const shown = [
      el("strong", {}, selected),
      el("button", { class: "button button-quiet", type: "button", onclick: () => (this.chosen.clear(), this.showChosen()) }, t("Clear")),
      el("span", { class: "spacer" }),
      this.labelling.isUsed && !isOfImages && this.labelling.controls(),
      button(this.labelling.isUsed ? "" : "button-primary", "review", t("A reviewer accepts, rejects or fixes each mask"), isOfImages ? t("Send their masks to review") : t("Send to review")),
      this.view.show === "masks" && number === 1 && button("", "like", t("Masks that look alike, the most similar first"), t("Find similar")),
      button("", "annotate", t("Annotators correct the masks and add missing ones"), isOfImages ? t("Send to annotators") : t("Send their images to annotators")),
      button("button-danger", "reject", t("Releases and trainings leave them out"), isOfImages ? t("Delete their masks") : t("Delete")),
    ];
    byId("commands").replaceChildren(...shown.filter(Boolean));
  }

  /** Labels the chosen masks with a category; null: each as suggested. */
  async runLabel(category) {
    if (this.view.show !== "masks" || !this.chosen.size) return;
    const chosen = new Set(this.chosen.keys());
    const given = { dataset: this.view.dataset, mask_ids: [...chosen], category, seconds: this.labelling.seconds };
    for (const button of byId("commands").querySelectorAll("button")) button.disabled = true;
    try {
      const { labelled, left_out: left } = await api.browseCommand("label", given);
      toast(toldLabelled(category, labelled, left), "good", 6);
      for (const card of this.grid.cards.values()) {
        if (!chosen.has(card.dataset.key)) continue;
        if (category !== null || card.item.suggested !== "unlabelled") card.item.label = category ?? card.item.suggested;
        card.querySelector(".name")?.remove();
        card.querySelector(".caption").before(this.labelling.badge(card.item) ?? "");
      }
      this.chosen.clear();
      this.showFigures();
    } catch (problem) {
      toast(problem.message, "bad");
    }
    this.showChosen();
  }

  async run(command) {
    if (command === "like") return this.view.set({ like: [...this.chosen.keys()][0], words: null });
    const number = this.chosen.size;
    const isOfImages = this.view.show === "images";
    if (command === "reject") {
      const title = isOfImages ? plural(number, "Delete all masks of {n} image?", "Delete all masks of {n} images?") : plural(number, "Delete {n} mask?", "Delete {n} masks?");
      const text = t("They get the verdict “reject” by you: releases and trainings leave them out. They stay in the mask table, where their history can be seen.");
      if (!(await ask(title, text, t("Delete"), { isLoss: true }))) return;
    }
    const images = [...new Set(this.chosen.values())];
    const isByImage = isOfImages || command === "annotate";
    const chosen = isByImage ? { image_ids: images } : { mask_ids: [...this.chosen.keys()] };
    for (const button of byId("commands").querySelectorAll("button")) button.disabled = true;
    try {
      const done = await api.browseCommand(command, { dataset: this.view.dataset, ...chosen });
      toast(told(command, done), "good", 6);
      const rejected = new Set(command === "reject" && !isOfImages ? this.chosen.keys() : []);
      this.chosen.clear();
      for (const card of this.grid.cards.values()) if (rejected.has(card.dataset.key)) this.markRejected(card);
      if (!byId("detail").hidden) this.view.set({ image: null, mask: null });
    } catch (problem) {
      toast(problem.message, "bad");
    }
    this.showChosen();
  }

  markRejected(card) {
    card.item.verdict = card.dataset.verdict = "reject";
    card.querySelector(".mark")?.remove();
    card.append(mark("reject"));
  }

  async copyLink() {
    const address = this.view.link(this.version);
    try {
      await navigator.clipboard.writeText(address);
      toast(t("The link is copied. It shows these filters, this order and this version of the masks."), "good");
    } catch {
      await ask(t("Copy this link"), address, t("Done"), { back: t("Close") });
    }
  }
}

const keyOf = (item) => String(item.mask_id ?? item.task_id ?? item.id);

function mark(verdict) {
  const [sign, title] = MARKS[verdict];
  return el("span", { class: "mark", title }, sign);
}

function told(command, { tasks, chosen, left_out: left }) {
  const first = {
    review: plural(chosen, "{n} mask on {images} waits for review.", "{n} masks on {images} wait for review.", { images: plural(tasks, "{n} image", "{n} images") }),
    annotate: plural(tasks, "{n} image waits for annotators.", "{n} images wait for annotators."),
    reject: plural(chosen, "{n} mask deleted.", "{n} masks deleted."),
  }[command];
  return left ? `${first} ${t("{n} left out: superseded, rejected, or waiting already.", { n: count(left) })}` : first;
}

function toldLabelled(category, labelled, left) {
  const first =
    category === null
      ? plural(labelled, "{n} mask labelled as suggested.", "{n} masks labelled as suggested.")
      : plural(labelled, "{n} mask labelled “{category}”.", "{n} masks labelled “{category}”.", { category: shownLabel(category) });
  return left ? `${first} ${t("{n} left out: superseded, rejected, or without a suggestion.", { n: count(left) })}` : first;
}

async function start() {
  const me = await mountHeader("browse");
  if (!me) return;
  const page = new BrowsePage(me);
  Object.assign(window, { dataengine: { browse: page } });
  try {
    await page.start();
  } catch (problem) {
    page.showEmpty(t("The datasets cannot be read"), problem.message);
  }
}

start();
