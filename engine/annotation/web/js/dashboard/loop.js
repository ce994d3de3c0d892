// Draws the loop: every round with its states, the retrains between them, and the next step.

import { el } from "../shared/dom.js";
import { DASH, count, decimal, score } from "../shared/format.js";
import { plural, t } from "../shared/strings.js";
import { stateText } from "./states.js";

const STAGES = {
  assisted_manual: [t("Stage 1"), t("Assisted-manual"), t("Annotators click, the model predicts masks")],
  semi_automatic: [t("Stage 2"), t("Semi-automatic"), t("Confident masks are pre-filled, annotators add the rest")],
  fully_automatic: [t("Stage 3"), t("Fully automatic"), t("The model makes all masks")],
};
const GATES = ["planned", "opened", "collected", "trained", "done"];
const GATE_TEXTS = {
  planned: t("Planned"),
  opened: t("Opened: model and images are fixed"),
  collected: t("Collected: its masks are in the table"),
  trained: t("Retrained"),
  done: t("Done"),
};
const ANNOTATORS = { people: t("people"), simulated: t("simulated annotator") };
const INGEST = "dataengine ingest ~/photos --dataset photos";

export function loopPanels(overview, isAdmin) {
  if (!overview.datasets.length) return [noDatasets()];
  return overview.datasets.map((dataset) =>
    panel(
      dataset,
      overview.loops.find((loop) => loop.dataset === dataset.name),
      isAdmin,
    ),
  );
}

function noDatasets() {
  return el(
    "div",
    { class: "panel empty" },
    el("h2", {}, t("No images yet")),
    el("p", {}, t("Ingest images, then start the first round:")),
    el("pre", {}, INGEST),
  );
}

function panel(dataset, loop, isAdmin) {
  const facts = [
    plural(dataset.images, "{n} image", "{n} images"),
    t("{n} annotated by people", { n: count(dataset.annotated) }),
    t("{n} still to annotate", { n: count(dataset.to_annotate) }),
    t("{n} held out", { n: count(dataset.held_out) }),
    // those repeat others: the stages with people leave them out
    dataset.near_duplicates && plural(dataset.near_duplicates, "{n} near-duplicate, not annotated twice", "{n} near-duplicates, not annotated twice"),
    plural(dataset.masks, "{n} mask", "{n} masks"),
    dataset.masks_handed_in && handedIn(dataset.masks_handed_in),
    dataset.masks && t("{n} per image", { n: decimal(dataset.masks_per_image) }),
  ].filter(Boolean);
  const head = el(
    "div",
    { class: "panel-head" },
    el("h2", {}, dataset.name),
    el("span", { class: "muted" }, facts.join(" · ")),
    el("a", { href: `/browse?${new URLSearchParams({ dataset: dataset.name })}` }, t("Browse")),
  );
  const rounds = loop?.rounds ?? [];
  const steps = rounds.length ? stepper(rounds) : sketch();
  return el(
    "div",
    { class: "panel loop", "data-dataset": dataset.name, id: `loop-${dataset.name}` },
    head,
    steps,
    el("p", { class: "next" }, el("strong", {}, `${t("Next:")} `), nextStep(dataset, loop, isAdmin)),
  );
}

function handedIn(masks) {
  return plural(masks, "{n} more submitted, added to the table when its round ends", "{n} more submitted, added to the table when their round ends");
}

/** The whole loop in grey, for a dataset without rounds. */
function sketch() {
  const stages = Object.keys(STAGES).flatMap((stage, index) => {
    const [number, name, what] = STAGES[stage];
    const step = el(
      "li",
      { class: "step step-planned" },
      el("span", { class: "muted" }, number),
      el("strong", {}, name),
      el("span", { class: "muted" }, what),
    );
    return index < 2
      ? [step, el("li", { class: "arrow-step", "aria-hidden": "true" }, el("span", {}, t("retrain")))]
      : [step];
  });
  return el("ol", { class: "stepper" }, stages);
}

function stepper(rounds) {
  const current = rounds.findIndex((row) => row.state !== "done");
  const steps = rounds.flatMap((row, index) => {
    const parts = [roundStep(row, index === current)];
    if (row.retrain ?? row.stage !== "fully_automatic") parts.push(retrainStep(row));
    else if (index < rounds.length - 1) parts.push(el("li", { class: "arrow-step", "aria-hidden": "true" }));
    return parts;
  });
  return el("ol", { class: "stepper" }, steps);
}

function roundStep(row, isCurrent) {
  const [stage, name] = STAGES[row.stage] ?? ["", row.stage];
  return el(
    "li",
    {
      class: `step step-${row.state} ${isCurrent ? "step-current" : ""}`,
      "aria-current": isCurrent ? "step" : null,
      "data-round": `${row.stage}-${row.round}`,
    },
    el(
      "div",
      { class: "step-head" },
      el("span", { class: "muted" }, t("{stage} · round {number}", { stage, number: row.round })),
      el("span", { class: `badge ${badgeOf(row.state)}` }, stateText(row.state)),
    ),
    el("strong", {}, name),
    gates(row),
    tasksBar(row),
    figures(row),
    row.chosen ? el("span", { class: "muted small chosen" }, row.chosen) : null,
  );
}

