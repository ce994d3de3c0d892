// Small charts in SVG: lines or bars over time, or points over names, with the values under the pointer.

import { el, svg } from "../shared/dom.js";
import { t } from "../shared/strings.js";

const HEIGHT = 11; // in rem
const STEPS = [1, 2, 2.5, 5, 10];

/** A chart that fills its container. `spec`: title, unit, series: [{name, style, points: [{x, label, y}]}],
 * isBars, isNamed (x are places of names, not times), fromZero, isWhole, format(y). `style` is 1, 2 or 3. */
export function chart(spec) {
  const plot = el("div", { class: "plot" });
  const figure = el(
    "figure",
    { class: "panel chart" },
    el("figcaption", {}, el("h3", {}, spec.title), legend(spec.series)),
    plot,
  );
  const size = new ResizeObserver(() => draw(plot, spec));
  size.observe(plot);
  return figure;
}

function legend(series) {
  if (series.length < 2) return null;
  return el(
    "span",
    { class: "legend" },
    series.map((one) => el("span", { class: `key key-${one.style}` }, one.name)),
  );
}

function draw(plot, spec) {
  const all = spec.series.flatMap((one) => one.points);
  if (!all.length) {
    plot.replaceChildren(el("p", { class: "muted chart-empty" }, spec.empty));
    return;
  }
  const rem = parseFloat(getComputedStyle(document.documentElement).fontSize);
  const width = Math.max(200, plot.clientWidth);
  const frame = frameOf(all, spec, width, HEIGHT * rem, rem);
  const picture = svg("svg", { width, height: HEIGHT * rem, role: "img", "aria-label": summary(spec) });
  picture.append(...yAxis(frame, spec), ...xAxis(frame, spec, all));
  for (const one of spec.series) picture.append(...(spec.isBars ? bars(one, frame) : line(one, frame)));
  plot.replaceChildren(picture);
  attachReading(plot, picture, frame, spec);
}

/** Maps values to places in the picture. */
function frameOf(all, spec, width, height, rem) {
  const ys = all.map((point) => point.y);
  const ticks = ticksOf(spec.fromZero ? 0 : Math.min(...ys), Math.max(...ys), spec.isWhole);
  const [low, high] = [ticks[0], ticks.at(-1)];
  const xs = all.map((point) => point.x);
  const [first, last] = [Math.min(...xs), Math.max(...xs)];
  const [left, right, top, bottom] = [2.9 * rem, width - 1.2 * rem, 0.7 * rem, height - 1.6 * rem];
  const pad = spec.isBars || spec.isNamed ? Math.min(2.5 * rem, (right - left) / 8) : 0.4 * rem;
  const x = (value) =>
    first === last ? (left + right) / 2 : left + pad + ((value - first) / (last - first)) * (right - left - 2 * pad);
  const y = (value) => bottom - ((value - low) / (high - low)) * (bottom - top);
  return { x, y, ticks, left, right, top, bottom, rem };
}

/** Round values from below the smallest to above the largest value. */
function ticksOf(least, greatest, isWhole) {
  const span = greatest - least || Math.abs(greatest) || 1;
  const power = 10 ** Math.floor(Math.log10(span / 3));
  const fitting = STEPS.map((factor) => factor * power).find((size) => span / size <= 3.6) ?? 10 * power;
  const step = isWhole ? Math.ceil(fitting) : fitting;
  const start = Math.floor(least / step + 1e-9);
  const end = Math.max(start + 1, Math.ceil(greatest / step - 1e-9));
  return Array.from({ length: end - start + 1 }, (_, index) => (start + index) * step);
}

function yAxis({ ticks, y, left, right, rem }, spec) {
  return ticks.flatMap((tick) => [
    svg("line", { class: "grid-line", x1: left, x2: right, y1: y(tick), y2: y(tick) }),
    svg(
      "text",
      { class: "tick", x: left - 0.4 * rem, y: y(tick) + 0.28 * rem, "text-anchor": "end" },
      spec.format(tick),
    ),
  ]);
}

