// What an admin can start: a button, a dialog that describes what will happen, the job's log.

import { api } from "../shared/api.js";
import { el, openDialog, toast } from "../shared/dom.js";
import { dismissFailures, unseenFailures } from "../shared/failures.js";
import { duration, secondsBetween, words } from "../shared/format.js";
import { t } from "../shared/strings.js";
import { stateText } from "./states.js";

const PLAN_MS = 300;
/** Fields with words to choose from, and their texts. */
const CHOICES = {
  annotator: { people: t("people"), simulated: t("simulated") },
  choice: { random: t("random"), disagreement: t("disagreement"), diversity: t("diversity"), mix: t("mix") },
};
const STATE_BADGES = { running: "badge-accent", done: "badge-good", failed: "badge-bad", stopped: "badge-warn" };

/** Buttons for the actions; `context()` gives {datasets}, `started(job)` is called with a new job. */
export function actionButtons(actions, context, started) {
  return actions.map((action) =>
    el(
      "button",
      {
        class: "button",
        type: "button",
        "data-action": action.name,
        onclick: () => openAction(action, context(), started),
      },
      action.title,
    ),
  );
}

function openAction(action, context, started) {
  const inputs = Object.entries(action.fields).map(([name, value]) => field(name, value, context));
  const text = el("p", { id: "plan-text", "aria-live": "polite" }, "…");
  const command = el("pre", { class: "command", hidden: true });
  const confirm = el(
    "button",
    { id: "confirm", class: "button button-primary", type: "submit", disabled: true },
    t("Confirm"),
  );
  const cancel = el("button", { class: "button", type: "button", onclick: () => dialog.close() }, t("Cancel"));
  const form = el(
    "form",
    { method: "dialog" },
    el(
      "div",
      { class: "fields" },
      inputs.map((one) => one.label),
    ),
    el("div", { class: "plan" }, text, command),
    el("div", { class: "dialog-actions" }, cancel, confirm),
  );
  const values = () => Object.fromEntries(inputs.map((one) => [one.name, one.value()]));
  const show = planner(action.name, values, { text, command, confirm });
  form.addEventListener("input", show.soon);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (confirm.disabled) return;
    confirm.disabled = true;
    try {
      const job = await api.startAction(action.name, values());
      dialog.close();
      toast(t("{title}: started.", { title: action.title }), "good");
      started(job);
    } catch (problem) {
      show.problem(problem);
    }
  });
  followDataset(action.name, inputs, show);
  const dialog = openDialog(action.title, form);
  inputs[0]?.input.focus();
  show.now();
}

/** When another dataset is chosen, fields that the user has not changed take its values. */
function followDataset(name, inputs, show) {
  const dataset = inputs.find((one) => one.name === "dataset");
  const changed = new Set(["dataset"]);
  for (const one of inputs) one.input.addEventListener("input", () => changed.add(one.name));
  dataset?.input.addEventListener("change", async () => {
    const chosen = dataset.value();
    try {
      const fresh = (await api.actions(chosen)).find((one) => one.name === name);
      if (chosen !== dataset.value()) return;
      for (const one of inputs) if (!changed.has(one.name)) one.set(fresh.fields[one.name]);
      show.soon();
    } catch (problem) {
      show.problem(problem);
    }
  });
}

/** Asks the server what the action would do, a moment after the last change. */
function planner(name, values, { text, command, confirm }) {
  let timer = null;
  let latest = 0;
  function problem({ message }) {
    text.textContent = message;
    text.classList.add("bad");
    command.hidden = true;
    confirm.disabled = true;
  }
  async function now() {
    latest += 1;
    const mine = latest;
    try {
      const plan = await api.planAction(name, values());
      if (mine !== latest) return;
      text.textContent = plan.text;
      text.classList.remove("bad");
      command.textContent = plan.command;
      command.hidden = false;
      confirm.disabled = false;
    } catch (refusal) {
      if (mine === latest) problem(refusal);
    }
  }
  function soon() {
    confirm.disabled = true; // a plan has to be shown before it is confirmed
    latest += 1;
    clearTimeout(timer);
    timer = setTimeout(now, PLAN_MS);
  }
  return { now, soon, problem };
}

/** A labelled input of the type of the default value. */
function field(name, value, context) {
  const id = `field-${name}`;
  let input;
  let read;
  if (typeof value === "boolean") {
    input = el("input", { id, name, type: "checkbox", checked: value });
    read = () => input.checked;
  } else if (CHOICES[name] || (name === "dataset" && context.datasets.length)) {
    const options = CHOICES[name] ? Object.entries(CHOICES[name]) : context.datasets.map((dataset) => [dataset, dataset]);
    input = el(
      "select",
      { id, name },
      options.map(([option, text]) => el("option", { value: option, selected: option === value }, text)),
    );
    read = () => input.value;
  } else if (typeof value === "number") {
    input = el("input", { id, name, type: "number", step: Number.isInteger(value) ? 1 : "any", value });
    read = () => (input.value === "" ? null : Number(input.value));
  } else {
    input = el("input", { id, name, type: "text", value: value ?? "", autocomplete: "off", spellcheck: "false" });
    read = () => (input.value === "" && value === null ? null : input.value);
  }
  return {
    name,
    input,
    value: read,
    set: (fresh) => {
      if (input.type === "checkbox") input.checked = fresh;
      else input.value = fresh ?? "";
    },
    label: el("label", { class: "field", for: id }, el("span", {}, words(name)), input),
  };
}

