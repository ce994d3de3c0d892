"""What choosing the images of a round saves: masks until the same score on held-out images.

    python -m tests.benchmarks.quality_choice --data DATA --json

`lite` makes automatic masks of `--pool` images. Each arm begins from a copy of that workspace: one
round of stage 1 by simulated annotators on images of one choice, then one retrain. All candidates,
promoted or not, are scored with one click on images that no workspace has. Random choice is run
with a half, one and two times `--images`; `ratio` is the masks of a choice divided by those
that random choice needs for the same score, interpolated between its arms. It is null if the score
lies outside of theirs; if it is above all of theirs, the ratio is below `ratio_below`, the masks
divided by those of the largest random arm.

The last line of `--json` is one JSON object: `choice_masks_ratio` and `choice_masks_ratio_below`,
by choice, `choice_gain`, the paired gain in one click over random choice of as many images, with
its 95 % interval, and `arms`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from engine.core.records import Stage
from engine.evaluation.bootstrap import ByImage, paired_gain
from engine.evaluation.clicks import EvaluationImage, evaluate_clicks
from flows.data.ingest import ingest_folder
from flows.loop.data_engine import data_engine
from flows.operations.status import round_rows
from flows.prefect_api import temporary_server
from flows.stages.fully_automatic import generate
from flows.workspace.settings import FILE_NAME
from flows.workspace.workspace import open_workspace
from storage.catalog import DISAGREEMENT, DIVERSITY, MIX, RANDOM, PlannedRound
from tests.benchmarks.base_model import folder_images, spread
from tests.benchmarks.engine_value import DATASET, NoDataError, Size, prepare_images

DOMAIN = "nuclei"
CHOICES = (DISAGREEMENT, DIVERSITY, MIX)
HELD_OUT = 4
"""Held-out images of a workspace; nothing is reported on them."""

MASKS_PER_IMAGE = 12
METRIC = "miou_1_click"

TOML = """# A workspace of tests.benchmarks.quality_choice.
[annotator]
good_iou = 0.85
max_objects = {masks}
[train]
steps = {steps}
[generator]
preset = "fast"
points_per_side = 16
crop_layers = 0
"""


@dataclass(frozen=True, slots=True)
class Arm:
    """A choice, and a number of images."""

    choice: str
    images: int

    @property
    def name(self) -> str:
        """Name of its folder."""
        return f"{self.choice}-{self.images}"


def arms(images: int) -> list[Arm]:
    """Return random choice of three sizes, then every other choice."""
    sizes = (images // 2, images, 2 * images)
    return [Arm(RANDOM, size) for size in sizes] + [Arm(choice, images) for choice in CHOICES]


def prepare_workspace(root: Path, images: Path, steps: int) -> None:
    """Make the workspace that all arms begin with: images, ground truth and automatic masks."""
    if (root / "prepared").exists():
        return
    root.mkdir(parents=True, exist_ok=True)
    (root / FILE_NAME).write_text(TOML.format(masks=MASKS_PER_IMAGE, steps=steps))
    workspace = open_workspace(str(root))
    workspace.prepare()
    for part, share in (("held_out", 1.0), ("pool", 0.0)):
        coco = images / part / "instances.json"
        ingest_folder(workspace, DATASET, images / part / "images", coco, held_out=share)
    generate(str(root), "automatic", DATASET)
    (root / "prepared").touch()


def run_arm(
    arm: Arm, start: Path, folder: Path, reported: Sequence[EvaluationImage]
) -> dict[str, Any]:
    """Run or resume an arm; return its masks, clicks and scores by image."""
    kept = folder / f"{arm.name}.json"
    if not kept.exists():
        root = folder / arm.name
        if not root.exists():
            partial = folder / f"{arm.name}.copy"
            shutil.rmtree(partial, ignore_errors=True)
            shutil.copytree(start, partial)
            partial.rename(root)
        plan = PlannedRound(
            stage=Stage.ASSISTED_MANUAL, images=arm.images, retrain=True, choice=arm.choice
        )
        data_engine(str(root), DATASET, [plan])
        workspace = open_workspace(str(root))
        loop = workspace.catalog.loops.latest(workspace.catalog.datasets.get(DATASET).id)
        assert loop is not None
        (row,) = round_rows(workspace, loop.id)
        newest = max(workspace.catalog.models.all(), key=lambda model: model.created_at)
        scores = evaluate_clicks(workspace.segmenter(newest.version), reported, clicks=(1, 3))
        found = {
            "masks": row["masks"],
            "clicks_per_mask": row["clicks_per_mask"],
            "by_image": scores.by_image().as_dict(),
        }
        kept.write_text(json.dumps(found))
    result: dict[str, Any] = json.loads(kept.read_text())
    return result


def masks_needed(score: float, curve: Sequence[tuple[float, int]]) -> float | None:
    """Return the masks at which random choice has this score, or None outside of its arms.

    Args:
        score: mean IoU.
        curve: score and masks of the arms, the fewest masks first.
    """
    for (low, fewer), (high, more) in itertools.pairwise(curve):
        if low <= score <= high:
            return fewer + (more - fewer) * (score - low) / max(high - low, 1e-9)
    return None


def summarize(images: int, results: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the figures that the module's docstring names."""
    scored = {name: ByImage.from_dict(result["by_image"]) for name, result in results.items()}
    means = {name: one.means()[METRIC] for name, one in scored.items()}
    curve = [
        (means[arm.name], results[arm.name]["masks"])
        for arm in arms(images)
        if arm.choice == RANDOM
    ]
    beside = scored[Arm(RANDOM, images).name]
    best, most = max(score for score, _ in curve), max(masks for _, masks in curve)
    ratios, below, gains = {}, {}, {}
    for choice in CHOICES:
        name = Arm(choice, images).name
        needed = masks_needed(means[name], curve)
        ratios[choice] = results[name]["masks"] / needed if needed else None
        below[choice] = results[name]["masks"] / most if means[name] > best else None
        gain = paired_gain(beside, scored[name], [METRIC])
        gains[choice] = [gain.mean, gain.low, gain.high]
    rows = {
        name: {
            "masks": result["masks"],
            "clicks_per_mask": result["clicks_per_mask"],
            **{key: scored[name].means()[key] for key in (METRIC, "miou_3_clicks", "miou_box")},
        }
        for name, result in results.items()
    }
    return {
        "choice_masks_ratio": ratios,
        "choice_masks_ratio_below": below,
        "choice_gain": gains,
        "arms": rows,
    }


