// What the review page shows around its masks: facts of the task, counts of verdicts, reasons, messages.

import { api } from "../shared/api.js";
import { byId, el } from "../shared/dom.js";
import { count } from "../shared/format.js";
import { t } from "../shared/strings.js";
import { REASONS } from "./keys.js";

const MAX_SIDE = 4096; // larger images are shown reduced

export async function loadPicture(image) {
  const picture = new Image();
  const isLarge = Math.max(image.width, image.height) > MAX_SIDE;
  picture.src = api.imageUrl(image.id, isLarge ? MAX_SIDE : undefined);
  try {
    await picture.decode();
  } catch {
    throw new Error(t("The picture of {name} could not be loaded.", { name: image.file_name }));
  }
  return picture;
}

/** Shows or hides the parts of the page that belong to a task. */
export function showParts(isTask) {
  for (const id of ["toolbar", "grid", "commands"]) byId(id).hidden = !isTask;
  if (!isTask) for (const id of ["single", "fix", "reasons", "task-note", "candidates"]) byId(id).hidden = true;
  if (isTask) byId("empty").hidden = true;
}

export function showFacts(task, isRestored) {
  const { file_name: name, width, height } = task.image;
  const waiting = task.waiting ? t("{n} more waiting", { n: count(task.waiting) }) : t("the last one");
  byId("file-name").textContent = name;
  byId("file-name").title = name;
  byId("task-facts").textContent = [task.dataset, `${width} × ${height}`, waiting].join(" · ");
  byId("saved").textContent = isRestored ? t("Restored") : "";
  byId("task-note").textContent = task.note ?? "";
  byId("task-note").hidden = !task.note;
}

export function showSaved(time) {
  byId("saved").textContent = t("Saved {time}", { time: time.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" }) });
}

export function showTally({ accept, reject, fix, left }) {
  const badges = [
    [accept, t("{n} accepted", { n: count(accept) }), "badge-good"],
    [reject, t("{n} rejected", { n: count(reject) }), "badge-bad"],
    [fix, t("{n} fixed", { n: count(fix) }), "badge-accent"],
    [left, t("{n} left", { n: count(left) }), ""],
  ];
  const shown = badges.filter(([number]) => number > 0);
  byId("tally").replaceChildren(...shown.map(([, text, style]) => el("span", { class: `badge ${style}` }, text)));
  byId("accept-rest").disabled = left === 0;
  byId("accept-rest").textContent = left ? t("Accept the remaining {n}", { n: count(left) }) : t("All masks judged");
  byId("submit").classList.toggle("button-primary", left === 0);
}

/** Asks why a mask is rejected: `give(number)` with a reason, `skip()` without. */
export function askReason(give, skip) {
  const button = (style, key, text, onclick) =>
    el("button", { class: `button ${style}`, type: "button", onclick }, el("kbd", {}, key), text);
  byId("reasons").replaceChildren(
    t("Why?"),
    ...REASONS.map(([, text], number) => button("", String(number + 1), text, () => give(number))),
    button("button-quiet", "Enter", t("no reason"), skip),
  );
  byId("reasons").hidden = false;
}

export function hideReasons() {
  byId("reasons").hidden = true;
}

/** `take`: called by the button. */
export function showEmpty(title, text, take) {
  const button = el("button", { class: "button button-primary", type: "button", onclick: take }, t("Open the next image"));
  byId("empty").replaceChildren(el("h2", {}, title), el("p", {}, text), button);
  byId("empty").hidden = false;
}
