// Dialogs of the page Team: a form that is sent, and a secret that is shown once.

import { el, openDialog, toast } from "../shared/dom.js";
import { ROLES } from "../shared/names.js";
import { t } from "../shared/strings.js";

/** Opens a form; `send(values)` resolves once it is accepted, and then the dialog closes. Resolves to what
 * `send` resolved to, or null if the dialog was closed. `fields`: of `textField` and the like. */
export function openForm(title, fields, action, send) {
  return new Promise((resolve) => {
    let answer = null;
    const problem = el("p", { class: "bad", role: "alert", hidden: true });
    const submit = el("button", { class: "button button-primary", type: "submit" }, action);
    const cancel = el("button", { class: "button", type: "button", onclick: () => dialog.close() }, t("Cancel"));
    const form = el("form", { class: "form", method: "dialog" }, fields.map((one) => one.node), problem, el("div", { class: "dialog-actions" }, cancel, submit));
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      submit.disabled = true;
      try {
        answer = await send(Object.fromEntries(fields.map((one) => [one.name, one.value()])));
        dialog.close();
      } catch (refusal) {
        problem.textContent = refusal.message;
        problem.hidden = false;
      } finally {
        submit.disabled = false;
      }
    });
    const dialog = openDialog(title, form);
    dialog.addEventListener("close", () => resolve(answer));
  });
}

export function textField(name, label, attributes = {}) {
  const input = el("input", { name, autocomplete: "off", required: true, ...attributes });
  const value = () => (input.type === "number" ? Number(input.value) : input.value.trim());
  return { name, node: el("label", {}, label, input), value };
}

/** `options`: pairs of value and text. */
export function choiceField(name, label, options, chosen) {
  const select = el("select", { name }, options.map(([value, text]) => el("option", { value, selected: value === chosen }, text)));
  return { name, node: el("label", {}, label, select), value: () => select.value };
}

export const roleField = (role, isSelf = false) => {
  const field = choiceField("role", t("Role"), Object.entries(ROLES), role);
  if (isSelf) field.node.querySelector("select").disabled = true;
  return field;
};

/** The datasets somebody sees: all (null), or those that are ticked. */
export function datasetsField(names, chosen) {
  const all = el("input", { type: "checkbox", checked: chosen === null });
  const boxes = names.map((name) => [name, el("input", { type: "checkbox", checked: chosen?.includes(name) ?? true })]);
  const show = () => boxes.forEach(([, box]) => (box.disabled = all.checked));
  all.addEventListener("change", show);
  show();
  const node = el(
    "fieldset",
    {},
    el("legend", {}, t("Datasets")),
    el("label", {}, all, t("all, also later ones")),
    boxes.map(([name, box]) => el("label", {}, box, name)),
  );
  const value = () => (all.checked ? null : boxes.filter(([, box]) => box.checked).map(([name]) => name));
  return { name: "datasets", node, value };
}

/** Values that are chosen of `options` (pairs of value and text), all at first. */
export function checksField(name, label, options) {
  const boxes = options.map(([value, text]) => [value, el("input", { type: "checkbox", checked: true }), text]);
  const node = el("fieldset", {}, el("legend", {}, label), boxes.map(([, box, text]) => el("label", {}, box, text)));
  return { name, node, value: () => boxes.filter(([, box]) => box.checked).map(([value]) => value) };
}

/** Shows a secret that the server shows only this once; resolves when the dialog is closed. */
export function showSecret(title, text, secret) {
  const input = el("input", { readonly: true, value: secret, "aria-label": title, onfocus: () => input.select() });
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(secret);
      toast(t("Copied."), "good");
    } catch {
      input.select(); // without a secure address the browser refuses: copy it by hand
      toast(t("Press Ctrl+C to copy it."));
    }
  };
  return new Promise((resolve) => {
    const dialog = openDialog(
      title,
      el("p", {}, text),
      el("div", { class: "secret" }, input, el("button", { class: "button button-primary", type: "button", onclick: copy }, t("Copy"))),
    );
    dialog.id = "secret";
    dialog.addEventListener("close", () => resolve());
  });
}
