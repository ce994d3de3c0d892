"""Figures of a release: as SVG in the report's colours, and as PNG beside the dataset card."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from flows.release.report_html import PAGE_COLORS, Panel, svg_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PNG_DPI = 120


@dataclass(frozen=True, slots=True)
class Palette:
    """Colours of a figure."""

    quiet: str
    line: str
    first: str
    second: str
    card: str
    ink: str


PAGE = Palette(*PAGE_COLORS)
"""Stand for the page's colours, light or dark."""
PLAIN = Palette("#59626d", "#e2e5ea", "#0b66c3", "#c2540a", "#ffffff", "#14181d")

Plot = Callable[["Axes", Palette], None]


@dataclass(frozen=True, slots=True)
class FigureOf:
    """One figure: `hint` says how to read it, `summary` is its content as text."""

    key: str
    title: str
    hint: str
    summary: str
    plot: Plot

    @property
    def file(self) -> str:
        """The name of its PNG file."""
        return f"figure-{self.key}.png"


def panels(stats: dict[str, Any]) -> list[Panel]:
    """The figures of a release's `description` for its report."""
    return [
        Panel(one.title, one.hint, one.summary, svg_of(_drawn(one, PAGE), one.key))
        for one in figures(stats)
    ]


def write_pngs(stats: dict[str, Any], folder: Path) -> list[tuple[str, str]]:
    """Write the figures of a release's `description` as PNG files; return titles and file names.

    Raises:
        OSError: the disk is full.
    """
    written = []
    for one in figures(stats):
        # no version of matplotlib in the file: it shall be equal wherever it is drawn
        figure = _drawn(one, PLAIN)
        figure.axes[0].set_title(one.title, fontsize=9, loc="left", color=PLAIN.ink)
        figure.savefig(
            folder / one.file, dpi=PNG_DPI, facecolor=PLAIN.card, metadata={"Software": None}
        )
        written.append((one.title, one.file))
    return written


def figures(stats: dict[str, Any]) -> list[FigureOf]:
    """The figures of a release's `description`; none without masks."""
    if not stats["masks"]:
        return []
    per_image, size = stats["per_image"], stats["size"]
    edges = per_image["edges"]
    bins = [*(f"<{high}" for high in edges[1:]), f"{edges[-1]}+"]
    published = stats["sa_1b"]["masks_per_image"]
    found = [
        FigureOf(
            "masks-per-image",
            "Masks per image",
            f"Images by their number of masks; mean {per_image['mean']:.1f}. SA-1B has about "
            f"{published}.",
            _told(bins, per_image["counts"], "images"),
            lambda axes, colors: _named_bars(axes, colors, bins, per_image["counts"]),
        ),
        FigureOf(
            "size",
            "Relative mask size",
            "√(mask area / image area), share of masks. SA-1B’s curve is published without "
            "numbers.",
            _told(_ranges(size["edges"]), size["counts"], "masks"),
            lambda axes, colors: _bars(axes, colors, size),
        ),
        FigureOf(
            "concavity",
            "Concavity by size",
            "1 − mask area / area of its convex hull: median and quartiles of a sample, by "
            "relative size.",
            _concavity_told(stats["concavity"]),
            lambda axes, colors: _quartiles(axes, colors, stats["concavity"]),
        ),
        FigureOf(
            "centres",
            "Centres of masks",
            "Where the boxes’ centres lie in the image; darker is more. SA-1B’s map is published "
            "without numbers.",
            _centres_told(stats["centres"]),
            lambda axes, colors: _map(axes, colors, stats["centres"]),
        ),
    ]
    scores = {
        "predicted_iou": ("Predicted IoU", "The model’s own estimate, of masks that have one."),
        "stability_score": ("Stability", "IoU of the mask at two thresholds of its logits."),
    }
    for name, (title, hint) in scores.items():
        if (values := stats[name])["mean"] is not None:
            found.append(_score_figure(name, title, hint, values))
    return found


def _score_figure(name: str, title: str, hint: str, values: dict[str, Any]) -> FigureOf:
    return FigureOf(
        name.replace("_", "-"),
        title,
        f"{hint} Mean {values['mean']:.2f}.",
        _told(_ranges(values["edges"]), values["counts"], "masks"),
        lambda axes, colors: _bars(axes, colors, values),
    )


