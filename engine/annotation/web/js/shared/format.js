// Formats numbers and times. Unknown values become a dash.

export const DASH = "–";

const UNITS = [
  { name: "d", seconds: 86_400 },
  { name: "h", seconds: 3_600 },
  { name: "min", seconds: 60 },
  { name: "s", seconds: 1 },
];

const isNumber = (value) => typeof value === "number" && Number.isFinite(value);

export function count(value) {
  return isNumber(value) ? Math.round(value).toLocaleString("en") : DASH;
}

export function decimal(value, digits = 1) {
  return isNumber(value) ? value.toFixed(digits) : DASH;
}

/** A score as in papers: .565 */
export function score(value) {
  return isNumber(value) ? value.toFixed(3).replace(/^0/, "") : DASH;
}

export function percent(share) {
  return isNumber(share) ? `${Math.round(share * 100)} %` : DASH;
}

/** A span of time in its two largest units. */
export function duration(seconds) {
  if (!isNumber(seconds)) return DASH;
  const first = UNITS.findIndex((unit) => seconds >= unit.seconds);
  if (first < 0) return "under 1 s";
  const unit = UNITS[first];
  const next = UNITS[first + 1];
  const whole = Math.floor(seconds / unit.seconds);
  const rest = next ? Math.floor((seconds - whole * unit.seconds) / next.seconds) : 0;
  return rest && whole < 10 ? `${whole} ${unit.name} ${rest} ${next.name}` : `${whole} ${unit.name}`;
}

/** Seconds from one time to another, or to now. */
export function secondsBetween(start, end = null) {
  return ((end ? Date.parse(end) : Date.now()) - Date.parse(start)) / 1_000;
}

/** How long ago, roughly. */
export function ago(time) {
  if (!time) return DASH;
  const seconds = secondsBetween(time);
  if (seconds < 60) return "just now";
  return `${duration(seconds).split(" ").slice(0, 2).join(" ")} ago`;
}

export function dateTime(time) {
  return time ? new Date(time).toLocaleString([], { dateStyle: "medium", timeStyle: "short" }) : DASH;
}

/** "assisted_manual" -> "Assisted manual". */
export function words(name) {
  const text = String(name).replaceAll("_", " ");
  return text.charAt(0).toUpperCase() + text.slice(1);
}
