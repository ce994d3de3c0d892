// Cards of images: a thumbnail, what it is, and what can be done with it.

import { api } from "../shared/api.js";
import { el } from "../shared/dom.js";
import { ago, count, duration, words } from "../shared/format.js";
import { plural, t } from "../shared/strings.js";

const SIDE = 256; // pixels of a thumbnail
const KINDS = { annotate: t("mask every object"), complete: t("check the pre-filled masks"), review: t("review") };
const STATES = { held: [t("open"), "badge-accent"], begun: [t("begun"), "badge-warn"], reserved: [t("for you"), "badge-good"] };

function card({ image }, id, badge, facts, actions) {
  return el(
    "article",
    { class: "card", "data-task": id, "aria-label": image.file_name },
    el("img", { src: api.thumbnailUrl(image.id, SIDE), alt: "", loading: "lazy", width: image.width, height: image.height }),
    el("span", { class: "name", title: image.file_name }, image.file_name),
    el("span", { class: "muted small" }, facts.filter(Boolean).join(" · ")),
    el("div", { class: "actions" }, actions, badge),
  );
}

const press = (text, onclick) => el("button", { class: "button", type: "button", onclick }, text);

/** A task that is held, begun or reserved for the visitor. */
export function ownCard(task, open) {
  const [text, style] = STATES[task.state];
  const badge = el("span", { class: `badge ${style}` }, text);
  const facts = [KINDS[task.kind], task.dataset, task.note];
  return card(task, task.task_id, badge, facts, [press(task.state === "reserved" ? t("Open") : t("Continue"), () => open(task))]);
}

/** A task that waits in the queue. */
export function waitingCard(task, open) {
  return card(task, task.task_id, null, [KINDS[task.kind]], [press(t("Open"), () => open(task))]);
}

/** A task that the visitor has submitted. */
export function finishedCard(task, reopen) {
  const facts = [
    plural(task.masks, "{n} mask", "{n} masks"),
    duration(task.seconds),
    task.dataset,
    ago(task.submitted_at),
  ];
  const address = `/browse?${new URLSearchParams({ show: "finished", task: String(task.task_id) })}`;
  const actions = [
    el("a", { class: "button", href: address }, t("Look at it")),
    task.can_reopen && press(t("Open it again"), () => reopen(task)),
  ];
  return card(task, task.task_id, null, facts, actions);
}

/** The figures of the day. */
export function todayPanel({ images, masks, reviews, seconds }) {
  const rows = [
    ["images", t("images"), count(images)],
    ["masks", t("masks"), count(masks)],
    reviews && ["reviews", t("reviews"), count(reviews)],
    ["time", t("time"), duration(seconds)],
  ].filter(Boolean);
  return el(
    "section",
    { class: "panel", id: "today", "aria-labelledby": "today-title" },
    el("h2", { id: "today-title" }, t("Today")),
    el(
      "dl",
      { class: "figures" },
      rows.map(([name, text, value]) => el("div", { "data-figure": name }, el("dd", {}, value), el("dt", {}, text))),
    ),
  );
}

function progressOf({ stage, number, done, total }) {
  const values = { stage: words(stage), number, done: count(done) };
  return plural(total, "{stage}, round {number}: {done} of {n} image done", "{stage}, round {number}: {done} of {n} images done", values);
}

/** How far the open round of a dataset is. */
export function roundPanel({ name, waiting, round }) {
  const left = round ? round.total - round.done : 0;
  const share = round?.total ? (100 * round.done) / round.total : 0;
  const bar = el("div", { class: "progress", role: "progressbar", "aria-label": t("Round of {dataset}", { dataset: name }), "aria-valuenow": Math.round(share) }, el("div", { style: { width: `${share}%` } }));
  const time = round && left && round.seconds_left !== null ? ` · ${t("about {time} of work left", { time: duration(round.seconds_left) })}` : "";
  const facts = round
    ? [el("p", { class: "muted small" }, progressOf(round) + time), bar]
    : [el("p", { class: "muted small" }, waiting ? plural(waiting, "{n} image waits", "{n} images wait") : t("No round is open."))];
  return el("section", { class: "panel", "data-dataset": name, "aria-label": name }, el("h2", {}, name), facts);
}
