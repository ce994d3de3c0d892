"""Quality of automatic masks for each preset: recall, precision, duplicates and specks.

    python -m tests.benchmarks.automatic_masks --coins --json
    python -m tests.benchmarks.automatic_masks --set nuclei IMAGES COCO --limit 12 --preset fast

On images with all objects annotated (else correct masks count as wrong), for each preset:

- AR@1000 and AP, as `dataengine evaluate` does;
- found: share of true masks that a mask matches at IoU USEFUL;
- kept: share of masks that match a true mask at IoU USEFUL, which a reviewer would keep;
- repeats: masks per image that duplicate an earlier one at IoU REPEAT;
- specks: masks per image whose components other than the largest are at most SPECK of the mask;
- processor seconds per image.

`--coins` is scikit-image's photograph of 24 coins; its truth is the watershed segmentation of
scikit-image's example.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import skimage.data
import torch
from rich.console import Console
from rich.table import Table
from scipy import ndimage
from skimage.filters import sobel
from skimage.segmentation import watershed

from engine.automatic import MaskGenerator, preset
from engine.automatic.config import PRESETS
from engine.core.components import connected_components
from engine.core.malloc import keep_freed_memory
from engine.core.rle import RLE, decode, encode, iou_matrix
from engine.evaluation.clicks import EvaluationImage
from engine.evaluation.proposals import score_proposals
from engine.sam import load_segmenter
from engine.sam.checkpoint import SHIPPED
from tests.benchmarks.base_model import folder_images

USEFUL, REPEAT, SPECK = 0.75, 0.9, 0.05
SMALLEST_COIN = 300
"""Regions of the watershed with fewer pixels are not coins."""

FIGURES = ("masks", "kept", "found", "ar_1000", "ap", "repeats", "specks", "seconds")


def coins() -> list[EvaluationImage]:
    """Return the photograph of coins with its 24 true masks."""
    photo: Any = skimage.data.coins  # scikit-image has no types
    edges: Any = sobel
    flood: Any = watershed
    grey = np.asarray(photo())
    markers = np.where(grey < 30, 1, np.where(grey > 150, 2, 0)).astype(np.int32)
    solid = ndimage.binary_fill_holes(flood(edges(grey), markers) == 2)
    labels, areas = connected_components(np.asarray(solid))
    truths = [encode(labels == 1 + place) for place in np.flatnonzero(areas > SMALLEST_COIN)]
    return [EvaluationImage(np.repeat(grey[:, :, None], 3, axis=2), truths)]


def has_specks(mask_HW: np.ndarray) -> bool:
    """Return whether a mask has components beside its largest, of at most SPECK of it together."""
    areas = connected_components(mask_HW)[1]
    return len(areas) > 1 and bool(areas.sum() - areas.max() <= SPECK * areas.sum())


def repeats(rles: list[RLE]) -> int:
    """Return how many masks duplicate an earlier one."""
    return int((np.triu(iou_matrix(rles, rles), 1) >= REPEAT).any(axis=0).sum())


def measure(generator: MaskGenerator, images: Sequence[EvaluationImage]) -> dict[str, float]:
    """Return the FIGURES of one preset on one set."""
    began = time.process_time()
    made = [generator.generate(item.image_HWC) for item in images]
    seconds = time.process_time() - began
    scored = [[(m.rle, (m.predicted_iou + m.stability_score) / 2) for m in masks] for masks in made]
    recalls = score_proposals([item.truths for item in images], scored)
    kept = found = 0
    for item, masks in zip(images, made, strict=True):
        is_match = iou_matrix([m.rle for m in masks], item.truths) >= USEFUL
        kept += int(is_match.any(axis=1).sum())
        found += int(is_match.any(axis=0).sum())
    count = sum(len(masks) for masks in made)
    per_image = {
        "masks": count,
        "repeats": sum(repeats([m.rle for m in masks]) for masks in made),
        "specks": sum(has_specks(decode(m.rle)) for masks in made for m in masks),
        "seconds": seconds,
    }
    return {
        **{name: value / len(images) for name, value in per_image.items()},
        "kept": kept / max(count, 1),
        "found": found / max(sum(len(item.truths) for item in images), 1),
        "ar_1000": recalls["ar_1000"],
        "ap": recalls["ap"],
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print the results."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.automatic_masks")
    parser.add_argument("--set", nargs=3, action="append", default=[], metavar=("NAME", "D", "F"))
    parser.add_argument("--coins", action="store_true", help="scikit-image's coins too")
    parser.add_argument("--preset", action="append", choices=PRESETS, help="default: default, fast")
    parser.add_argument("--model", default=SHIPPED, help="lite, or a checkpoint")
    parser.add_argument("--points-per-side", type=int, default=32)
    parser.add_argument("--limit", type=int, metavar="N", help="the first N images of each set")
    parser.add_argument("--threads", type=int, help="of torch")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    given = parser.parse_args(arguments)
    keep_freed_memory()
    if given.threads:
        torch.set_num_threads(given.threads)
    sets = {
        n: folder_images(Path(folder), Path(coco), given.limit) for n, folder, coco in given.set
    }
    if given.coins:
        sets["coins"] = coins()
    if not any(sets.values()):
        parser.error("nothing to measure on: give --set or --coins")
    segmenter = load_segmenter(given.model)
    results: dict[str, dict[str, Any]] = {}
    for name, images in sets.items():
        results[name] = {"images": len(images)}
        for chosen in given.preset or ("default", "fast"):
            config = preset(chosen, points_per_side=given.points_per_side)
            results[name][chosen] = measure(MaskGenerator(segmenter, config), images)
    _print(results, Console(stderr=given.json))
    if given.json:
        print(json.dumps({"model": segmenter.version, "sets": results}))
    return 0


def _print(results: dict[str, dict[str, Any]], console: Console) -> None:
    table = Table(title="Automatic masks")
    table.add_column("set, preset")
    for name in FIGURES:
        table.add_column(name, justify="right")
    for name, by_preset in results.items():
        for chosen, figures in by_preset.items():
            if chosen != "images":
                row = (f"{figures[key]:.3g}" for key in FIGURES)
                table.add_row(f"{name}, {chosen}", *row)
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
