// The webhooks of the page Team: addresses that receive events, and what was sent to them.

import { api } from "../shared/api.js";
import { ask, byId, el, openDialog, toast } from "../shared/dom.js";
import { ago, dateTime } from "../shared/format.js";
import { plural, t } from "../shared/strings.js";
import { table } from "../shared/tables.js";
import { checksField, openForm, showSecret, textField } from "./forms.js";

const SECRET = t("The receiver checks signatures with it. It is shown only now.");
const STATES = { delivered: ["badge-good", t("delivered")], failed: ["badge-bad", t("failed")], waiting: ["", t("waiting")] };
const LOOK_MS = 1_000; // while a delivery waits for its first attempt
const LOOKS = 15;

const short = (event) => event.replace("dataengine.", "");

export class Webhooks {
  /** `onChange` is called after each change, which the log then shows. */
  constructor(onChange) {
    this.onChange = onChange;
    byId("add-webhook").addEventListener("click", () => this.add());
  }

  async refresh() {
    const found = await api.webhooks();
    this.events = found.events;
    const none = el("p", { class: "muted" }, t("No webhooks. One tells another system, for example a chat or a CI server, that a round is done or a model was promoted."));
    byId("webhooks").replaceChildren(found.webhooks.length ? this.webhooksTable(found.webhooks) : none);
    byId("deliveries-panel").hidden = !found.deliveries.length;
    byId("deliveries").replaceChildren(this.deliveriesTable(found));
    return found;
  }

  webhooksTable(webhooks) {
    const button = (text, one, act) => el("button", { class: "button", type: "button", "aria-label": `${text}: ${one.url}`, onclick: act }, text);
    const row = (one) =>
      el(
        "tr",
        { "data-webhook": one.id, class: one.is_paused ? "disabled" : null },
        el("td", { class: "address" }, one.url),
        el("td", {}, one.events.map(short).join(", ")),
        el("td", {}, el("span", { class: `badge ${one.is_paused ? "badge-warn" : "badge-good"}` }, one.is_paused ? t("paused") : t("active"))),
        el("td", {}, `${dateTime(one.created_at)}, ${one.author ?? t("by a command")}`),
        el(
          "td",
          { class: "actions" },
          !one.is_paused && button(t("Test"), one, () => this.test(one)),
          one.is_paused ? button(t("Resume"), one, () => this.change(() => api.webhook(one.id, "resume"))) : button(t("Pause"), one, () => this.change(() => api.webhook(one.id, "pause"))),
          button(t("Remove"), one, () => this.remove(one)),
        ),
      );
    return table([t("Address"), t("Events"), t("State"), t("Added"), ""], webhooks.map(row));
  }

  deliveriesTable({ deliveries, webhooks }) {
    const urls = new Map(webhooks.map((one) => [one.id, one.url]));
    const row = (one) => {
      const [style, state] = STATES[one.state];
      return el(
        "tr",
        { "data-delivery": one.id },
        el("td", {}, dateTime(one.created_at)),
        el("td", {}, el("button", { class: "button button-quiet", type: "button", onclick: () => showBody(one) }, short(one.event))),
        el("td", { class: "address" }, urls.get(one.webhook_id) ?? ""),
        el("td", {}, el("span", { class: `badge ${style}` }, state)),
        el("td", { class: "small muted" }, answerOf(one)),
        el(
          "td",
          { class: "actions" },
          one.state !== "waiting" && el("button", { class: "button", type: "button", "aria-label": `${t("Send again")}: ${one.id}`, onclick: () => this.again(one) }, t("Send again")),
        ),
      );
    };
    return table([t("Queued"), t("Event"), t("Address"), t("State"), t("Last answer"), ""], deliveries.map(row));
  }

  async add() {
    const options = Object.entries(this.events).map(([name, text]) => [name, `${short(name)}: ${text}`]);
    const fields = [textField("url", t("Address"), { type: "url", placeholder: "https://", maxlength: 2000 }), checksField("events", t("Tell it that"), options)];
    const made = await openForm(t("Add a webhook"), fields, t("Add"), (given) => api.addWebhook(given));
    if (!made) return;
    await showSecret(t("Secret of {host}", { host: new URL(made.view.url).host }), SECRET, made.secret);
    await this.changed();
  }

  async test(one) {
    await this.send(() => api.webhook(one.id, "test"));
  }

  async again(one) {
    await this.send(() => api.sendAgain(one.id));
  }

  /** Queues a delivery, and looks until it was tried. */
  async send(call) {
    try {
      const { id } = await call();
      for (let look = 0; look < LOOKS; look += 1) {
        const { deliveries } = await this.refresh();
        const one = deliveries.find((each) => each.id === id);
        if (!one) break;
        if (one.attempts > 0) {
          const isGood = one.state === "delivered";
          const answer = t("the receiver answered {status}", { status: one.status });
          toast(isGood ? t("Delivered: {answer}.", { answer }) : t("Not delivered: {answer}.", { answer: one.error ?? answer }), isGood ? "good" : "bad");
          break;
        }
        await new Promise((resolve) => setTimeout(resolve, LOOK_MS));
      }
    } catch (problem) {
      toast(problem.message, "bad");
    }
    await this.changed();
  }

  async remove(one) {
    if (await ask(t("Remove this webhook?"), t("{url} receives nothing from now on, and its deliveries are deleted.", { url: one.url }), t("Remove"), { isLoss: true })) await this.change(() => api.webhook(one.id, "remove"));
  }

  async change(call) {
    try {
      await call();
    } catch (problem) {
      toast(problem.message, "bad");
    }
    await this.changed();
  }

  async changed() {
    await this.onChange();
  }
}

function answerOf({ state, status, error, attempts, due_at: due }) {
  if (!attempts) return t("not tried yet");
  const said = error ?? t("status {status}", { status });
  const tries = attempts > 1 ? ` · ${plural(attempts, "{n} attempt", "{n} attempts")}` : "";
  return state === "waiting" ? `${said}${tries} · ${t("next try {time}", { time: dateTime(due) })}` : `${said}${tries}`;
}

function showBody(one) {
  const facts = el("p", { class: "muted small" }, t("Event id {id}, queued {time}", { id: one.event_id, time: ago(one.created_at) }));
  openDialog(short(one.event), facts, el("pre", { class: "log", tabindex: 0 }, JSON.stringify(one.payload, null, 2))).id = "delivery";
}
