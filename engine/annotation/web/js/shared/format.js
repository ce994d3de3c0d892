// Formats numbers and times in the page's language. Unknown values become a dash.

import { LOCALE, t } from "./strings.js";

export { words } from "./names.js";

export const DASH = "–";

const UNITS = [
  { seconds: 86_400, shown: (n) => t("{n} d", { n }) },
  { seconds: 3_600, shown: (n) => t("{n} h", { n }) },
  { seconds: 60, shown: (n) => t("{n} min", { n }) },
  { seconds: 1, shown: (n) => t("{n} s", { n }) },
];
const POINT = (0.5).toLocaleString(LOCALE).replace(/\p{N}/gu, ""); // before decimals

const isNumber = (value) => typeof value === "number" && Number.isFinite(value);

export function count(value) {
  return isNumber(value) ? Math.round(value).toLocaleString(LOCALE) : DASH;
}

export function decimal(value, digits = 1) {
  return isNumber(value) ? value.toFixed(digits).replace(".", POINT) : DASH;
}

/** A score as in papers: .565, in all languages. */
export function score(value) {
  return isNumber(value) ? value.toFixed(3).replace(/^0/, "") : DASH;
}

export function percent(share) {
  return isNumber(share) ? t("{n} %", { n: Math.round(share * 100) }) : DASH;
}

/** A span of time in its two largest units. */
export function duration(seconds) {
  return isNumber(seconds) ? spanOf(seconds).join(" ") : DASH;
}

/** @returns {string[]} one part, or two */
function spanOf(seconds) {
  const first = UNITS.findIndex((unit) => seconds >= unit.seconds);
  if (first < 0) return [t("under 1 s")];
  const unit = UNITS[first];
  const next = UNITS[first + 1];
  const whole = Math.floor(seconds / unit.seconds);
  const rest = next ? Math.floor((seconds - whole * unit.seconds) / next.seconds) : 0;
  return rest && whole < 10 ? [unit.shown(whole), next.shown(rest)] : [unit.shown(whole)];
}

/** Seconds from one time to another, or to now. */
export function secondsBetween(start, end = null) {
  return ((end ? Date.parse(end) : Date.now()) - Date.parse(start)) / 1_000;
}

/** How long ago, roughly. */
export function ago(time) {
  if (!time) return DASH;
  const seconds = secondsBetween(time);
  if (seconds < 60) return t("just now");
  return t("{time} ago", { time: spanOf(seconds)[0] });
}

export function dateTime(time) {
  return time ? new Date(time).toLocaleString(LOCALE, { dateStyle: "medium", timeStyle: "short" }) : DASH;
}
