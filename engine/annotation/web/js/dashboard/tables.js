// Queue, annotators, models, runs, releases, agreement and costs.

import { dot } from "../shared/categories.js";
import { el } from "../shared/dom.js";
import { ago, count, dateTime, decimal, duration, percent, score, secondsBetween, words } from "../shared/format.js";

const KINDS = {
  annotate: ["Annotate", "images without masks"],
  complete: ["Complete", "images with confident masks, where the rest is added"],
  review: ["Review", "masks to judge"],
};
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
  const waits = open && oldest ? `, the oldest for ${duration(oldest)}` : "";
  return el(
    "div",
    { class: "panel queue-card", "data-kind": kind },
    el("h3", {}, title, el("span", { class: "muted small" }, ` ${what}`)),
    el("div", { class: "big" }, count(open), el("span", { class: "muted small" }, ` open${waits}`)),
    bar,
    el(
      "div",
      { class: "legend" },
      key("good", `${count(submitted)} done`),
      key("accent", `${count(leased)} in progress`),
      key("warn", `${count(skipped)} skipped`),
    ),
  );
}

function verdictCard(verdicts) {
  const { accept = 0, reject = 0, fix = 0 } = verdicts;
  const total = accept + reject + fix;
  return el(
    "div",
    { class: "panel queue-card", "data-kind": "verdicts" },
    el("h3", {}, "Verdicts", el("span", { class: "muted small" }, " of reviewers")),
    el(
      "div",
      { class: "big" },
      total ? percent(accept / total) : "–",
      el("span", { class: "muted small" }, total ? ` of ${count(total)} masks accepted` : " nothing reviewed yet"),
    ),
    stacked([
      [accept, "good"],
      [fix, "accent"],
      [reject, "bad"],
    ]),
    el(
      "div",
      { class: "legend" },
      key("good", `${count(accept)} accepted`),
      key("accent", `${count(fix)} fixed`),
      key("bad", `${count(reject)} rejected`),
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
    ["Name", (row) => row.name],
    ["Role", (row) => (row.kind === "person" ? row.role : row.kind)],
    ["Images", (row) => count(row.tasks), true],
    ["Masks", (row) => count(row.masks), true],
    ["s / mask", (row) => decimal(row.seconds_per_mask), true],
    ["Masks / h", (row) => count(row.masks_per_hour), true],
    ["Agreement", agreement, true],
    ["Gold", gold, true],
    ["Last seen", (row) => ago(row.last_seen)],
  ];
  const table = section(
    "Annotators",
    rows,
    columns,
    "No annotators yet. This command makes a sign-in link:",
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
  below: "Too few, by the whole interval: their masks should be reviewed",
  above: "Enough, by the whole interval",
  undecided: "Not known yet: the interval contains the expected share",
};

/** The share of objects found in gold tasks, and its interval. */
function gold(row) {
  if (!row.gold) return null;
  const { tasks, score: share, low, high, judgement } = row.gold;
  const title = `${GOLD_TITLES[judgement] ?? ""}. Share of the known objects found in ${tasks} gold tasks, and its interval.`;
  const ends = low === 0 && high === 1 ? "too few yet" : `${score(low)} – ${score(high)}`;
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
  return el("span", { class: style, title: "Share of the masks judged by another reviewer too on which both verdicts are the same" }, percent(row.agreement));
}

export function modelsTable(rows) {
  const columns = [
    ["Version", (row) => el("span", {}, row.version, row.note && el("div", { class: "muted small note" }, row.note))],
    ["State", (row) => el("span", { class: `badge ${MODEL_BADGES[row.state] ?? ""}` }, row.state)],
    ["From", (row) => row.parent],
    ["IoU 1 click", (row) => score(row.miou_1_click), true],
    ["IoU 3 clicks", (row) => score(row.miou_3_clicks), true],
    ["Scored on", scoredOn],
    ["Made", (row) => el("span", { title: dateTime(row.created_at) }, ago(row.created_at))],
  ];
  return section("Models", rows, columns, "No models yet.", "dataengine models import FILE --name NAME --promote");
}

/** A score on another set than the other models' is not comparable: it is shown here, with its set. */
function scoredOn(row) {
  const isOther = typeof row.other_miou_1_click === "number";
  const text = isOther ? `${row.scored_on}: ${score(row.other_miou_1_click)} after 1 click` : row.scored_on;
  return text && el("span", { class: "muted small" }, text);
}

export function runsTable(rows) {
  const columns = [
    ["Run", (row) => twoLines(words(row.kind), [row.dataset, shortId(row.id)].filter(Boolean).join(" "), row.id)],
    [
      "State",
      (row) => el("span", { class: `badge ${RUN_BADGES[row.state] ?? ""}`, title: row.error || null }, row.state),
    ],
    ["Progress", progress],
    ["Images", imagesOf, true],
    ["Masks", (row) => count(row.masks), true],
    ["Started", (row) => twoLines(ago(row.started_at), tookText(row), dateTime(row.started_at))],
  ];
  return section("Runs", rows, columns, "No runs yet. Rounds, retrains and releases appear here while they run.");
}

/** The number of a run's images; of a program's, with a link to what it selected. */
function imagesOf(row) {
  if (row.kind !== "program" || row.state !== "finished") return count(row.images);
  const query = new URLSearchParams({ dataset: row.dataset, show: "images", program: row.id });
  return el("a", { href: `/browse?${query}`, title: "Show what the program selected" }, count(row.images));
}

function twoLines(text, more, title) {
  return el("span", { title }, text, el("div", { class: "muted small" }, more));
}

function tookText(row) {
  return row.finished_at ? `took ${duration(secondsBetween(row.started_at, row.finished_at))}` : "";
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

const FILES = { "report.html": "Report", "instances.json": "COCO", "sa1b.tar": "SA-1B" };

/** Links to a release's report and its exports. */
function releaseFiles(row) {
  const link = (file) => {
    const isPage = file.endsWith(".html");
    const href = `/api/releases/${encodeURIComponent(row.name)}/${file}`;
    const title = isPage ? "Opens the report in a new tab" : `Downloads ${file}; other formats: dataengine export ${row.name} --format yolo`;
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
    ["Dataset", (row) => el("a", { href: `#${encodeURIComponent(`loop-${row.name}`)}` }, row.name)],
    ["Images", (row) => count(row.images), true],
    ["Annotated", (row) => count(row.annotated), true],
    ["Masks: assisted", made("assisted_manual"), true],
    ["semi-automatic", made("semi_automatic"), true],
    ["automatic", made("fully_automatic"), true],
    ["Round", (row) => roundOf(loops.find((loop) => loop.dataset === row.name))],
    ["Model", (row) => modelOf(loops.find((loop) => loop.dataset === row.name))],
    ["People, 24 h", (row) => count(row.people_today), true],
    ["Latest release", (row) => latest(row) && el("span", { class: "links" }, latest(row).name, releaseFiles(latest(row)))],
  ];
  return section("Datasets", datasets, columns, "");
}

/** The round that is open, with how many of its tasks are done; else what the loop's state is. */
function roundOf(loop) {
  if (!loop) return null;
  const round = loop.rounds.find((one) => !["planned", "done"].includes(one.state));
  if (!round) return loop.state;
  const { open = 0, leased = 0, submitted = 0, skipped = 0 } = round.tasks ?? {};
  const total = open + leased + submitted + skipped;
  const done = total ? `${count(submitted + skipped)} of ${count(total)} images` : round.state;
  return el("span", {}, `${words(round.stage)} ${round.round}`, el("div", { class: "muted small" }, done));
}

/** The model that came out of the loop's latest begun round, else the one that it works with. */
function modelOf(loop) {
  const round = loop?.rounds.findLast((one) => one.model_after ?? one.model);
  return round && (round.model_after ?? round.model);
}

export function releasesTable(rows) {
  const columns = [
    ["Name", (row) => row.name],
    ["Dataset", (row) => row.dataset],
    [
      "State",
      (row) => el("span", { class: `badge ${row.state === "done" ? "badge-good" : "badge-accent"}` }, row.state),
    ],
    ["Masks", (row) => count(row.masks), true],
    ["Images", (row) => count(row.images), true],
    ["Made", (row) => el("span", { title: dateTime(row.created_at) }, ago(row.created_at))],
    ["Files", releaseFiles],
  ];
  return section(
    "Releases",
    rows,
    columns,
    "No releases yet. A release pins a version of the masks, for export as COCO or SA-1B.",
  );
}

/** How many masks have each category. */
export function categoriesTable(rows) {
  const name = (row) => (row.name === null ? el("span", { class: "muted" }, "all others") : el("span", { class: "label-name" }, dot(row.color), row.name));
  const columns = [
    ["Dataset", (row) => row.dataset],
    ["Category", name],
    ["Masks", (row) => count(row.masks), true],
  ];
  return section("Masks by category", rows, columns, "");
}

/** How far people agree on the images that several of them annotated, by round. */
export function consensusTable(rows) {
  const columns = [
    ["Dataset", (row) => row.dataset],
    ["Round", (row) => `${words(row.stage)} ${row.round}`],
    ["Images", (row) => count(row.images), true],
    ["Same objects (F1)", (row) => score(row.f1), true],
    ["Same outlines (IoU)", (row) => score(row.iou), true],
    ["To a reviewer", (row) => count(row.reviewed), true],
  ];
  return section("Agreement of several people", rows, columns, "");
}

/** An estimate, marked as one, unless all masks were judged. */
function accepted(row) {
  if (!row.accepted_is_estimate) return count(row.accepted_masks);
  const title = `An estimate: ${count(row.judged_masks)} of ${count(row.masks)} masks were judged; the same share is assumed for the others`;
  return el("span", { title }, `≈ ${count(row.accepted_masks)}`, el("div", { class: "muted small" }, `${count(row.judged_masks)} judged`));
}

export function costsTable(rows) {
  const columns = [
    ["Stage", (row) => words(row.stage)],
    ["Model", (row) => row.model ?? ""],
    ["Runs", (row) => count(row.runs), true],
    ["Masks", (row) => count(row.masks), true],
    ["Processor", (row) => duration(row.cpu_seconds), true],
    ["GPU", (row) => duration(row.gpu_seconds), true],
    ["People", (row) => duration(row.people_seconds), true],
    ["Cost", (row) => decimal(row.cost, 2), true],
    ["Accepted masks", accepted, true],
    ["Cost of one", (row) => decimal(row.cost_per_accepted_mask, 4), true],
  ];
  const made = rows.filter((row) => row.stage !== "total");
  return section("Costs", made.length ? rows : [], columns, "No runs yet. Prices are in the settings, under [costs].");
}
