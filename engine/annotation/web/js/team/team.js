// Team: the people of the workspace, their roles and links, API tokens, and the log of who did what.

import { api } from "../shared/api.js";
import { ask, byId, el, toast } from "../shared/dom.js";
import { DASH, ago, dateTime, words } from "../shared/format.js";
import { mountHeader } from "../shared/header.js";
import { roleName } from "../shared/names.js";
import { plural, t } from "../shared/strings.js";
import { table } from "../shared/tables.js";
import { choiceField, datasetsField, openForm, roleField, showSecret, textField } from "./forms.js";
import { Settings } from "./settings.js";
import { Webhooks } from "./webhooks.js";

const LINK = t("It signs them in once, within seven days, and is shown only now. Send it to nobody else.");

const HOWS = [
  ["images", t("this many of the waiting images")],
  ["share", t("this share of the waiting images, in %")],
  ["back", t("give what is kept back to everybody")],
];

class TeamPage {
  constructor(me) {
    this.me = me;
    this.settings = new Settings(() => this.refresh());
    this.webhooks = new Webhooks(() => this.refresh());
    byId("local").hidden = !me.is_local;
    byId("invite").addEventListener("click", () => this.invite());
    byId("make-token").addEventListener("click", () => this.makeToken());
  }

  async refresh() {
    try {
      const [team, audit] = await Promise.all([api.team(), api.audit(), this.webhooks.refresh(), this.settings.refresh()]);
      this.team = team;
      byId("people").replaceChildren(this.peopleTable(team.people));
      byId("tokens").replaceChildren(this.tokensTable(team.tokens));
      byId("audit").replaceChildren(auditTable(audit));
      byId("make-token").disabled = !team.people.some((one) => one.state === "active");
      byId("banner").hidden = true;
      document.body.dataset.state = "ready";
    } catch (problem) {
      byId("banner").textContent = problem.message;
      byId("banner").hidden = problem.status === 401;
    }
  }

  peopleTable(people) {
    if (!people.length) return el("p", { class: "muted" }, t("Nobody has been added."));
    return table([t("Name"), t("Role"), t("Datasets"), t("State"), t("Last submission"), t("Kept for them"), ""], people.map((one) => this.personRow(one)));
  }

  personRow(one) {
    const isActive = one.state === "active";
    const state = isActive ? (one.is_signed_in ? t("signed in") : t("signed out")) : t("disabled");
    const style = isActive ? (one.is_signed_in ? "badge-good" : "") : "badge-bad";
    const button = (text, act) => el("button", { class: "button", type: "button", "aria-label": `${text}: ${one.name}`, onclick: act }, text);
    return el(
      "tr",
      { "data-person": one.name, class: isActive ? null : "disabled" },
      el("td", {}, one.name, one.is_self && el("span", { class: "muted" }, ` ${t("(you)")}`)),
      el("td", {}, roleName(one.role)),
      el("td", {}, one.datasets === null ? t("all") : one.datasets.join(", ") || t("none")),
      el("td", {}, el("span", { class: `badge ${style}` }, state)),
      el("td", {}, ago(one.last_seen)),
      el("td", { "data-reserved": one.reserved }, one.reserved ? plural(one.reserved, "{n} image", "{n} images") : DASH),
      el(
        "td",
        { class: "actions" },
        isActive && button(t("Edit"), () => this.edit(one)),
        isActive && button(t("Assign"), () => this.assign(one)),
        isActive && button(t("New link"), () => this.inviteAgain(one)),
        isActive && !one.is_self && button(t("Disable"), () => this.disable(one)),
        !isActive && button(t("Enable"), () => this.change(() => api.setState(one.id, "enable"))),
      ),
    );
  }

  tokensTable(tokens) {
    if (!tokens.length) return el("p", { class: "muted" }, t("No tokens. A script sends one with its requests, as “Authorization: Bearer …”."));
    const row = (one) =>
      el(
        "tr",
        { "data-token": one.name, class: one.is_expired ? "disabled" : null },
        el("td", {}, one.name),
        el("td", {}, one.person),
        el("td", {}, dateTime(one.created_at)),
        el("td", {}, one.is_expired ? t("expired") : dateTime(one.expires_at)),
        el("td", {}, one.used_at ? ago(one.used_at) : t("never")),
        el("td", { class: "actions" }, el("button", { class: "button", type: "button", "aria-label": `${t("Revoke")}: ${one.name}`, onclick: () => this.revoke(one) }, t("Revoke"))),
      );
    return table([t("Token"), t("Acts as"), t("Made"), t("Valid until"), t("Last use"), ""], tokens.map(row));
  }

