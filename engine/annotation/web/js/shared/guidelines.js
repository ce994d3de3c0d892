// The guidelines of a dataset in a dialog, and whether they have changed since somebody read them here.

import { api } from "./api.js";
import { el, openDialog } from "./dom.js";
import { dateTime } from "./format.js";
import { t } from "./strings.js";

const keyOf = (dataset) => `dataengine:guidelines:${dataset}`;
const known = new Map(); // version by dataset, once per page

function readVersion(dataset) {
  try {
    return Number(localStorage.getItem(keyOf(dataset)) ?? 0);
  } catch {
    return Infinity; // without storage nothing is marked as new
  }
}

function keepVersion(dataset, version) {
  try {
    localStorage.setItem(keyOf(dataset), String(version));
  } catch {
    // the mark comes again, and that is all
  }
}

/** Whether a dataset has guidelines of its own that were not opened in this browser. */
export async function areNew(dataset) {
  try {
    if (!known.has(dataset)) known.set(dataset, (await api.guidelines(dataset)).version);
  } catch {
    return false; // whoever opens them sees why
  }
  return known.get(dataset) > readVersion(dataset);
}

/** Opens the guidelines of a dataset; null: the usual ones. */
export async function openGuidelines(dataset) {
  const found = await api.guidelines(dataset);
  const text = el("div", { class: "guidelines" });
  text.innerHTML = found.html; // the server escapes HTML in the Markdown
  const since = found.version ? t("Version {version}, {time}", { version: found.version, time: dateTime(found.at) }) : null;
  openDialog(t("Guidelines"), since && el("p", { class: "muted small" }, since), text).id = "guidelines-dialog";
  if (dataset === null) return;
  known.set(dataset, found.version);
  keepVersion(dataset, found.version);
}
