// Figures and times as people read them. What is not known is a dash.

export const DASH = "–";

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
  const units = [
    ["d", 86_400],
    ["h", 3_600],
    ["min", 60],
    ["s", 1],
  ];
  const first = units.findIndex(([, size]) => seconds >= size);
  if (first < 0) return "under 1 s";
  const [name, size] = units[first];
  const whole = Math.floor(seconds / size);
  const [nextName, nextSize] = units[first + 1] ?? [];
  const rest = nextSize ? Math.floor((seconds - whole * size) / nextSize) : 0;
  return rest && whole < 10 ? `${whole} ${name} ${rest} ${nextName}` : `${whole} ${name}`;
}

/** How long ago, roughly. */
export function ago(time) {
  if (!time) return DASH;
  const seconds = (Date.now() - new Date(time)) / 1_000;
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
