// The dashboard: the state of the loop, what annotators did, and what can be started. Events keep it up to date.

import { api, events } from "../shared/api.js";
import { chart } from "./charts.js";
import { Jobs, actionButtons } from "./actions.js";
import { loopPanels } from "./loop.js";
import { offerModels } from "./model_choice.js";
import { annotatorsTable, categoriesTable, consensusTable, costsTable, datasetsTable, modelsTable, queueCards, releasesTable, runsTable } from "./tables.js";
import { el, toast } from "../shared/dom.js";
import { count, decimal, score } from "../shared/format.js";
import { mountHeader } from "../shared/header.js";
import { t } from "../shared/strings.js";

const REFRESH_MS = 1_500; // at most one refresh in this time, however many events arrive
const SLOW_MS = 30_000; // at least one refresh in this time: ages and progress change without an event
const LIVE_RUN_MS = 5_000;
const $ = (id) => document.getElementById(id);

class Dashboard {
  constructor(me) {
    this.isAdmin = me.role === "admin";
    this.overview = null;
    this.queue = {};
    this.shown = new Map(); // the data each part was drawn from, so that only changes are drawn
    this.jobs = new Jobs($("jobs"), $("jobs-panel"), $("failures"), this.isAdmin);
  }

  async start() {
    await Promise.all([this.refresh(), this.loadActions(), this.loadJobs()]);
    events({
      queue: (counts) => this.onQueue(counts),
      job: (job) => this.jobs.update(job),
      overview: () => this.refreshSoon(),
      state: (isLive) => this.setLive(isLive),
    });
    document.addEventListener("visibilitychange", () => document.hidden || this.refreshSoon());
  }

  async loadActions() {
    if (!this.isAdmin) return;
    try {
      const actions = await api.actions();
      const context = () => ({ datasets: (this.overview?.datasets ?? []).map((row) => row.name) });
      $("actions").replaceChildren(...actionButtons(actions, context, (job) => this.onStarted(job)));
    } catch (problem) {
      toast(problem.message, "bad");
    }
  }

  async loadJobs() {
    try {
      this.jobs.fill(await api.jobs());
    } catch (problem) {
      console.error(problem);
    }
  }

  onStarted(job) {
    this.jobs.update(job, true);
    $("jobs-panel").scrollIntoView({ block: "nearest" });
  }

  /** These events have no ages; those of the overview stay until it is fetched again. */
  onQueue(counts) {
    for (const [kind, row] of Object.entries(counts)) {
      const known = this.queue[kind]?.oldest_seconds ?? 0;
      this.queue[kind] = { ...row, oldest_seconds: row.oldest_seconds || known };
    }
    this.showQueue();
    this.refreshSoon();
  }

  refreshSoon() {
    if (this.soon || document.hidden) return;
    this.soon = setTimeout(() => this.refresh(), REFRESH_MS);
  }

  async refresh() {
    clearTimeout(this.soon);
    clearTimeout(this.later);
    this.soon = null;
    try {
      this.overview = await api.overview();
      this.queue = structuredClone(this.overview.queue);
      $("banner").hidden = true;
      this.show();
      this.jobs.tick();
      document.body.dataset.state = this.overview.datasets.length ? "ready" : "empty";
    } catch (problem) {
      $("banner").textContent = problem.message;
      $("banner").hidden = problem.status === 401;
    }
    const isRunning = this.overview?.runs.some((run) => run.state === "running");
    this.later = setTimeout(() => this.refresh(), isRunning ? LIVE_RUN_MS : SLOW_MS);
  }

  setLive(isLive) {
    $("live").textContent = isLive ? t("live") : t("reconnecting");
    $("live").className = `badge ${isLive ? "badge-good" : "badge-warn"}`;
    if (isLive) this.loadJobs();
  }