  async invite() {
    const fields = [textField("name", t("Name"), { maxlength: 200 }), roleField(this.me.is_local ? "admin" : "annotator"), datasetsField(this.team.datasets, null)];
    const made = await openForm(t("Add a person"), fields, t("Add"), (person) => api.invite(person));
    if (made) await this.showLink(made);
  }

  async inviteAgain(one) {
    try {
      await this.showLink(await api.inviteAgain(one.id));
    } catch (problem) {
      toast(problem.message, "bad");
    }
  }

  async showLink({ name, token }) {
    await showSecret(t("Sign-in link of {name}", { name }), LINK, `${location.origin}/sign-in#${token}`);
    await this.refresh();
  }

  async edit(one) {
    const fields = [roleField(one.role, one.is_self), datasetsField(this.team.datasets, one.datasets)];
    const send = async (rights) => (await api.setRights(one.id, rights), true);
    if (await openForm(t("Rights of {name}", { name: one.name }), fields, t("Save"), send)) await this.refresh();
  }

  /** Keeps images for a person, or gives those back to everybody. */
  async assign(one) {
    const seen = this.team.datasets.filter((name) => one.datasets === null || one.datasets.includes(name));
    const fields = [
      choiceField("dataset", t("Dataset"), seen.map((name) => [name, name])),
      choiceField("how", t("Which"), HOWS, "images"),
      textField("number", t("Number"), { type: "number", min: 1, value: 10 }),
    ];
    const send = ({ dataset, how, number }) => {
      if (how === "back") return api.takeBack(one.id, dataset);
      return api.assign(one.id, { dataset, ...(how === "share" ? { share: number / 100 } : { images: number }) });
    };
    const done = await openForm(t("Images for {name}", { name: one.name }), fields, t("Do it"), send);
    if (!done) return;
    toast(plural(done.tasks, "{n} image.", "{n} images."), "good");
    await this.refresh();
  }

  async disable(one) {
    const { name } = one;
    const text = t("{name} is signed out everywhere; their link and API tokens stop working. Their work stays, and tasks kept for them become everybody's.", { name });
    if (await ask(t("Disable {name}?", { name }), text, t("Disable"), { isLoss: true })) await this.change(() => api.setState(one.id, "disable"));
  }

  async makeToken() {
    const people = this.team.people.filter((one) => one.state === "active");
    const fields = [
      choiceField("person_id", t("Acts as"), people.map((one) => [String(one.id), `${one.name} (${roleName(one.role)})`])),
      textField("name", t("What it is for"), { maxlength: 100 }),
      textField("days", t("Valid for days"), { type: "number", min: 1, max: 366, value: 30 }),
    ];
    const send = (given) => api.makeToken({ ...given, person_id: Number(given.person_id) });
    const made = await openForm(t("Make an API token"), fields, t("Make it"), send);
    if (!made) return;
    await showSecret(t("API token {name}", { name: made.view.name }), t("It is shown only now. Whoever has it acts as this person."), made.token);
    await this.refresh();
  }

  async revoke(one) {
    if (await ask(t("Revoke {name}?", { name: one.name }), t("Scripts that use it are refused from now on."), t("Revoke"), { isLoss: true })) await this.change(() => api.revokeToken(one.id));
  }

  async change(call) {
    try {
      await call();
    } catch (problem) {
      toast(problem.message, "bad");
    }
    await this.refresh();
  }
}

function auditTable(entries) {
  const row = ({ at, who, action, subject, detail }) =>
    el("tr", {}, el("td", {}, dateTime(at)), el("td", {}, who ?? DASH), el("td", {}, words(action)), el("td", {}, subject), el("td", { class: "muted small" }, detailOf(detail)));
  return table([t("When"), t("Who"), t("What"), t("Of"), t("Details")], entries.map(row));
}

const detailOf = (detail) =>
  Object.entries(detail)
    .filter(([name, value]) => value !== null || name === "datasets")
    .map(([name, value]) => `${name}: ${value === null ? t("all") : [value].flat().join(", ")}`)
    .join(" · ");

const me = await mountHeader("team");
if (me && me.role !== "admin") location.assign("/");
else if (me) void new TeamPage(me).refresh();
