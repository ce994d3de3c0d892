// Queue, annotators, models, runs, releases, agreement and costs.

import { dot } from "../shared/categories.js";
import { el } from "../shared/dom.js";
import { ago, count, dateTime, decimal, duration, percent, score, secondsBetween, words } from "../shared/format.js";
import { ROLES } from "../shared/names.js";
import { plural, t } from "../shared/strings.js";
import { stateText } from "./states.js";

const KINDS = {
  annotate: [t("Annotate"), t("images without masks")],
  complete: [t("Complete"), t("images with confident masks, where the rest is added")],
  review: [t("Review"), t("masks to judge")],
};
const ANNOTATOR_ROLES = { ...ROLES, simulated: t("simulated"), model: t("model") };
const MODEL_BADGES = { current: "badge-good", candidate: "badge-accent" };
const RUN_BADGES = { running: "badge-accent", failed: "badge-bad", finished: "badge-good" };

export function queueCards(queue, verdicts) {
  const kinds = Object.entries(KINDS).map(([kind, [title, what]]) => queueCard(kind, title, what, queue[kind] ?? {}));
  return [...kinds, verdictCard(verdicts)];
}

function queueCard(kind, title, what, row) {
  const { open = 0, leased = 0, submitted = 0, skipped = 0, oldest_seconds: oldest } = row;
  const bar = stacked([
    [submitted, "good"],
    [leased, "accent"],
    [skipped, "warn"],
    [open, "rest"],
  ]);
  const waits = open && oldest ? t("open, the oldest for {time}", { time: duration(oldest) }) : t("open");
  return el(
    "div",
    { class: "panel queue-card", "data-kind": kind },
    el("h3", {}, title, el("span", { class: "muted small" }, ` ${what}`)),
    el("div", { class: "big" }, count(open), el("span", { class: "muted small" }, ` ${waits}`)),
    bar,
    el(
      "div",
      { class: "legend" },
      key("good", t("{n} done", { n: count(submitted) })),
      key("accent", t("{n} in progress", { n: count(leased) })),
      key("warn", t("{n} skipped", { n: count(skipped) })),
    ),
  );
}

function verdictCard(verdicts) {
  const { accept = 0, reject = 0, fix = 0 } = verdicts;
  const total = accept + reject + fix;
  return el(
    "div",
    { class: "panel queue-card", "data-kind": "verdicts" },
    el("h3", {}, t("Verdicts"), el("span", { class: "muted small" }, ` ${t("of reviewers")}`)),
    el(
      "div",
      { class: "big" },
      total ? percent(accept / total) : "–",
      el("span", { class: "muted small" }, ` ${total ? plural(total, "of {n} mask accepted", "of {n} masks accepted") : t("nothing reviewed yet")}`),
    ),
    stacked([
      [accept, "good"],
      [fix, "accent"],
      [reject, "bad"],
    ]),
    el(
      "div",
      { class: "legend" },
      key("good", t("{n} accepted", { n: count(accept) })),
      key("accent", t("{n} fixed", { n: count(fix) })),
      key("bad", t("{n} rejected", { n: count(reject) })),
    ),
  );
}

const key = (style, text) => el("span", { class: `key key-${style}` }, text);

function stacked(parts) {
  const total = parts.reduce((sum, [value]) => sum + value, 0);
  return el(
    "div",
    { class: "stacked", "aria-hidden": "true" },
    parts
      .filter(([value]) => value > 0)
      .map(([value, style]) => {
        const part = el("div", { class: `key-${style}` });
        part.style.width = `${(100 * value) / total}%`;
        return part;
      }),
  );
}

/** A table; a column is [title, cell of a row, whether it is a number]. */
function table(title, rows, columns) {
  const head = columns.map(([title, , isNumber]) =>
    el("th", { scope: "col", class: isNumber ? "number" : null }, title),
  );
  const body = rows.map((row) =>
    el(
      "tr",
      {},
      columns.map(([, cell, isNumber]) => el("td", { class: isNumber ? "number" : null }, cell(row) ?? "–")),
    ),
  );
  return el(
    "div",
    { class: "scroll", tabindex: "0", role: "region", "aria-label": title },
    el("table", { class: "table" }, el("thead", {}, el("tr", {}, head)), el("tbody", {}, body)),
  );
}