def _print(summary: dict[str, Any], console: Console) -> None:
    table = Table(title="One retrain on images of each choice")
    for column in ("choice, images", "masks", "clicks", "1 click", "3 clicks", "box"):
        table.add_column(column, justify="left" if column.startswith("choice") else "right")
    for name, row in summary["arms"].items():
        scores = (f"{row[key]:.3f}" for key in (METRIC, "miou_3_clicks", "miou_box"))
        table.add_row(name, str(row["masks"]), f"{row['clicks_per_mask']:.2f}", *scores)
    console.print(table)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run or resume the arms and print the results."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.quality_choice",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of the domains' folders")
    parser.add_argument("--pool", type=int, default=160, help="images to choose from")
    parser.add_argument("--images", type=int, default=20, help="images that a choice takes")
    parser.add_argument("--reported", type=int, default=36, help="images to score on")
    parser.add_argument("--steps", type=int, default=150, help="optimiser steps of a retrain")
    parser.add_argument("--folder", type=Path, default=Path(".cache/quality_choice"))
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    given = parser.parse_args(arguments)
    folder = given.folder.resolve()
    images = folder / "images"
    size = Size(rounds=1, images=given.pool, held_out=HELD_OUT, reported=given.reported)
    try:
        prepare_images(given.data, DOMAIN, size, images)
    except (NoDataError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    part = images / "reported"
    reported = [
        spread(item, MASKS_PER_IMAGE)
        for item in folder_images(part / "images", part / "instances.json", None)
    ]
    temporary_server.configure(folder)
    logging.getLogger("prefect").setLevel(logging.CRITICAL)
    with temporary_server.server(folder):
        prepare_workspace(folder / "start", images, given.steps)
        results = {
            arm.name: run_arm(arm, folder / "start", folder, reported) for arm in arms(given.images)
        }
    summary = summarize(given.images, results)
    _print(summary, Console(stderr=given.json))
    if given.json:
        print(json.dumps(summary))
    return 0


if __name__ == "__main__":
    sys.exit(main())
