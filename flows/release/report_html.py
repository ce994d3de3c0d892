"""Renders a loop's results as one self-contained HTML file: figures, charts and pictures.

The file has no script and loads nothing, as its content security policy enforces. All text is
escaped: names of files and datasets are untrusted. Drawing a chart sets matplotlib's SVG options
temporarily; pyplot and its global figures are not used.
"""

from __future__ import annotations

import base64
import io
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import jinja2
import numpy as np
from markupsafe import Markup

from engine.core.overlay import shrink
from storage.formats.images import write_jpeg

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MISSING = "–"
"""Text for an unknown value."""

PICTURE_SIDE = 640
"""Longer side in pixels of the pictures inside the file."""

_STAGES = {
    "assisted_manual": ("Assisted manual", "assisted"),
    "semi_automatic": ("Semi-automatic", "semi-auto"),
    "fully_automatic": ("Fully automatic", "automatic"),
}
# Charts use these unique colours, which are then replaced by the page's, light or dark.
_COLORS = {
    "#010201": "var(--quiet)",
    "#010202": "var(--line)",
    "#010203": "var(--first)",
    "#010204": "var(--second)",
    "#010205": "var(--card)",
    "#010206": "var(--ink)",
}
_QUIET, _LINE, _FIRST, _SECOND, _CARD, _INK = _COLORS
PAGE_COLORS = tuple(_COLORS)
"""What figures are drawn in for `svg_of`: quiet, line, first, second, card, ink."""
_LABELS = 9
"""Charts with up to this many rounds label every value, others the first and the last."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RoundRow:
    """One round: numbers of images and masks, an annotator's cost per mask, and the model.

    `clicks_per_mask` and `seconds_per_mask` are means over all masks of the round; `miou_*` are
    scores on held-out images in [0, 1]. None: the value is unknown.
    """

    stage: str
    round: int
    images: int
    masks: int
    masks_per_image: float
    clicks_per_mask: float | None
    seconds_per_mask: float | None
    model: str
    miou_1_click: float | None
    miou_3_clicks: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """`image_HWC` is the overlay, `before_HWC` the plain image beside it; RGB uint8, any size."""

    title: str
    """Adjacent pictures with the same title form a group under it."""
    caption: str
    before_HWC: np.ndarray | None
    image_HWC: np.ndarray


@dataclass(frozen=True, slots=True)
class Panel:
    """A figure of `svg_of`; `hint` says how to read it, `summary` is its content as text."""

    title: str
    hint: str
    summary: str
    svg: Markup


@dataclass(frozen=True, kw_only=True, slots=True)
class Sheet:
    """A table; cells are text, the first column names the row."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """Contents of a report; lists are in display order."""

    title: str
    subtitle: str
    rounds: list[RoundRow]
    pictures: list[Picture]
    facts: list[tuple[str, str]]
    """(label, value) of the cards on top."""
    created_at: datetime
    """Time with a time zone; the report shows UTC."""
    notes: list[str]
    panels: Sequence[Panel] = ()
    """Figures of a release's masks."""
    sheets: Sequence[Sheet] = ()
    findings: Sequence[str] = ()
    """Sentences beside the figures."""
    thin: Sequence[str] = ()
    """Sentences on what the release has too little of."""


@dataclass(frozen=True, slots=True)
class _Series:
    name: str
    color: str
    values: list[float]
    """NaN: the value is unknown."""

    @property
    def known(self) -> list[float]:
        return [value for value in self.values if math.isfinite(value)]


@dataclass(frozen=True, slots=True)
class _Chart:
    title: str
    hint: str
    digits: int
    series: list[_Series]
    svg: Markup | None = None

    @property
    def key(self) -> str:
        return self.title.replace(" ", "-")

    @property
    def summary(self) -> str:
        """The chart as text, for screen readers."""
        parts = []
        for series in self.series:
            values = ", ".join(_number(value, self.digits) for value in series.values)
            parts.append(f"{series.name}: {values}")
        return f"{self.title} over {len(self.series[0].values)} rounds. " + "; ".join(parts)