function section(title, rows, columns, empty, command = null) {
  const content = rows.length
    ? [table(title, rows, columns)]
    : [el("p", { class: "muted" }, empty), command && el("pre", {}, command)];
  return [el("h2", {}, title), ...content.filter(Boolean)];
}

export function annotatorsTable(rows, advice = []) {
  const columns = [
    [t("Name"), (row) => row.name],
    [t("Role"), (row) => ANNOTATOR_ROLES[row.kind === "person" ? row.role : row.kind]],
    [t("Images"), (row) => count(row.tasks), true],
    [t("Masks"), (row) => count(row.masks), true],
    [t("s / mask"), (row) => decimal(row.seconds_per_mask), true],
    [t("Masks / h"), (row) => count(row.masks_per_hour), true],
    [t("Agreement"), agreement, true],
    [t("Gold"), gold, true],
    [t("Last seen"), (row) => ago(row.last_seen)],
  ];
  const table = section(
    t("Annotators"),
    rows,
    columns,
    t("No annotators yet. This command makes a sign-in link:"),
    "dataengine annotators add NAME --role annotator",
  );
  return [...table, ...advice.map((text) => el("p", { class: "advice" }, withCommands(text)))];
}

/** A sentence with its commands, which are in backticks, as code. */
function withCommands(text) {
  return text.split("`").map((part, place) => (place % 2 ? el("code", {}, part) : part));
}

const GOLD_STYLES = { below: "bad", above: "good" };
const GOLD_TITLES = {
  below: t("Too few, by the whole interval: their masks should be reviewed."),
  above: t("Enough, by the whole interval."),
  undecided: t("Not known yet: the interval contains the expected share."),
};

/** The share of objects found in gold tasks, and its interval. */
function gold(row) {
  if (!row.gold) return null;
  const { tasks, score: share, low, high, judgement } = row.gold;
  const what = plural(tasks, "Share of the known objects found in {n} gold task, and its interval.", "Share of the known objects found in {n} gold tasks, and its interval.");
  const title = `${GOLD_TITLES[judgement]} ${what}`;
  const ends = low === 0 && high === 1 ? t("too few yet") : `${score(low)} – ${score(high)}`;
  return el("span", { class: GOLD_STYLES[judgement] ?? null, title }, score(share), el("div", { class: "muted small" }, ends));
}

/** Agreement with other reviewers; a low one is highlighted. */
function agreement(row) {
  const style =
    row.agreement === null || row.agreement === undefined
      ? ""
      : row.agreement >= 0.9
        ? "good"
        : row.agreement < 0.75
          ? "bad"
          : "";
  return el("span", { class: style, title: t("Share of the masks judged by another reviewer too on which both verdicts are the same") }, percent(row.agreement));
}

export function modelsTable(rows) {
  const columns = [
    [t("Version"), (row) => el("span", {}, row.version, row.note && el("div", { class: "muted small note" }, row.note))],
    [t("State"), (row) => el("span", { class: `badge ${MODEL_BADGES[row.state] ?? ""}` }, stateText(row.state))],
    [t("From"), (row) => row.parent],
    [t("IoU 1 click"), (row) => score(row.miou_1_click), true],
    [t("IoU 3 clicks"), (row) => score(row.miou_3_clicks), true],
    [t("Scored on"), scoredOn],
    [t("Made"), (row) => el("span", { title: dateTime(row.created_at) }, ago(row.created_at))],
  ];
  return section(t("Models"), rows, columns, t("No models yet."), "dataengine models import FILE --name NAME --promote");
}

/** A score on another set than the other models' is not comparable: it is shown here, with its set. */
function scoredOn(row) {
  const isOther = typeof row.other_miou_1_click === "number";
  const text = isOther ? t("{set}: {score} after 1 click", { set: row.scored_on, score: score(row.other_miou_1_click) }) : row.scored_on;
  return text && el("span", { class: "muted small" }, text);
}