  /** Redraws a part only if its data has changed, so that a chart keeps its pointer and a text its selection. */
  part(id, data, make) {
    const key = JSON.stringify(data);
    if (this.shown.get(id) === key) return;
    this.shown.set(id, key);
    $(id).replaceChildren(...make());
  }

  show() {
    const { datasets, loops, annotators, models, runs, releases, categories, consensus, costs, history, advice } = this.overview;
    const minute = Math.floor(Date.now() / 60_000); // "5 min ago" is outdated after a minute
    this.part("loops", { datasets, loops }, () => loopPanels(this.overview, this.isAdmin));
    $("datasets").hidden = datasets.length < 2;
    this.part("datasets", { datasets, loops, releases }, () => datasetsTable(this.overview));
    this.showQueue();
    this.part("charts", { history, models }, () => chartsOf(history, models));
    this.part("models", { models, minute }, () => modelsTable(models));
    this.part("annotators", { annotators, advice, minute }, () => annotatorsTable(annotators, advice));
    this.part("runs", { runs, minute }, () => runsTable(runs));
    if (this.isAdmin) offerModels($("model-choice"), this.overview.model_choices);
    this.part("releases", { releases, minute }, () => releasesTable(releases));
    $("categories").hidden = !categories.length;
    this.part("categories", { categories }, () => categoriesTable(categories));
    $("consensus").hidden = !consensus.length;
    this.part("consensus", { consensus }, () => consensusTable(consensus));
    this.part("costs", { costs }, () => costsTable(costs));
  }

  showQueue() {
    const verdicts = this.overview?.verdicts ?? {};
    this.part("queue", { queue: this.queue, verdicts }, () => queueCards(this.queue, verdicts));
  }
}

function chartsOf(history, models) {
  const over = (name) =>
    history
      .filter((row) => row[name] !== null && row[name] !== undefined)
      .map((row) => ({ x: Date.parse(row.at), y: row[name] }))
      .sort((a, b) => a.x - b.x);
  const empty = t("No data yet. Submitted images appear here.");
  const scored = comparable(models);
  const scores = (name) =>
    scored.map((row, x) => ({ x, label: row.version, y: row[name] })).filter((point) => typeof point.y === "number");
  return [
    chart({
      title: t("Masks per image"),
      series: [{ name: t("masks per image"), style: 1, points: over("masks_per_image") }],
      fromZero: true,
      format: (y) => decimal(y, y % 1 ? 1 : 0),
      empty,
    }),
    chart({
      title: t("Seconds per mask"),
      series: [{ name: t("seconds per mask"), style: 3, points: over("seconds_per_mask") }],
      fromZero: true,
      format: (y) => decimal(y, y % 1 ? 1 : 0),
      empty,
    }),
    chart({
      title: t("Masks per hour"),
      series: [{ name: t("masks"), style: 2, points: over("masks") }],
      isBars: true,
      isWhole: true,
      fromZero: true,
      format: count,
      empty,
    }),
    chart({
      title: scored.length ? t("IoU on {set}", { set: scored[0].scored_on }) : t("Held-out IoU"),
      series: [
        { name: t("1 click"), style: 1, points: scores("miou_1_click") },
        { name: t("3 clicks"), style: 2, points: scores("miou_3_clicks") },
      ],
      isNamed: true,
      format: score,
      empty: t("No model has been scored on held-out images yet."),
    }),
  ];
}

/** Models that were scored on the set on which models are compared, the oldest first. */
function comparable(models) {
  return models
    .filter((row) => typeof row.miou_1_click === "number" || typeof row.miou_3_clicks === "number")
    .sort((a, b) => Date.parse(a.created_at) - Date.parse(b.created_at));
}

const me = await mountHeader("dashboard");
if (me?.role === "annotator") location.assign("/annotate");
else if (me) new Dashboard(me).start();
else
  $("loops").replaceChildren(
    el(
      "div",
      { class: "empty" },
      el("h2", {}, t("The server cannot be reached")),
      el("p", {}, t("Reload the page in a moment.")),
    ),
  );
