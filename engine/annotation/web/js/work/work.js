// Work: an annotator's own tasks, images to choose from, what they have finished, and how far the round is.

import { api, events } from "../shared/api.js";
import { byId, el, toast } from "../shared/dom.js";
import { mountHeader } from "../shared/header.js";
import { t } from "../shared/strings.js";
import { finishedCard, ownCard, roundPanel, todayPanel, waitingCard } from "./cards.js";

const PAGE = 24;
const REFRESH_MS = 1_500; // at most one refresh in this time, however many events arrive

class WorkPage {
  constructor() {
    this.params = new URLSearchParams(location.search);
    this.counts = "";
    byId("dataset").addEventListener("change", (event) => this.choose(event.target.value));
  }

  get dataset() {
    return this.params.get("dataset") ?? "";
  }

  choose(dataset) {
    if (dataset) this.params.set("dataset", dataset);
    else this.params.delete("dataset");
    history.replaceState(null, "", this.params.size ? `?${this.params}` : location.pathname);
    void this.refresh();
  }

  async start() {
    await this.refresh();
    events({
      queue: (counts) => {
        const text = JSON.stringify(counts);
        if (this.counts && text !== this.counts) this.soon ??= setTimeout(() => this.refresh(), REFRESH_MS);
        this.counts = text;
      },
    });
  }

  async refresh() {
    this.soon = null;
    const today = new Date();
    today.setHours(0, 0, 0, 0);
    try {
      this.show(await api.work(today));
      await Promise.all([this.showWaiting(), this.showFinished()]);
      byId("banner").hidden = true;
      document.body.dataset.state = "ready";
    } catch (problem) {
      byId("banner").textContent = problem.message;
      byId("banner").hidden = problem.status === 401;
    }
  }

  show(work) {
    this.work = work;
    const names = work.datasets.map((one) => one.name);
    if (this.dataset && !names.includes(this.dataset)) this.params.delete("dataset");
    const options = [["", t("all")], ...names.map((name) => [name, name])];
    byId("dataset").replaceChildren(...options.map(([value, text]) => el("option", { value, selected: value === this.dataset }, text)));
    byId("next").href = this.dataset ? `/annotate?${new URLSearchParams({ dataset: this.dataset })}` : "/annotate";
    byId("guidelines").href = this.dataset ? `/guidelines?${new URLSearchParams({ dataset: this.dataset })}` : "/guidelines";
    const shown = work.datasets.filter((one) => !this.dataset || one.name === this.dataset);
    const rounds = shown.filter((one) => one.round || one.waiting || (this.dataset && work.may_choose));
    byId("figures").replaceChildren(todayPanel(work.today), ...rounds.map(roundPanel));
    const mine = work.tasks.filter((task) => !this.dataset || task.dataset === this.dataset);
    const none = el("p", { class: "muted" }, t("Nothing is begun or kept for you."));
    cards("mine").replaceChildren(...(mine.length ? mine.map((task) => ownCard(task, open)) : [none]));
  }

  /** The images that can be chosen: of the picked dataset, or of the only one. */
  async showWaiting() {
    const { datasets, may_choose: mayChoose } = this.work;
    const dataset = this.dataset || (datasets.length === 1 ? datasets[0].name : "");
    byId("waiting").hidden = !mayChoose || !dataset;
    if (byId("waiting").hidden) return;
    byId("waiting-title").textContent = t("Images to choose from in {dataset}", { dataset });
    await fill("waiting", (offset) => api.waiting(dataset, offset, PAGE), (task) => waitingCard(task, open), t("No image waits in the queue."));
  }

  async showFinished() {
    const load = (offset) => api.finished(offset, PAGE, { dataset: this.dataset });
    await fill("finished", load, (task) => finishedCard(task, reopen), t("What you submit is listed here."));
  }
}

const cards = (id) => byId(id).querySelector(".cards");

/** Fills a section with the first page of a list, and a button for the next ones. */
async function fill(id, load, card, none) {
  const first = await load(0);
  const items = first.tasks.map(card);
  cards(id).replaceChildren(...(items.length ? items : [el("p", { class: "muted" }, none)]));
  offerMore(id, load, card, first.total);
}

function offerMore(id, load, card, total) {
  const number = cards(id).querySelectorAll(".card").length;
  if (number >= total) return;
  const more = async () => {
    button.disabled = true;
    try {
      const next = await load(number);
      button.remove();
      if (!next.tasks.length) return;
      cards(id).append(...next.tasks.map(card));
      offerMore(id, load, card, next.total);
    } catch (problem) {
      button.disabled = false;
      toast(problem.message, "bad");
    }
  };
  const button = el("button", { class: "button more", type: "button", onclick: more }, t("Show more ({number})", { number: total - number }));
  cards(id).append(button);
}

async function open(task) {
  await leave(() => api.take(task.task_id), task.kind === "review" ? "/review" : "/annotate");
}

async function reopen(task) {
  await leave(() => api.reopen(task.task_id), "/annotate");
}

async function leave(call, address) {
  try {
    await call();
    location.assign(address);
  } catch (problem) {
    toast(problem.message, "bad");
  }
}

if (await mountHeader("work")) void new WorkPage().start();