export function runsTable(rows) {
  const columns = [
    [t("Run"), (row) => twoLines(words(row.kind), [row.dataset, shortId(row.id)].filter(Boolean).join(" "), row.id)],
    [
      t("State"),
      (row) => el("span", { class: `badge ${RUN_BADGES[row.state] ?? ""}`, title: row.error || null }, stateText(row.state)),
    ],
    [t("Progress"), progress],
    [t("Images"), imagesOf, true],
    [t("Masks"), (row) => count(row.masks), true],
    [t("Started"), (row) => twoLines(ago(row.started_at), tookText(row), dateTime(row.started_at))],
  ];
  return section(t("Runs"), rows, columns, t("No runs yet. Rounds, retrains and releases appear here while they run."));
}

/** The number of a run's images; of a program's, with a link to what it selected. */
function imagesOf(row) {
  if (row.kind !== "program" || row.state !== "finished") return count(row.images);
  const query = new URLSearchParams({ dataset: row.dataset, show: "images", program: row.id });
  return el("a", { href: `/browse?${query}`, title: t("Show what the program selected") }, count(row.images));
}

function twoLines(text, more, title) {
  return el("span", { title }, text, el("div", { class: "muted small" }, more));
}

function tookText(row) {
  return row.finished_at ? t("took {time}", { time: duration(secondsBetween(row.started_at, row.finished_at)) }) : "";
}

/** Ids begin with the time, so their end identifies the run. */
function shortId(id) {
  const text = String(id);
  return text.length > 14 ? `…${text.slice(-12)}` : text;
}

function progress(row) {
  if (row.error) return el("div", { class: "bad small note" }, row.error);
  const share = row.progress ?? (row.state === "finished" ? 1 : null);
  if (share === null) return null; // unknown
  const fill = el("div");
  fill.style.width = `${100 * Math.min(1, share)}%`;
  return el(
    "div",
    { class: "run-progress" },
    el(
      "div",
      {
        class: "progress",
        role: "progressbar",
        "aria-valuenow": Math.round(share * 100),
        "aria-valuemin": 0,
        "aria-valuemax": 100,
        "aria-label": words(row.kind),
      },
      fill,
    ),
    el("span", { class: "small muted" }, percent(share)),
  );
}

const FILES = { "report.html": t("Report"), "instances.json": "COCO", "sa1b.tar": "SA-1B" };

/** Links to a release's report and its exports. */
function releaseFiles(row) {
  const link = (file) => {
    const isPage = file.endsWith(".html");
    const href = `/api/releases/${encodeURIComponent(row.name)}/${file}`;
    const title = isPage ? t("Opens the report in a new tab") : t("Downloads {file}; other formats: {command}", { file, command: `dataengine export ${row.name} --format yolo` });
    return el("a", { href, title, target: isPage ? "_blank" : null, rel: isPage ? "noopener" : null, download: isPage ? null : true }, FILES[file]);
  };
  const files = Object.keys(FILES).filter((file) => row.files?.includes(file));
  return files.length ? el("span", { class: "links" }, files.map(link)) : null;
}

/** Every dataset in a row: its images, its masks by stage, its open round, who worked on it, its model. */
export function datasetsTable({ datasets, loops, releases }) {
  const made = (stage) => (row) => count(row.masks_by_stage?.[stage] ?? 0);
  const latest = (row) => releases.find((one) => one.dataset === row.name && one.state === "done");
  const columns = [
    [t("Dataset"), (row) => el("a", { href: `#${encodeURIComponent(`loop-${row.name}`)}` }, row.name)],
    [t("Images"), (row) => count(row.images), true],
    [t("Annotated"), (row) => count(row.annotated), true],
    [t("Masks: assisted"), made("assisted_manual"), true],
    [t("semi-automatic"), made("semi_automatic"), true],
    [t("automatic"), made("fully_automatic"), true],
    [t("Round"), (row) => roundOf(loops.find((loop) => loop.dataset === row.name))],
    [t("Model"), (row) => modelOf(loops.find((loop) => loop.dataset === row.name))],
    [t("People, 24 h"), (row) => count(row.people_today), true],
    [t("Latest release"), (row) => latest(row) && el("span", { class: "links" }, latest(row).name, releaseFiles(latest(row)))],
  ];
  return section(t("Datasets"), datasets, columns, "");
}

