// Keys of the review page: which command a key is, and the table that `?` shows.

import { keysTable, openDialog } from "../shared/dom.js";
import { t } from "../shared/strings.js";

/** Reasons for a reject, as they are stored, and their texts. */
export const REASONS = [
  ["wrong object", t("wrong object")],
  ["too large", t("too large")],
  ["too small", t("too small")],
  ["ragged edge", t("ragged edge")],
  ["duplicate", t("duplicate")],
  ["not an object", t("not an object")],
];

/** The text of a stored reason, which scripts may have written themselves. */
export const reasonText = (reason) => REASONS.find(([stored]) => stored === reason)?.[1] ?? reason;

const COMMANDS = {
  a: "accept",
  r: "reject",
  f: "fix",
  u: "undo",
  c: "comment",
  t: "labelList",
  ".": "labelConfirm",
  x: "show",
  v: "look",
  Enter: "look",
  ArrowLeft: "left",
  ArrowRight: "right",
  ArrowUp: "up",
  ArrowDown: "down",
  Home: "first",
  End: "last",
  n: "nextLeft",
  0: "whole",
  "+": "zoomIn",
  "=": "zoomIn",
  "-": "zoomOut",
  Escape: "back",
  "?": "help",
};

const HELP = [
  ["← → ↑ ↓", t("move between masks")],
  ["A", t("accept")],
  ["R", t("reject; then 1 to 6 for the reason, Enter for none, Esc to undo")],
  ["F", t("fix it in the editor; Enter there keeps the fix and moves on")],
  ["U", t("undo the last verdict")],
  ["Shift A", t("accept all masks that have no verdict yet")],
  ["N", t("next mask without a verdict")],
  ["Enter / V", t("open one mask, and close it")],
  ["X", t("switch between outline, image only and mask only")],
  ["Y", t("show the mask before its fix (while held, or until the next short press)")],
  ["0 + -", t("whole image or mask, zoom in, zoom out; the wheel zooms, dragging pans")],
  [".", t("confirm the label that a mask has or that is suggested")],
  ["T", t("open the list of categories; their keys label too")],
  ["C", t("comment: then click the place on the image")],
  ["Ctrl Enter", t("submit and open the next image")],
  ["Ctrl Space", t("skip: to the back of the queue")],
];

/** Whether a key has a command, and so labels nothing. */
export const isCommand = (key) => key in COMMANDS || key === "y";

/** The command of a key press, or null. Digits are reasons while a reason is asked for. */
export function commandOf(event, isAskingReason) {
  if (event.ctrlKey || event.metaKey) {
    if (event.key === "Enter") return "submit";
    if (event.code === "Space") return "skip";
    if (event.key.toLowerCase() === "z") return "undo";
    return null;
  }
  if (event.altKey) return null;
  if (isAskingReason && REASONS[Number(event.key) - 1]) return `reason:${Number(event.key) - 1}`;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if (key === "a" && event.shiftKey) return "acceptRest";
  return COMMANDS[key] ?? null;
}

/** Whether the key press belongs to the focused control, not to the page. */
export function isForControl(event) {
  const { target } = event;
  if (target.closest?.("input, select, textarea, dialog")) return true;
  const isPress = (event.key === "Enter" || event.key === " ") && !event.ctrlKey && !event.metaKey;
  return isPress && Boolean(target.closest?.("button, a"));
}

/** `hasLabels`: whether the dataset has categories. */
export function showKeys(hasLabels) {
  const isShown = ([keys]) => hasLabels || (keys !== "." && keys !== "T");
  openDialog(t("Keys"), keysTable(HELP.filter(isShown)));
}