@dataclass(frozen=True, slots=True)
class _View:
    """A picture for the template; `image` and `before` are data URIs, sizes in pixels."""

    title: str
    caption: str
    before: str | None
    image: str
    width: int
    height: int


def render_report(report: Report) -> str:
    """Return the report as one self-contained HTML page, to be written as UTF-8.

    Raises:
        ValueError: created_at has no time zone, or a picture is not RGB uint8 (H, W, 3).
    """
    if report.created_at.tzinfo is None:
        raise ValueError(f"created_at needs a time zone, got {report.created_at!r}")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": _number, "count": _count, "stage": stage_name, "span": _span}
    page = environment.get_template("report.html.j2").render(
        report=report,
        created_at=report.created_at.astimezone(UTC),
        charts=[_drawn(chart, report.rounds) for chart in _charts(report.rounds)],
        gallery=_gallery(report.pictures),
    )
    # File names can contain non-UTF-8 bytes as lone surrogates, which become "?".
    return page.encode("utf-8", "replace").decode("utf-8")


def stage_name(stage: str) -> str:
    """Return a stage's display name; for an unknown stage, its own name."""
    return _STAGES[stage][0] if stage in _STAGES else stage.replace("_", " ")


def _number(value: float | None, digits: int) -> str:
    if value is None or not math.isfinite(value):
        return MISSING
    return f"{value:,.{digits}f}"


def _count(value: int) -> str:
    return f"{value:,}"


def _span(series: _Series, digits: int) -> str:
    """Format the first and last known value: "4.2 → 1.3"."""
    known = series.known
    ends = known if len(known) < 2 else [known[0], known[-1]]
    return " → ".join(_number(value, digits) for value in ends) or MISSING


def _gallery(pictures: Sequence[Picture]) -> list[tuple[str, list[_View]]]:
    """Return (heading, pictures) pairs: adjacent pictures of one title under a heading, others
    under ""."""
    groups: list[tuple[str, list[_View]]] = []
    for title, members in groupby(pictures, key=lambda picture: picture.title):
        views = [_view(picture) for picture in members]
        if len(views) > 1:
            groups.append((title, views))
        elif groups and not groups[-1][0]:
            groups[-1][1].extend(views)
        else:
            groups.append(("", views))
    return groups


def _view(picture: Picture) -> _View:
    small = shrink(picture.image_HWC, PICTURE_SIDE)
    before = picture.before_HWC
    return _View(
        picture.title,
        picture.caption,
        None if before is None else _data_uri(shrink(before, PICTURE_SIDE)),
        _data_uri(small),
        small.shape[1],
        small.shape[0],
    )


def _data_uri(image_HWC: np.ndarray) -> str:
    coded = base64.b64encode(write_jpeg(image_HWC, quality=84)).decode("ascii")
    return f"data:image/jpeg;base64,{coded}"


def _charts(rounds: Sequence[RoundRow]) -> list[_Chart]:
    def series(name: str, color: str, of: Callable[[RoundRow], float | None]) -> _Series:
        found = [of(row) for row in rounds]
        values = [math.nan if v is None or not math.isfinite(v) else float(v) for v in found]
        return _Series(name, color, values)

    clicks = series("Clicks per mask", _FIRST, lambda row: row.clicks_per_mask)
    seconds = series("Seconds per mask", _FIRST, lambda row: row.seconds_per_mask)
    density = series("Masks per image", _FIRST, lambda row: row.masks_per_image)
    one = series("1 click", _FIRST, lambda row: row.miou_1_click)
    three = series("3 clicks", _SECOND, lambda row: row.miou_3_clicks)
    if not rounds:
        return []
    return [
        _Chart("Clicks per mask", "A person’s clicks. Lower is better.", 2, [clicks]),
        _Chart("Seconds per mask", "A person’s time. Lower is better.", 1, [seconds]),
        _Chart("Masks per image", "How much of each image is labelled.", 1, [density]),
        _Chart("Held-out mIoU", "Never trained on. Higher is better.", 3, [one, three]),
    ]