/** The round that is open, with how many of its tasks are done; else what the loop's state is. */
function roundOf(loop) {
  if (!loop) return null;
  const round = loop.rounds.find((one) => !["planned", "done"].includes(one.state));
  if (!round) return stateText(loop.state);
  const { open = 0, leased = 0, submitted = 0, skipped = 0 } = round.tasks ?? {};
  const total = open + leased + submitted + skipped;
  const done = total ? plural(total, "{done} of {n} image", "{done} of {n} images", { done: count(submitted + skipped) }) : stateText(round.state);
  return el("span", {}, `${words(round.stage)} ${round.round}`, el("div", { class: "muted small" }, done));
}

/** The model that came out of the loop's latest begun round, else the one that it works with. */
function modelOf(loop) {
  const round = loop?.rounds.findLast((one) => one.model_after ?? one.model);
  return round && (round.model_after ?? round.model);
}

export function releasesTable(rows) {
  const columns = [
    [t("Name"), (row) => row.name],
    [t("Dataset"), (row) => row.dataset],
    [
      t("State"),
      (row) => el("span", { class: `badge ${row.state === "done" ? "badge-good" : "badge-accent"}` }, stateText(row.state)),
    ],
    [t("Masks"), (row) => count(row.masks), true],
    [t("Images"), (row) => count(row.images), true],
    [t("Made"), (row) => el("span", { title: dateTime(row.created_at) }, ago(row.created_at))],
    [t("Files"), releaseFiles],
  ];
  return section(
    t("Releases"),
    rows,
    columns,
    t("No releases yet. A release pins a version of the masks, for export as COCO or SA-1B."),
  );
}

/** How many masks have each category. */
export function categoriesTable(rows) {
  const name = (row) => (row.name === null ? el("span", { class: "muted" }, t("all others")) : el("span", { class: "label-name" }, dot(row.color), row.name));
  const columns = [
    [t("Dataset"), (row) => row.dataset],
    [t("Category"), name],
    [t("Masks"), (row) => count(row.masks), true],
  ];
  return section(t("Masks by category"), rows, columns, "");
}

/** How far people agree on the images that several of them annotated, by round. */
export function consensusTable(rows) {
  const columns = [
    [t("Dataset"), (row) => row.dataset],
    [t("Round"), (row) => `${words(row.stage)} ${row.round}`],
    [t("Images"), (row) => count(row.images), true],
    [t("Same objects (F1)"), (row) => score(row.f1), true],
    [t("Same outlines (IoU)"), (row) => score(row.iou), true],
    [t("To a reviewer"), (row) => count(row.reviewed), true],
  ];
  return section(t("Agreement of several people"), rows, columns, "");
}

/** An estimate, marked as one, unless all masks were judged. */
function accepted(row) {
  if (!row.accepted_is_estimate) return count(row.accepted_masks);
  const title = t("An estimate: {judged} of {total} masks were judged; the same share is assumed for the others", { judged: count(row.judged_masks), total: count(row.masks) });
  const judged = t("{n} judged", { n: count(row.judged_masks) });
  return el("span", { title }, `≈ ${count(row.accepted_masks)}`, el("div", { class: "muted small" }, judged));
}

export function costsTable(rows) {
  const columns = [
    [t("Stage"), (row) => words(row.stage)],
    [t("Model"), (row) => row.model ?? ""],
    [t("Runs"), (row) => count(row.runs), true],
    [t("Masks"), (row) => count(row.masks), true],
    [t("Processor"), (row) => duration(row.cpu_seconds), true],
    [t("GPU"), (row) => duration(row.gpu_seconds), true],
    [t("People"), (row) => duration(row.people_seconds), true],
    [t("Cost"), (row) => decimal(row.cost, 2), true],
    [t("Accepted masks"), accepted, true],
    [t("Cost of one"), (row) => decimal(row.cost_per_accepted_mask, 4), true],
  ];
  const made = rows.filter((row) => row.stage !== "total");
  return section(t("Costs"), made.length ? rows : [], columns, t("No runs yet. Prices are in the settings, under [costs]."));
}