/** The list of jobs; each keeps its place and whether it is open while its log grows. `notice` shows
 * failures until it is dismissed. */
export class Jobs {
  constructor(root, panel, notice, canStop) {
    this.root = root;
    this.panel = panel;
    this.notice = notice;
    this.canStop = canStop;
    this.nodes = new Map();
  }

  /** The newest first. */
  fill(jobs) {
    for (const job of [...jobs].reverse()) this.update(job);
  }

  /** Updates the durations of running jobs: no event does. */
  tick() {
    for (const { job } of this.nodes.values()) if (job.state === "running") this.update(job);
  }

  /** The parts of a job: a log that opens, and buttons beside it. */
  node(job, isOpen) {
    const line = el("span");
    const bar = el("div", { class: "progress job-progress", role: "progressbar", "aria-label": t("Progress of {title}", { title: job.title }) }, el("div"));
    const details = el(
      "details",
      { open: isOpen || job.state === "running" },
      el("summary", {}, line, bar),
      el("code", { class: "job-command muted" }),
      el("pre", { class: "log", tabindex: "0", role: "region", "aria-label": t("Log of {title}", { title: job.title }) }),
    );
    const stop = this.stopButton(job.id);
    const retry = this.retryButton(job.id);
    return Object.assign(el("div", { class: "job", "data-job": job.id }, details, stop, retry), { details, line, bar, stop, retry });
  }

  update(job, isOpen = false) {
    let node = this.nodes.get(job.id);
    if (!node) {
      node = this.node(job, isOpen);
      this.nodes.set(job.id, node);
      this.root.prepend(node);
    }
    if (isOpen) node.details.open = true;
    this.panel.hidden = false;
    const [, command, log] = node.details.children;
    const isRunning = job.state === "running";
    const time = duration(secondsBetween(job.started_at, job.finished_at));
    const when = isRunning ? t("for {time}", { time }) : t("took {time}", { time });
    node.line.replaceChildren(
      el("span", { class: `badge ${STATE_BADGES[job.state] ?? ""}` }, stateText(job.state)),
      ` ${job.title} `,
      el("span", { class: "muted small" }, when, isRunning && job.log ? ` · ${lastLine(job)}` : null),
    );
    node.stop.hidden = !isRunning || !this.canStop;
    node.retry.hidden = !this.canStop || !["failed", "stopped"].includes(job.state);
    node.bar.hidden = !isRunning || typeof job.progress !== "number";
    node.bar.setAttribute("aria-valuenow", String(Math.round(100 * (job.progress ?? 0))));
    node.bar.firstChild.style.width = `${100 * (job.progress ?? 0)}%`;
    node.job = job;
    node.dataset.state = job.state;
    command.textContent = job.command;
    const isAtEnd = log.scrollTop + log.clientHeight >= log.scrollHeight - 8;
    log.textContent = job.log || "…";
    if (isAtEnd) log.scrollTop = log.scrollHeight;
    this.tellFailures();
  }

  /** The first press interrupts the job as Ctrl-C does, a second one ends it at once. */
  stopButton(id) {
    const press = async () => {
      try {
        this.update(await api.stopJob(id));
        button.textContent = t("Stop at once");
      } catch (problem) {
        toast(problem.message, "bad");
      }
    };
    const button = el("button", { class: "button job-stop", type: "button", title: t("Stops the job as Ctrl-C does in a terminal"), onclick: press }, t("Stop"));
    return button;
  }

  /** Starts the same command again: it continues where it ended. */
  retryButton(id) {
    const press = async () => {
      try {
        this.update(await api.retryJob(id), true);
      } catch (problem) {
        toast(problem.message, "bad");
      }
    };
    return el("button", { class: "button job-stop", type: "button", title: t("Starts the same command again"), onclick: press }, t("Try again"));
  }

  tellFailures() {
    const failed = unseenFailures([...this.nodes.values()].map((node) => node.job));
    this.notice.hidden = failed.length === 0;
    if (!failed.length) return;
    const close = () => {
      dismissFailures(failed);
      this.tellFailures();
    };
    const texts = failed.map((job) => el("div", {}, el("strong", {}, `${t("{title} failed.", { title: job.title })} `), lastLine(job)));
    this.notice.replaceChildren(el("div", {}, texts), el("button", { class: "button", type: "button", onclick: close }, t("Dismiss")));
  }
}

/** The log's last line with text; frames drawn around messages are removed. */
function lastLine(job) {
  const lines = job.log.split("\n").map((line) => line.replace(/[\u2500-\u257f]/g, "").trim());
  return lines.findLast((line) => /[\p{L}\d]/u.test(line)) ?? "";
}
