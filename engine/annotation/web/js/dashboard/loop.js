// Draws the loop: every round with its states, the retrains between them, and the next step.

import { el } from "../shared/dom.js";
import { DASH, count, decimal, score } from "../shared/format.js";

const STAGES = {
  assisted_manual: ["Stage 1", "Assisted-manual", "Annotators click, the model predicts masks"],
  semi_automatic: ["Stage 2", "Semi-automatic", "Confident masks are pre-filled, annotators add the rest"],
  fully_automatic: ["Stage 3", "Fully automatic", "The model makes all masks"],
};
const GATES = ["planned", "opened", "collected", "trained", "done"];
const GATE_TEXTS = {
  planned: "Planned",
  opened: "Opened: model and images are fixed",
  collected: "Collected: its masks are in the table",
  trained: "Retrained",
  done: "Done",
};

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
    el("h2", {}, "No images yet"),
    el("p", {}, "Ingest images, then start the first round:"),
    el("pre", {}, "dataengine ingest ~/photos --dataset photos"),
  );
}

function panel(dataset, loop, isAdmin) {
  const facts = [
    `${count(dataset.images)} images`,
    `${count(dataset.annotated)} annotated by people`,
    `${count(dataset.to_annotate)} still to annotate`,
    `${count(dataset.held_out)} held out`,
    dataset.near_duplicates && nearDuplicates(dataset.near_duplicates),
    `${count(dataset.masks)} masks`,
    dataset.masks_handed_in && `${count(dataset.masks_handed_in)} more submitted, added to the table when their round ends`,
    dataset.masks && `${decimal(dataset.masks_per_image)} per image`,
  ].filter(Boolean);
  const head = el(
    "div",
    { class: "panel-head" },
    el("h2", {}, dataset.name),
    el("span", { class: "muted" }, facts.join(" · ")),
    el("a", { href: `/browse?${new URLSearchParams({ dataset: dataset.name })}` }, "Browse"),
  );
  const rounds = loop?.rounds ?? [];
  const steps = rounds.length ? stepper(rounds) : sketch();
  return el(
    "div",
    { class: "panel loop", "data-dataset": dataset.name, id: `loop-${dataset.name}` },
    head,
    steps,
    el("p", { class: "next" }, el("strong", {}, "Next: "), nextStep(dataset, loop, isAdmin)),
  );
}

/** Images that repeat others: the stages with people leave them out. */
function nearDuplicates(number) {
  return number === 1 ? "1 near-duplicate, not annotated twice" : `${count(number)} near-duplicates, not annotated twice`;
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
      ? [step, el("li", { class: "arrow-step", "aria-hidden": "true" }, el("span", {}, "retrain"))]
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
  const [number, name] = STAGES[row.stage] ?? ["", row.stage];
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
      el("span", { class: "muted" }, `${number} · round ${row.round}`),
      el("span", { class: `badge ${badgeOf(row.state)}` }, row.state),
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
  const text = tasks.left ? `${tasks.left} of ${tasks.total} left to annotate` : `all ${tasks.total} done`;
  return el("div", {}, el("div", { class: "progress" }, fill), el("span", { class: "muted small" }, text));
}

function figures(row) {
  const parts = [];
  if (row.state === "planned" && row.planned_images)
    parts.push(row.planned_images === 1 ? "1 image" : `${count(row.planned_images)} images`);
  if (row.state === "planned" && row.stage !== "fully_automatic")
    parts.push(row.annotator === "simulated" ? "simulated annotator" : row.annotator);
  if (row.masks) parts.push(`${count(row.masks)} masks`);
  if (row.masks_per_image) parts.push(`${decimal(row.masks_per_image)} per image`);
  if (row.seconds_per_mask) parts.push(`${decimal(row.seconds_per_mask)} s each`);
  if (row.clicks_per_mask) parts.push(`${decimal(row.clicks_per_mask)} clicks`);
  const told = parts.filter(Boolean);
  return told.length ? el("span", { class: "muted small" }, told.join(" · ")) : null;
}

function retrainStep(row) {
  const isDone = ["trained", "done"].includes(row.state);
  const isNow = row.state === "collected";
  const kept = row.model_after === row.model ? "kept as it was" : row.model_after;
  const text = isDone ? (kept ?? DASH) : isNow ? "now" : "";
  const title = row.miou_1_click
    ? `This round used ${row.model}: IoU ${score(row.miou_1_click)} after 1 click on ${row.scored_on ?? "held-out images"}`
    : null;
  return el(
    "li",
    { class: `arrow-step ${isDone ? "arrow-done" : ""} ${isNow ? "arrow-now" : ""}`, title },
    el("span", {}, "retrain"),
    text ? el("span", { class: "small" }, text) : null,
  );
}

/** What has to be done next, or what to wait for. */
function nextStep(dataset, loop, isAdmin) {
  const start = isAdmin ? "start it with the first button above" : "an admin starts it";
  if (!dataset.images) return "ingest images: dataengine ingest DIR --dataset " + dataset.name;
  if (!loop?.rounds?.length) return `the first round; ${start}.`;
  const row = loop.rounds.find((one) => one.state !== "done");
  if (!row) return "all rounds are done. Send some masks to review, then make a release; or start another round.";
  const [, name] = STAGES[row.stage] ?? ["", row.stage];
  const title = `${name.toLowerCase()} round ${row.round}`;
  const tasks = tasksOf(row);
  if (row.state === "planned") return `${title}; ${start}.`;
  if (row.state === "opened" && tasks?.left && row.annotator === "simulated")
    return `the simulated annotator finishes ${title}: ${tasks.left} images left.`;
  if (row.state === "opened" && tasks?.left)
    return `annotators finish ${title}: ${tasks.left} ${tasks.left === 1 ? "image" : "images"} left, on the page “Annotate”.`;
  if (row.state === "opened")
    return row.stage === "fully_automatic"
      ? `the model makes the masks of ${title}.`
      : `${title} is collected, then the model is retrained.`;
  if (row.state === "collected")
    return row.stage === "fully_automatic" ? `${title} is closed.` : `the model is retrained on the masks of ${title}.`;
  return `${title} is closed.`;
}