def _ranges(edges: Sequence[float]) -> list[str]:
    return [f"{low:g} to {high:g}" for low, high in pairwise(edges)]


def _told(names: Sequence[str], counts: Sequence[int], unit: str) -> str:
    parts = (f"{name}: {n:,}" for name, n in zip(names, counts, strict=True) if n)
    return f"{unit.capitalize()} by range. {'; '.join(parts)}."


def _concavity_told(ranges: list[dict[str, Any]]) -> str:
    parts = [
        f"size {one['low']:g} to {one['high']:g}: {one['quartiles'][1]:.2f}"
        for one in ranges
        if one["quartiles"]
    ]
    return f"Median concavity. {'; '.join(parts)}."


def _centres_told(centres: list[list[int]]) -> str:
    cells = np.array(centres)
    half = len(cells) // 4
    middle = cells[half:-half, half:-half].sum() / max(1, cells.sum())
    return f"{middle:.0%} of the centres lie in the middle quarter of the image."


def _drawn(one: FigureOf, colors: Palette) -> Figure:
    import matplotlib  # slow to import
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": one.key}):
        figure = Figure(figsize=(4.7, 2.6))
        axes = figure.add_axes((0.1, 0.12, 0.87, 0.78))
        axes.tick_params(length=0, labelcolor=colors.quiet, labelsize=8, pad=4)
        axes.spines[["left", "right", "top"]].set_visible(False)
        axes.spines["bottom"].set_color(colors.line)
        axes.set_facecolor("none")
        axes.set_axisbelow(True)
        one.plot(axes, colors)
    return figure


def _grid(axes: Axes, colors: Palette) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
    axes.grid(axis="y", color=colors.line, linewidth=0.8)


def _named_bars(axes: Axes, colors: Palette, names: Sequence[str], counts: Sequence[int]) -> None:
    axes.bar(range(len(names)), counts, color=colors.first, width=0.8)
    axes.set_xticks(range(len(names)), names)
    _grid(axes, colors)


def _bars(axes: Axes, colors: Palette, values: dict[str, Any]) -> None:
    """Shares of a histogram, cut to the bins that have any."""
    counts, edges = np.array(values["counts"]), np.array(values["edges"])
    used = np.flatnonzero(counts)
    widths = np.diff(edges)
    axes.bar(edges[:-1], counts / counts.sum(), widths * 0.9, align="edge", color=colors.first)
    axes.set_xlim(edges[used[0]], edges[used[-1] + 1])
    _grid(axes, colors)


def _quartiles(axes: Axes, colors: Palette, ranges: list[dict[str, Any]]) -> None:
    for place, one in enumerate(ranges):
        if one["quartiles"] is None:
            continue
        low, middle, high = one["quartiles"]
        axes.bar(place, high - low, bottom=low, width=0.55, color=colors.first, alpha=0.35)
        axes.plot([place - 0.275, place + 0.275], [middle] * 2, color=colors.first, linewidth=2)
    names = [f"{one['low']:g}–{one['high']:g}" for one in ranges]
    axes.set_xticks(range(len(names)), names)
    axes.set_xlim(-0.6, len(names) - 0.4)
    axes.set_ylim(bottom=0)
    _grid(axes, colors)


def _map(axes: Axes, colors: Palette, centres: list[list[int]]) -> None:
    from matplotlib.collections import PolyCollection
    from matplotlib.colors import to_rgba

    cells = np.array(centres, float)
    most = max(cells.max(), 1.0)
    used = np.argwhere(cells)
    square = np.array([[0.03, 0.03], [0.97, 0.03], [0.97, 0.97], [0.03, 0.97]])
    shades = [to_rgba(colors.first, min(1.0, 0.08 + 0.92 * cells[y, x] / most)) for y, x in used]
    axes.add_collection(PolyCollection(used[:, None, ::-1] + square, facecolors=shades))
    axes.set_xlim(0, cells.shape[1])
    axes.set_ylim(cells.shape[0], 0)
    axes.set_aspect(0.6)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(True)
    axes.spines[:].set_color(colors.line)