function xAxis({ x, bottom, left, right, rem }, spec, all) {
  const points = [...new Map(all.map((point) => [point.x, point])).values()].sort((a, b) => a.x - b.x);
  const room = Math.max(2, Math.floor((right - left) / (7 * rem)));
  const step = Math.max(1, Math.ceil(points.length / room));
  const span = points.at(-1).x - points[0].x;
  return points
    .filter((_, index) => (points.length - 1 - index) % step === 0)
    .map((point) => {
      // a label near the edge ends there, otherwise it is cut off
      const isAtEdge = right - x(point.x) < 2 * rem;
      const [place, anchor] = isAtEdge ? [right + rem, "end"] : [x(point.x), "middle"];
      return svg(
        "text",
        { class: "tick", x: place, y: bottom + 1.2 * rem, "text-anchor": anchor },
        spec.isNamed ? shortened(point.label) : timeLabel(point.x, span),
      );
    });
}

function shortened(text) {
  return text.length > 14 ? `…${text.slice(-13)}` : text;
}

function timeLabel(time, span) {
  const date = new Date(time);
  if (span < 36 * 3_600_000) return date.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
  return date.toLocaleDateString([], { month: "short", day: "numeric" });
}

function line({ points, style }, { x, y, rem }) {
  const path = points
    .map((point, index) => `${index ? "L" : "M"}${x(point.x).toFixed(1)} ${y(point.y).toFixed(1)}`)
    .join("");
  const dots =
    points.length <= 40
      ? points.map((point) =>
          svg("circle", { class: `dot dot-${style}`, cx: x(point.x), cy: y(point.y), r: 0.2 * rem }),
        )
      : [];
  return [svg("path", { class: `line line-${style}`, d: path }), ...dots];
}

function bars({ points, style }, { x, y, left, right, bottom, rem }) {
  const gaps = points.slice(1).map((point, index) => x(point.x) - x(points[index].x));
  const width = Math.max(2, Math.min(2 * rem, 0.7 * Math.min(right - left, ...gaps)));
  return points.map((point) =>
    svg("rect", {
      class: `bar bar-${style}`,
      x: x(point.x) - width / 2,
      y: y(point.y),
      width,
      height: Math.max(0, bottom - y(point.y)),
      rx: Math.min(3, width / 4),
    }),
  );
}

/** Shows the values nearest to the pointer beside it. */
function attachReading(plot, picture, frame, spec) {
  const mark = svg("line", { class: "reading-line", y1: frame.top, y2: frame.bottom, visibility: "hidden" });
  const text = el("div", { class: "reading", hidden: true });
  picture.append(mark);
  plot.append(text);
  const xs = [...new Set(spec.series.flatMap((one) => one.points.map((point) => point.x)))];
  picture.addEventListener("pointermove", (event) => {
    const at = xs.reduce((best, x) =>
      Math.abs(frame.x(x) - event.offsetX) < Math.abs(frame.x(best) - event.offsetX) ? x : best,
    );
    const found = spec.series.flatMap((one) =>
      one.points.filter((point) => point.x === at).map((point) => ({ ...point, name: one.name })),
    );
    mark.setAttribute("x1", frame.x(at));
    mark.setAttribute("x2", frame.x(at));
    mark.setAttribute("visibility", "visible");
    const title = spec.isNamed
      ? found[0].label
      : new Date(at).toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
    text.replaceChildren(
      el("strong", {}, title),
      ...found.map((point) => el("div", {}, `${point.name}: ${spec.format(point.y)}`)),
    );
    text.hidden = false;
    const isRight = frame.x(at) > (frame.left + frame.right) / 2;
    text.style.left = isRight ? "" : `${frame.x(at) + frame.rem * 0.6}px`;
    text.style.right = isRight ? `${plot.clientWidth - frame.x(at) + frame.rem * 0.6}px` : "";
  });
  picture.addEventListener("pointerleave", () => {
    text.hidden = true;
    mark.setAttribute("visibility", "hidden");
  });
}

function summary(spec) {
  const parts = spec.series
    .filter((one) => one.points.length)
    .map((one) => t("{name}: last {value}", { name: one.name, value: spec.format(one.points.at(-1).y) }));
  return `${spec.title}. ${parts.join("; ")}`;
}
