"""The picture of `tests.benchmarks.engine_value`: clicks and model scores over the rounds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = {"loop": "#1f5fbf", "no_retraining": "#8a8a8a", "manual": "#c8641e"}
NAMES = {"loop": "loop", "no_retraining": "without retraining", "manual": "masks drawn by hand"}
PANEL = (3.1, 2.5)
"""Width and height of a panel in inches."""


def draw_curves(domains: dict[str, dict[str, list[dict[str, Any]]]], path: Path) -> None:
    """Write a picture with a row of three panels for each domain, from its rows by arm: clicks per
    mask of each round; mean IoU after one click, with intervals, and AP of automatic masks, of the
    model after each round. A star marks a round whose model was promoted."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3 * PANEL[0], len(domains) * PANEL[1]), layout="constrained")
    grid = figure.subplots(len(domains), 3, squeeze=False)
    for panels, (domain, arms) in zip(grid, domains.items(), strict=True):
        _draw_clicks(panels[0], arms)
        _draw_scores(panels[1], arms, "miou_1_click", "IoU after one click")
        _draw_scores(panels[2], arms, "ap", "AP of automatic masks")
        panels[0].set_ylabel(domain.replace("_", " "), fontweight="bold")
    for panel in grid[-1]:
        panel.set_xlabel("round")
    handles, names = grid[0][1].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=len(names), frameon=False)
    figure.savefig(path, dpi=110)


def _draw_clicks(panel: Axes, arms: dict[str, list[dict[str, Any]]]) -> None:
    panel.set_title("clicks per mask", fontsize=10)
    for arm in ("no_retraining", "loop"):
        clicks = [row["clicks_per_mask"] for row in arms[arm]]
        panel.plot(range(1, len(clicks) + 1), clicks, "o-", color=COLOURS[arm])
    _tidy(panel, range(1, len(arms["loop"]) + 1))
    panel.set_ylim(bottom=0)


def _draw_scores(
    panel: Axes, arms: dict[str, list[dict[str, Any]]], score: str, title: str
) -> None:
    panel.set_title(title, fontsize=10)
    rows = arms["loop"]
    rounds = range(len(rows) + 1)
    models = [rows[0]["before"], *(row["after"] for row in rows)]
    values = [model[score] for model in models]
    if f"{score}_ci" in models[0]:
        low, high = zip(*(model[f"{score}_ci"] for model in models), strict=True)
        panel.fill_between(rounds, low, high, color=COLOURS["loop"], alpha=0.12, linewidth=0)
    panel.plot(rounds, values, "o-", color=COLOURS["loop"], label=NAMES["loop"])
    promoted = [number for number, row in enumerate(rows, 1) if row["promoted"]]
    stars = [values[number] for number in promoted]
    panel.plot(promoted, stars, "*", markersize=13, color=COLOURS["loop"])
    for arm in ("no_retraining", "manual"):
        last = arms[arm][-1]["after"][score]
        panel.axhline(last, color=COLOURS[arm], linestyle="--", label=NAMES[arm])
    _tidy(panel, rounds)


def _tidy(panel: Axes, rounds: range) -> None:
    panel.set_xticks(rounds)
    panel.grid(axis="y", alpha=0.3)
    panel.spines[["top", "right"]].set_visible(False)
