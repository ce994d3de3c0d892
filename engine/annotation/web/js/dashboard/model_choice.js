// The choice of a model, offered once: until it is dismissed in this browser, or a model is taken.

import { el } from "../shared/dom.js";
import { t } from "../shared/strings.js";

const DISMISSED = "dataengine.modelChoiceDismissed";

/** Shows the commands in `root`, if there are any: `choices` of the overview. */
export function offerModels(root, choices) {
  root.hidden = choices.length === 0 || localStorage.getItem(DISMISSED) !== null;
  if (root.hidden || root.firstChild) return; // drawn once, so that a selected command stays selected
  const dismiss = () => {
    localStorage.setItem(DISMISSED, new Date().toISOString());
    root.hidden = true;
  };
  const rows = choices.map(({ where, command, size }) =>
    el("div", {}, `${where}: `, el("code", {}, command), el("span", { class: "muted small" }, ` ${size}`)),
  );
  root.replaceChildren(
    el("div", {}, el("strong", {}, t("The model is the shipped lite.")), ` ${t("For photographs use a public one, in a terminal:")}`, rows),
    el("button", { class: "button", type: "button", onclick: dismiss }, t("Dismiss")),
  );
}