def _drawn(chart: _Chart, rounds: Sequence[RoundRow]) -> _Chart:
    """Return the chart with its SVG, or without if no value is known."""
    if not any(series.known for series in chart.series):
        return chart
    from matplotlib.figure import Figure  # slow to import

    figure = Figure(figsize=(4.7, 2.35))
    axes = figure.add_axes((0.085, 0.2, 0.885, 0.76))
    _prepare(axes, chart, rounds)
    known = [series for series in chart.series if series.known]
    highest = max(known, key=lambda series: max(series.known))
    for series in known:
        _draw(axes, series, chart.digits, above=series is highest)
    svg = svg_of(figure, chart.key)
    return _Chart(chart.title, chart.hint, chart.digits, chart.series, svg)


def svg_of(figure: Figure, key: str) -> Markup:
    """A figure drawn in PAGE_COLORS as a part of the page. `key`: unique in the page."""
    import matplotlib

    file = io.BytesIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    # Text stays text; the salt makes ids unique per chart and equal in every run.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": key}):
        figure.savefig(file, format="svg", transparent=True, metadata=nothing)
    return Markup(_for_page(file.getvalue().decode()))  # noqa: S704 - text in it is escaped


def _prepare(axes: Axes, chart: _Chart, rounds: Sequence[RoundRow]) -> None:
    """Set up axes and grid, with round numbers and stages below."""
    from matplotlib.ticker import MaxNLocator

    known = [value for series in chart.series for value in series.known]
    low, high = (min(known), max(known)) if len(chart.series) > 1 else (0.0, max(known))
    room = max(high - low, 0.02) * 0.25  # for the labels
    axes.set_ylim(max(low - room, 0), high + room)
    axes.set_xlim(-0.5, len(rounds) - 0.5)
    axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
    axes.tick_params(length=0, labelcolor=_QUIET, pad=5)
    axes.grid(axis="y", color=_LINE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["left", "right", "top"]].set_visible(False)
    axes.spines["bottom"].set_color(_LINE)
    step = math.ceil(len(rounds) / 14)
    shown = range(0, len(rounds), step)
    axes.set_xticks(list(shown), [str(rounds[index].round) for index in shown])
    below = axes.get_xaxis_transform()
    start = 0
    for stage, members in groupby(rounds, key=lambda row: row.stage):
        end = start + len(list(members))
        if start:
            axes.axvline(start - 0.5, ymin=-0.26, color=_LINE, linewidth=0.8, clip_on=False)
        name = _plain(_STAGES[stage][1] if stage in _STAGES else stage)
        axes.text(
            (start + end - 1) / 2,
            -0.215,
            name,
            transform=below,
            color=_QUIET,
            ha="center",
            parse_math=False,
        )
        start = end


def _draw(axes: Axes, series: _Series, digits: int, *, above: bool) -> None:
    values = np.array(series.values)
    axes.plot(
        values, color=series.color, linewidth=2, marker="o", markersize=6, markeredgewidth=1.5,
        markeredgecolor=_CARD, clip_on=False, solid_capstyle="round", solid_joinstyle="round",
    )  # fmt: skip
    known = np.flatnonzero(np.isfinite(values))
    for index in known if len(values) <= _LABELS else known[[0, -1]]:
        axes.annotate(
            _number(values[index], digits),
            (index, values[index]),
            xytext=(0, 7 if above else -8),
            textcoords="offset points",
            ha="center",
            va="bottom" if above else "top",
            color=_INK,
        )


def _plain(text: str) -> str:
    """Return a stage name that matplotlib's font can show, at most 14 characters."""
    return "".join(c if c.isascii() and c.isprintable() else "?" for c in text)[:14]


def _for_page(svg: str) -> str:
    """Convert Matplotlib's SVG file to a part of the page: its colours and fonts, unique ids."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", svg, count=1, flags=re.DOTALL)
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<svg [^>]*?(viewBox="[^"]*")[^>]*>', r'<svg \1 aria-hidden="true">', svg)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = re.sub(r"font-size: [^;\"]*; font-family: [^;\"]*;? ?", "", svg)
    svg = re.sub(r"\s*\n\s*", " ", svg)
    for drawn, shown in _COLORS.items():
        svg = svg.replace(drawn, shown)
    return svg
