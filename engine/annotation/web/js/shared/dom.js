// Small helpers to build pages without a framework. They set text as text, never as HTML.

import { t } from "./strings.js";

const SVG = "http://www.w3.org/2000/svg";

/** The page's element with this id.
 * @returns {any} the caller knows its type */
export const byId = (id) => document.getElementById(id);

/** An element: `el("button", {class: "button", onclick: f, "data-action": "round"}, "Start")`.
 * Functions become listeners, `true` an empty attribute; null, undefined and false are left out. */
export function el(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

/** The same for SVG. */
export function svg(tag, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), attributes, children);
}

function filled(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") node.addEventListener(name.replace(/^on/, ""), value);
    else if (name === "style") Object.assign(node.style, value);
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

/** Shows a short message that disappears by itself. `kind`: "", "good" or "bad". */
export function toast(text, kind = "", seconds = kind === "bad" ? 8 : 3.5) {
  let stack = document.getElementById("toasts");
  if (!stack) {
    stack = el("div", { id: "toasts", role: "status", "aria-live": "polite" });
    document.body.append(stack);
  }
  const node = el("div", { class: `toast ${kind && `toast-${kind}`}` }, text);
  stack.append(node);
  while (stack.children.length > 4) stack.firstChild.remove();
  setTimeout(() => node.remove(), seconds * 1_000);
  return node;
}

/** A modal dialog with a title; Esc and the cross close it. Returns the <dialog>; it removes itself. */
export function openDialog(title, ...children) {
  const close = el(
    "button",
    { class: "button button-quiet dialog-close", type: "button", "aria-label": t("Close"), onclick: () => dialog.close() },
    "✕",
  );
  const dialog = el(
    "dialog",
    { class: "dialog", "aria-label": title, onclose: () => dialog.remove() },
    el("div", { class: "dialog-head" }, el("h2", {}, title), close),
    ...children,
  );
  // Keys typed in a dialog are not the page's shortcuts.
  dialog.addEventListener("keydown", (event) => event.stopPropagation());
  document.body.append(dialog);
  dialog.showModal();
  return dialog;
}

/** Asks for confirmation; resolves to whether it was given. `isLoss`: confirming loses something, so
 * Enter goes back. */
export function ask(title, text, action, { back = t("Go back"), isLoss = false } = {}) {
  return new Promise((resolve) => {
    let answer = false;
    const yes = () => {
      answer = true;
      dialog.close();
    };
    const dialog = openDialog(
      title,
      el("p", {}, text),
      el(
        "div",
        { class: "dialog-actions" },
        el("button", { class: "button", type: "button", autofocus: isLoss, onclick: () => dialog.close() }, back),
        el("button", { class: `button ${isLoss ? "button-danger" : "button-primary"}`, type: "button", autofocus: !isLoss, onclick: yes }, action),
      ),
    );
    dialog.addEventListener("close", () => resolve(answer));
  });
}

/** Table of keys for a `?` dialog: rows of [keys, what they do]. */
export function keysTable(rows) {
  const keys = (text) => text.split(" ").map((key) => (key === "/" ? " / " : el("kbd", {}, key)));
  return el(
    "table",
    { class: "keys" },
    rows.map(([names, what]) => el("tr", {}, el("td", {}, keys(names)), el("td", {}, what))),
  );
}
