"""What the loop is worth: clicks per mask and model scores over its rounds, beside two controls.

    python -m tests.benchmarks.engine_value --data DATA --json           # hours on two cores
    python -m tests.benchmarks.engine_value --data DATA --short --json   # within 30 minutes
    python -m tests.benchmarks.engine_value --data DATA --quality        # tests.benchmarks.quality

For each domain, three arms take the same images in the same order, each in its own workspace:

- **loop**: rounds of stage 1 by simulated annotators, each followed by a retrain, as
  `dataengine run` does them. A candidate is promoted only if it is significantly better on the
  workspace's held-out images;
- **no_retraining**: the same rounds, all with the first model;
- **manual**: masks drawn by hand, for as many seconds as the loop's annotators took, then one
  training with as many steps as the loop's retrains together, promoted in the same way.

Annotators click until IoU GOOD_IOU. All arms are scored on images that no workspace has: mean IoU
after 1 and 3 clicks and with a box, with intervals, and AP and AR of automatic masks.

DATA holds the COCO-style folders of DOMAINS, `images` beside `instances.json`. A domain with one
folder is divided by SEED. A stopped run resumes, if `--folder` is the same.

The last line of `--json` is one JSON object: `clicks_fall` (by how much of the first round's clicks
per mask the last round's are fewer, by domain), `clicks_saved` (by how much the loop's clicks per
mask of the last round are fewer than those without retraining, on the same images), `beats_manual`
and `beats_no_retraining` (whether the loop's AP is higher, by domain), and all figures under
`domains`.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from engine.automatic import MaskGenerator, preset
from engine.core.malloc import keep_freed_memory
from engine.core.records import Source, Stage
from engine.core.rle import RLE, area
from engine.evaluation.clicks import EvaluationImage, evaluate_clicks
from engine.evaluation.proposals import evaluate_proposals
from engine.sam import Segmenter
from engine.sam.checkpoint import SHIPPED
from flows.data.ingest import ingest_folder
from flows.loop.data_engine import data_engine
from flows.operations.status import round_rows
from flows.prefect_api import temporary_server
from flows.stages.run_context import RunContext
from flows.training.retrain import run_retrain
from flows.workspace.settings import FILE_NAME
from flows.workspace.workspace import Workspace, code_version, open_workspace
from storage.catalog import PlannedRound, RunKind, Split
from tests.benchmarks.base_model import folder_images, spread
from tests.benchmarks.engine_value_curves import draw_curves
from tests.benchmarks.quality import PartError, run_quality

GOOD_IOU = 0.85
"""Annotators stop clicking at this IoU."""

MANUAL_SECONDS = 79.2
"""Seconds to draw one mask by hand: 22 worker hours for 1,000 masks (Lin et al. 2014, "Microsoft
COCO", section 4.3)."""

SEED = 20261126
DATASET = "images"
MAX_OBJECTS = 100
"""Objects of an image that are annotated, the largest first. If annotators leave the small ones
out, a retrain gains less (docs/LOG.md, 2026-11-28)."""

MASKS_PER_IMAGE = 12
"""Masks of an image on which clicks and boxes are scored."""

POINTS_PER_SIDE = 24
"""Of the automatic masks that are scored."""

QUALITY_FOLDER = Path(".cache/quality")

ARMS = ("loop", "no_retraining", "manual")
SCORES = ("miou_1_click", "miou_3_clicks", "miou_box")


@dataclass(frozen=True, kw_only=True, slots=True)
class Size:
    """How much is done: rounds of the loop, images of a round, held-out images of a workspace,
    images for reporting, and optimiser steps of a retrain, None for the default."""

    rounds: int = 4
    images: int = 20
    held_out: int = 24
    reported: int = 16
    steps: int | None = None


FEW_IMAGES = Size(images=5, held_out=7, reported=7)
"""Of a domain with 34 to 36 images in all."""

SHORT = Size(images=5, held_out=7, reported=7, steps=20)

DOMAINS = {
    "nuclei": ("nuclei/train", "nuclei/val", Size()),
    "rocks": ("eval/rocks", None, FEW_IMAGES),
    "aerial_houses": ("eval/aerial_houses", None, FEW_IMAGES),
    "photographs": ("bsds500/train", "bsds500/val", Size()),
}
"""Folder of each domain for its workspaces, the one for reporting, and the size of a whole run."""

TOML = """# A workspace of tests.benchmarks.engine_value.
[annotator]
good_iou = {good_iou}
max_objects = {masks}
[train]
new_share = 0.4
"""


class NoDataError(Exception):
    """A folder of the domains is missing or too small."""


def prepare_images(data: Path, domain: str, size: Size, folder: Path) -> None:
    """Copy a domain's images into `pool`, `held_out` and `reported` below a folder, each a
    COCO-style folder, in an order drawn once.

    Raises:
        NoDataError: the domain has too few annotated images.
    """
    if (folder / "complete").exists():
        return
    ours, reporting, _ = DOMAINS[domain]
    wanted = {"pool": size.rounds * size.images, "held_out": size.held_out}
    if reporting is None:
        wanted["reported"] = size.reported
    else:
        _copy(data / reporting, folder, {"reported": size.reported})
    _copy(data / ours, folder, wanted)
    (folder / "complete").touch()


def _copy(source: Path, folder: Path, wanted: dict[str, int]) -> None:
    coco = json.loads((source / "instances.json").read_text())
    by_image: dict[int, list[dict[str, Any]]] = {}
    for annotation in coco["annotations"]:
        by_image.setdefault(annotation["image_id"], []).append(annotation)
    known = [image for image in coco["images"] if image["id"] in by_image]
    if len(known) < sum(wanted.values()):
        raise NoDataError(
            f"{source} has {len(known)} annotated images, {sum(wanted.values())} are needed"
        )
    order = iter(np.random.default_rng(SEED).permutation(len(known)).tolist())
    for name, count in wanted.items():
        target = folder / name
        (target / "images").mkdir(parents=True, exist_ok=True)
        images = []
        for number in range(count):
            image = known[next(order)]
            # the number first: workspaces take images in order of names
            file_name = f"{number:04d}-{Path(image['file_name']).name}"
            shutil.copyfile(source / "images" / image["file_name"], target / "images" / file_name)
            images.append({**image, "file_name": file_name})
        annotations = [row for image in images for row in by_image[image["id"]]]
        written = {**coco, "images": images, "annotations": annotations}
        (target / "instances.json").write_text(json.dumps(written))


@dataclass(frozen=True, slots=True)
class Arm:
    """One arm of one domain; `folder` is for its scores."""

    name: str
    workspace: Workspace
    folder: Path
    size: Size

    @classmethod
    def open(cls, name: str, folder: Path, size: Size, images: Path) -> Arm:
        """Create or reopen the arm's workspace below a folder, with the domain's images."""
        root = folder / name
        root.mkdir(parents=True, exist_ok=True)
        if not (root / FILE_NAME).exists():
            trainings = size.rounds if name == "manual" else 1
            steps = f"steps = {size.steps * trainings}\n" if size.steps else ""
            text = TOML.format(good_iou=GOOD_IOU, masks=MAX_OBJECTS)
            (root / FILE_NAME).write_text(text + steps)
        workspace = open_workspace(str(root))
        workspace.prepare()
        for part, share in (("held_out", 1.0), ("pool", 0.0)):
            coco = images / part / "instances.json"
            ingest_folder(workspace, DATASET, images / part / "images", coco, held_out=share)
        return cls(name, workspace, folder, size)

    def run_rounds(self) -> list[dict[str, Any]]:
        """Run the arm's rounds of stage 1; return a row per round."""
        plan = [
            PlannedRound(
                stage=Stage.ASSISTED_MANUAL,
                images=self.size.images,
                retrain=self.name == "loop",
            )
        ] * self.size.rounds
        data_engine(str(self.workspace.settings.root), DATASET, plan)
        dataset = self.workspace.catalog.datasets.get(DATASET)
        loop = self.workspace.catalog.loops.latest(dataset.id)
        assert loop is not None
        rows = round_rows(self.workspace, loop.id)
        return [
            {
                "clicks_per_mask": row["clicks_per_mask"],
                "seconds_per_mask": row["seconds_per_mask"],
                "masks_per_hour": 3600 / row["seconds_per_mask"],
                "masks": row["masks"],
                "model": row["model"],
                "model_after": row["model_after"],
                "promoted": row["model"] != row["model_after"],
            }
            for row in rows
        ]

    def train_on_manual_masks(self, seconds: float) -> dict[str, Any]:
        """Commit as many true masks as can be drawn in `seconds`, train once on them, and return
        a row like that of a round."""
        workspace, version = self.workspace, "manual"
        dataset = workspace.catalog.datasets.get(DATASET)
        run_id = f"manual-{dataset.id}"
        first = workspace.current_model().version
        masks = max(1, int(seconds / MANUAL_SECONDS))
        self._commit_true_masks(run_id, masks)
        result = run_retrain(workspace, dataset, version, run_id)
        return {
            "seconds_per_mask": MANUAL_SECONDS,
            "masks_per_hour": 3600 / MANUAL_SECONDS,
            "masks": masks,
            "model": first,
            "model_after": result.model,
            "promoted": result.promoted,
        }

    def _commit_true_masks(self, run_id: str, count: int) -> None:
        workspace = self.workspace
        dataset = workspace.catalog.datasets.get(DATASET)
        run = workspace.catalog.runs.start(
            run_id, RunKind.ASSISTED_MANUAL, dataset_id=dataset.id, code_version=code_version()
        )
        context = RunContext(
            run_id=run.id,
            dataset=DATASET,
            dataset_id=dataset.id,
            stage=Stage.ASSISTED_MANUAL,
            model=workspace.current_model().version,
        )
        origin = context.provenance(Source.ANNOTATOR, annotator="by hand")
        ids = sorted(workspace.catalog.images.ids(dataset.id, split=Split.TRAIN))
        rows = [
            origin.mask(image_id, number, rle, seconds=MANUAL_SECONDS)
            for image_id, rles in sorted(workspace.truths_of(ids).items())
            for number, rle in enumerate(largest(rles))
        ]
        workspace.masks.commit(rows[:count], run_id=run.id, shard=0)
        workspace.catalog.runs.finish(run.id, {"masks": min(count, len(rows))})

    def score(self, version: str, reported: Sequence[EvaluationImage]) -> dict[str, Any]:
        """Return click, box and automatic scores of a version; kept below the domain's folder."""
        first = version == SHIPPED
        kept = self.folder / (f"{version}.json" if first else f"{self.name}-{version}.json")
        if not kept.exists():
            kept.write_text(json.dumps(score(self.workspace.segmenter(version), reported)))
        found: dict[str, Any] = json.loads(kept.read_text())
        return found


def largest(rles: Sequence[RLE]) -> list[RLE]:
    """Return an image's largest masks, MAX_OBJECTS at most, as annotators take them."""
    return sorted(rles, key=lambda rle: -area(rle))[:MAX_OBJECTS]


def score(segmenter: Segmenter, images: Sequence[EvaluationImage]) -> dict[str, Any]:
    """Return mean IoUs with intervals, AP and AR of automatic masks, and their number."""
    clicked = [spread(item, MASKS_PER_IMAGE) for item in images]
    clicks = evaluate_clicks(segmenter, clicked, clicks=(1, 3)).summary()
    generator = MaskGenerator(segmenter, preset("default", points_per_side=POINTS_PER_SIDE))
    found = [generator.generate(item.image_HWC) for item in images]
    made = [[(m.rle, (m.predicted_iou + m.stability_score) / 2) for m in masks] for masks in found]
    automatic = evaluate_proposals([item.truths for item in images], made).summary()
    names = [name for key in SCORES for name in (key, f"{key}_ci")]
    return {
        **{name: clicks[name] for name in names},
        **{name: automatic[name] for name in ("ap", "ar_1000", "masks_per_image")},
    }


def run_domain(domain: str, size: Size, folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Run or resume the arms of a domain, whose images are prepared; return their rows by arm."""
    images = folder / "images"
    reported = folder_images(
        images / "reported" / "images", images / "reported" / "instances.json", None
    )
    results: dict[str, list[dict[str, Any]]] = {}
    for name in ARMS:
        began = time.monotonic()
        arm = Arm.open(name, folder, size, images)
        if name == "manual":
            spent = sum(row["seconds_per_mask"] * row["masks"] for row in results["loop"])
            rows = [arm.train_on_manual_masks(spent)]
        else:
            rows = arm.run_rounds()
        for row in rows:
            row["before"] = arm.score(row["model"], reported)
            row["after"] = arm.score(row["model_after"], reported)
        results[name] = rows
        print(f"{domain}, {name}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    return results


def summarize(domains: dict[str, dict[str, list[dict[str, Any]]]]) -> dict[str, Any]:
    """Return the figures that the module's docstring names, from the rows of all domains."""
    falls, saved, manual, untrained = {}, {}, {}, {}
    for name, arms in domains.items():
        rows = arms["loop"]
        falls[name] = 1 - rows[-1]["clicks_per_mask"] / rows[0]["clicks_per_mask"]
        saved[name] = 1 - rows[-1]["clicks_per_mask"] / arms["no_retraining"][-1]["clicks_per_mask"]
        ap = {arm: arms[arm][-1]["after"]["ap"] for arm in ARMS}
        manual[name] = ap["loop"] > ap["manual"]
        untrained[name] = ap["loop"] > ap["no_retraining"]
    return {
        "clicks_fall": falls,
        "clicks_saved": saved,
        "beats_manual": manual,
        "beats_no_retraining": untrained,
        "domains": domains,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run or resume the domains and print the results."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.engine_value",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of the domains' folders")
    parser.add_argument("--domain", action="append", choices=DOMAINS, help="default: all")
    parser.add_argument("--short", action="store_true", help="a smaller run, within 30 minutes")
    parser.add_argument(
        "--steps", type=int, help="optimiser steps of each retrain; default: by its images"
    )
    parser.add_argument(
        "--quality", action="store_true", help="what people's and the model's work is checked by"
    )
    parser.add_argument(
        "--folder", type=Path, help="for workspaces; default .cache/engine_value or, short, -short"
    )
    parser.add_argument("--picture", type=Path, help="PNG or SVG to draw the curves into")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    given = parser.parse_args(arguments)
    keep_freed_memory()
    if given.quality:
        try:
            print(json.dumps(run_quality(given.data, given.folder or QUALITY_FOLDER)))
        except PartError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        return 0
    folder = given.folder or Path(".cache") / ("engine_value" + "-short" * given.short)
    names = given.domain or list(DOMAINS)
    sizes = {name: SHORT if given.short else DOMAINS[name][2] for name in names}
    if given.steps:
        sizes = {name: replace(size, steps=given.steps) for name, size in sizes.items()}
    try:
        for name, size in sizes.items():
            prepare_images(given.data, name, size, folder / name / "images")
    except (NoDataError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    temporary_server.configure(folder.resolve())
    logging.getLogger("prefect").setLevel(logging.CRITICAL)
    with temporary_server.server(folder.resolve()):
        domains = {
            name: run_domain(name, size, folder.resolve() / name) for name, size in sizes.items()
        }
    summary = {
        "sizes": {name: asdict(size) for name, size in sizes.items()},
        **summarize(domains),
    }
    _print(domains, Console(stderr=given.json))
    if given.picture:
        draw_curves(domains, given.picture)
    if given.json:
        print(json.dumps(summary))
    return 0


def _print(domains: dict[str, dict[str, list[dict[str, Any]]]], console: Console) -> None:
    table = Table(title="What the loop is worth")
    table.add_column("domain, arm", no_wrap=True)
    for name in (
        "round",
        "clicks",
        "s a mask",
        "promoted",
        "1 click",
        "3 clicks",
        "box",
        "AP",
        "AR",
    ):
        table.add_column(name, justify="right")
    for domain, arms in domains.items():
        for arm, rows in arms.items():
            for number, row in enumerate(rows, 1):
                after = row["after"]
                clicks = row.get("clicks_per_mask")
                table.add_row(
                    f"{domain}, {arm}",
                    str(number),
                    "–" if clicks is None else f"{clicks:.2f}",
                    f"{row['seconds_per_mask']:.1f}",
                    "yes" if row["promoted"] else "no",
                    *(f"{after[key]:.3f}" for key in (*SCORES, "ap", "ar_1000")),
                )
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