function badgeOf(state) {
  return { done: "badge-good", planned: "" }[state] ?? "badge-accent";
}

/** One dot per state of the round. Automatic rounds end without a retrain. */
function gates(row) {
  const way = !(row.retrain ?? row.stage !== "fully_automatic") ? GATES.filter((gate) => gate !== "trained") : GATES;
  const reached = way.indexOf(row.state);
  const style = (index) => {
    if (row.state === "planned") return "";
    if (index < reached || row.state === "done") return "gate-done";
    return index === reached ? "gate-now" : "";
  };
  const dots = way.map((gate, index) => el("span", { class: `gate ${style(index)}`, title: GATE_TEXTS[gate] }));
  return el("div", { class: "gates", role: "img", "aria-label": GATE_TEXTS[row.state] ?? row.state }, dots);
}

/** Tasks of a round: {total, left}, or null if it has none. */
export function tasksOf(row) {
  if (!row.tasks || typeof row.tasks !== "object") return null;
  const { open = 0, leased = 0, submitted = 0, skipped = 0 } = row.tasks;
  const total = open + leased + submitted + skipped;
  return total ? { total, left: open + leased, leased } : null;
}

function tasksBar(row) {
  const tasks = tasksOf(row);
  if (!tasks || ["planned", "done"].includes(row.state)) return null;
  const fill = el("div");
  fill.style.width = `${(100 * (tasks.total - tasks.left)) / tasks.total}%`;
  const text = tasks.left ? t("{left} of {total} left to annotate", tasks) : t("all {total} done", tasks);
  return el("div", {}, el("div", { class: "progress" }, fill), el("span", { class: "muted small" }, text));
}

function figures(row) {
  const parts = [];
  if (row.state === "planned" && row.planned_images)
    parts.push(plural(row.planned_images, "{n} image", "{n} images"));
  if (row.state === "planned" && row.stage !== "fully_automatic")
    parts.push(ANNOTATORS[row.annotator]);
  if (row.masks) parts.push(plural(row.masks, "{n} mask", "{n} masks"));
  if (row.masks_per_image) parts.push(t("{n} per image", { n: decimal(row.masks_per_image) }));
  if (row.seconds_per_mask) parts.push(t("{seconds} s each", { seconds: decimal(row.seconds_per_mask) }));
  if (row.clicks_per_mask) parts.push(t("{number} clicks", { number: decimal(row.clicks_per_mask) }));
  const told = parts.filter(Boolean);
  return told.length ? el("span", { class: "muted small" }, told.join(" · ")) : null;
}

function retrainStep(row) {
  const isDone = ["trained", "done"].includes(row.state);
  const isNow = row.state === "collected";
  const kept = row.model_after === row.model ? t("kept as it was") : row.model_after;
  const text = isDone ? (kept ?? DASH) : isNow ? t("now") : "";
  const title = row.miou_1_click
    ? t("This round used {model}: IoU {score} after 1 click on {set}", { model: row.model, score: score(row.miou_1_click), set: row.scored_on ?? t("held-out images") })
    : null;
  return el(
    "li",
    { class: `arrow-step ${isDone ? "arrow-done" : ""} ${isNow ? "arrow-now" : ""}`, title },
    el("span", {}, t("retrain")),
    text ? el("span", { class: "small" }, text) : null,
  );
}

/** What has to be done next, or what to wait for. */
function nextStep(dataset, loop, isAdmin) {
  const start = isAdmin ? t("start it with the first button above") : t("an admin starts it");
  if (!dataset.images) return t("ingest images: {command}", { command: `dataengine ingest DIR --dataset ${dataset.name}` });
  if (!loop?.rounds?.length) return t("the first round; {start}.", { start });
  const row = loop.rounds.find((one) => one.state !== "done");
  if (!row) return t("all rounds are done. Send some masks to review, then make a release; or start another round.");
  const [, name] = STAGES[row.stage] ?? ["", row.stage];
  const round = t("{stage} round {number}", { stage: name.toLowerCase(), number: row.round });
  const tasks = tasksOf(row);
  if (row.state === "planned") return t("{round}; {start}.", { round, start });
  if (row.state === "opened" && tasks?.left && row.annotator === "simulated")
    return plural(tasks.left, "the simulated annotator finishes {round}: {n} image left.", "the simulated annotator finishes {round}: {n} images left.", { round });
  if (row.state === "opened" && tasks?.left)
    return plural(tasks.left, "annotators finish {round}: {n} image left, on the page “Annotate”.", "annotators finish {round}: {n} images left, on the page “Annotate”.", { round });
  if (row.state === "opened")
    return row.stage === "fully_automatic"
      ? t("the model makes the masks of {round}.", { round })
      : t("{round} is collected, then the model is retrained.", { round });
  if (row.state === "collected" && row.stage !== "fully_automatic") return t("the model is retrained on the masks of {round}.", { round });
  return t("{round} is closed.", { round });
}
