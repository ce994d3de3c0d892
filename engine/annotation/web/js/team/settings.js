// The settings of the page Team that are safe to change while work goes on.

import { api } from "../shared/api.js";
import { byId, el, toast } from "../shared/dom.js";
import { DASH, dateTime } from "../shared/format.js";
import { t } from "../shared/strings.js";
import { table } from "../shared/tables.js";

export class Settings {
  /** `onChange` is called after each change, which the log then shows. */
  constructor(onChange) {
    this.onChange = onChange;
  }

  async refresh() {
    const found = await api.settings();
    if (document.activeElement?.closest("#settings")) return; // somebody is typing
    byId("settings").replaceChildren(table([t("Setting"), t("Value"), t("In the file"), t("Last change"), ""], found.map((one) => this.row(one))));
  }

  row(one) {
    const input = inputOf(one);
    const save = el("button", { class: "button", type: "button", disabled: true, "aria-label": `${t("Save")}: ${one.text}` }, t("Save"));
    const valueNow = () => readOf(one, input);
    const send = (value) => this.change(one, value);
    input.addEventListener("input", () => (save.disabled = valueNow() === one.value));
    input.addEventListener("keydown", (event) => event.key === "Enter" && !save.disabled && send(valueNow()));
    save.addEventListener("click", () => send(valueNow()));
    const reset = el("button", { class: "button", type: "button", "aria-label": `${t("As in the file")}: ${one.text}`, onclick: () => send(null) }, t("As in the file"));
    return el(
      "tr",
      { "data-setting": one.name },
      el("td", {}, one.text, el("div", { class: "muted small" }, one.name)),
      el("td", { class: "setting" }, input, one.is_fixed && el("div", { class: "muted small" }, t("set by the server's environment"))),
      el("td", { class: "muted" }, shown(one.of_file)),
      el("td", {}, one.at ? `${dateTime(one.at)}, ${one.author ?? t("by a command")}` : DASH),
      el("td", { class: "actions" }, !one.is_fixed && save, one.is_changed && !one.is_fixed && reset),
    );
  }

  async change(one, value) {
    try {
      await api.changeSetting(one.name, value);
      const { name } = one;
      toast(value === null ? t("{name} is as in the file again.", { name }) : t("{name} is {value} from now on.", { name, value: shown(value) }), "good");
      const focused = document.activeElement;
      if (focused instanceof HTMLElement) focused.blur(); // the table may be drawn anew
    } catch (problem) {
      toast(problem.message, "bad");
    }
    await this.onChange();
  }
}

const shown = (value) => (typeof value === "boolean" ? (value ? t("on") : t("off")) : String(value));

function inputOf(one) {
  const common = { "aria-label": one.text, disabled: one.is_fixed };
  if (one.kind === "choice") return el("select", common, one.choices.map((value) => el("option", { value, selected: value === one.value }, value)));
  if (one.kind === "switch") return el("input", { ...common, type: "checkbox", role: "switch", checked: one.value });
  const step = one.kind === "whole" ? 1 : "any";
  return el("input", { ...common, type: "number", min: one.least, max: one.most, step, value: one.value });
}

function readOf(one, input) {
  if (one.kind === "switch") return input.checked;
  return one.kind === "choice" ? input.value : Number(input.value);
}
