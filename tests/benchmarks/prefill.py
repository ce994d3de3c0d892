"""What pre-fills an image in stage 2: the generator's confident masks, a detector's, or both.

    python -m tests.benchmarks.prefill --data DATA --json

For each domain a detector is trained on `lite`'s embeddings of the images of two rounds of stage
1, with their largest masks as annotators take them. On other training images, the least confidence
of each kind is found at which PRECISION of its masks have an IoU of GOOD_IOU with a true mask. On
images for reporting: how many masks pre-fill an image, their precision, the share of true masks
that they cover at GOOD_IOU, and AR@100 and AP of all masks of that kind. On PEOPLE_IMAGES of them a
simulated annotator works twice, without and with the pre-filled masks: `seconds_ratio` is the time
with them divided by the time without, `recall_before` and `recall_after` are the shares of the
objects that the masks cover at GOOD_IOU at the end.

`--tune` reports on training images too, to choose settings by. The last line of `--json` is one
JSON object: `prefill_precision` and `stage2_seconds_ratio` of `--source` by domain, and all figures
by domain and kind of pre-fill.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from engine.automatic import MaskGenerator, preset
from engine.core.metrics import match
from engine.core.rle import RLE, area, decode, iou_matrix
from engine.detector import Detector, DetectorCard, DetectorConfig, train_detector
from engine.detector.examples import example_of
from engine.detector.masks import detect_masks
from engine.detector.prefill import ScoredMask, keep_distinct, least_confidence, precision_of
from engine.evaluation.clicks import EvaluationImage
from engine.evaluation.proposals import evaluate_proposals
from engine.sam import Segmenter, load_segmenter
from engine.sam.tiles import TiledPredictor
from engine.simulation.annotator import AnnotatorConfig, SimulatedAnnotator
from flows.workspace.setting_sections import PrefillSettings
from tests.benchmarks.base_model import folder_images

DOMAINS = {
    "nuclei": ("nuclei/train", "nuclei/val"),
    "photographs": ("bsds500/train", "bsds500/val"),
}
KINDS = ("generator", "detector", "union")
SEED = 20261127
PRECISION = 0.9
GOOD_IOU = 0.75
MASKS_PER_IMAGE = 40
"""Of an image that annotators of stage 1 draw."""

POINTS_PER_SIDE = 16

PEOPLE_IMAGES = 6
OBJECTS = 24
"""Largest objects of an image that the annotator wants to have masked."""


def draw_images(folder: Path, count: int, skip: int = 0) -> list[EvaluationImage]:
    """Return annotated images of a COCO-style folder, in an order drawn by SEED."""
    images = folder_images(folder / "images", folder / "instances.json", None)
    order = np.random.default_rng(SEED).permutation(len(images))[skip : skip + count]
    return [images[index] for index in order]


def train(
    segmenter: Segmenter, images: Sequence[EvaluationImage], config: DetectorConfig
) -> Detector:
    """Train a detector on the largest masks of images."""
    examples = [
        example_of(segmenter.embed(item.image_HWC), largest(item.truths)) for item in images
    ]
    network = train_detector(examples, config)
    channels = examples[0].embedding_Chw.shape[0]
    card = DetectorCard(
        version="detector", segmenter=segmenter.version, embedding_channels=channels
    )
    return Detector(network, card)


def largest(rles: Sequence[RLE]) -> list[RLE]:
    return sorted(rles, key=lambda rle: -area(rle))[:MASKS_PER_IMAGE]


def run_domain(name: str, data: Path, given: argparse.Namespace) -> dict[str, Any]:
    """Return the figures of a domain by kind of pre-fill."""
    segmenter = load_segmenter()
    ours, reporting = DOMAINS[name]
    skip = given.train + given.held_out
    tested = (
        draw_images(data / ours, given.test, skip)
        if given.tune
        else draw_images(data / reporting, given.test)
    )
    held_out = draw_images(data / ours, given.held_out, given.train)
    config = DetectorConfig(steps=given.steps, learning_rate=given.rate, flip_share=given.flip)
    began = time.process_time()
    detector = train(segmenter, draw_images(data / ours, given.train), config)
    figures: dict[str, Any] = {"training_cpu_seconds": round(time.process_time() - began)}
    print(name, figures, file=sys.stderr, flush=True)
    generator = MaskGenerator(segmenter, preset("default", points_per_side=POINTS_PER_SIDE))
    makers: dict[str, Callable[[np.ndarray], list[ScoredMask]]] = {
        "detector": lambda image: [
            ScoredMask(m.rle, m.confidence)
            for m in detect_masks(segmenter, detector, image, segmenter.embed(image))
        ],
        "generator": lambda image: [
            ScoredMask(m.rle, m.predicted_iou) for m in generator.generate(image)
        ],
    }
    kept: dict[str, list[list[ScoredMask]]] = {}
    for kind, make in makers.items():
        seen = [make(item.image_HWC) for item in held_out]
        least = least_confidence(seen, [i.truths for i in held_out], PRECISION, GOOD_IOU)
        found = [make(item.image_HWC) for item in tested]
        kept[kind] = [[m for m in masks if m.confidence >= least] for masks in found]
        figures[kind] = {
            "least": least,
            **_all_scores(found, tested),
            **_scores(kept[kind], tested),
        }
        print(name, kind, figures[kind], file=sys.stderr, flush=True)
    both = [a + b for a, b in zip(kept["generator"], kept["detector"], strict=True)]
    joined = [[masks[index] for index in keep_distinct(masks)] for masks in both]
    kept["union"] = joined
    figures["union"] = _scores(joined, tested)
    for kind, ratio in people_times(segmenter, tested[:PEOPLE_IMAGES], kept).items():
        figures[kind] |= ratio
    print(name, figures, file=sys.stderr, flush=True)
    return figures


def people_times(
    segmenter: Segmenter,
    images: Sequence[EvaluationImage],
    kept: dict[str, list[list[ScoredMask]]],
) -> dict[str, dict[str, float]]:
    """Return, by kind of pre-fill, the annotator's time and recall with it against without."""
    annotator = SimulatedAnnotator(segmenter, AnnotatorConfig(keep_iou=1e-6, max_objects=OBJECTS))
    glance = annotator.config.cost.glance
    wanted = [sorted(i.truths, key=lambda rle: -area(rle))[:OBJECTS] for i in images]
    drawn = [
        annotator.annotate(TiledPredictor(segmenter, i.image_HWC), [decode(rle) for rle in rles])
        for i, rles in zip(images, wanted, strict=True)
    ]
    objects = sum(map(len, drawn))
    alone = sum(record.seconds for records in drawn for record in records)
    good = sum(record.iou >= GOOD_IOU for records in drawn for record in records)
    found: dict[str, dict[str, float]] = {}
    for kind, masks in kept.items():
        seconds, covered = 0.0, 0
        for given, rles, records in zip(masks, wanted, drawn, strict=False):
            table = iou_matrix([mask.rle for mask in given], rles)
            filled = {truth for _, truth in match(table, GOOD_IOU)}
            left = [record for n, record in enumerate(records) if n not in filled]
            seconds += glance * len(given) + sum(record.seconds for record in left)
            covered += len(filled) + sum(record.iou >= GOOD_IOU for record in left)
        found[kind] = {
            "seconds_ratio": seconds / alone,
            "recall_before": good / objects,
            "recall_after": covered / objects,
        }
    return found


def _scores(
    kept: Sequence[Sequence[ScoredMask]], images: Sequence[EvaluationImage]
) -> dict[str, Any]:
    truths = [item.truths for item in images]
    precision, recall = precision_of(kept, truths, GOOD_IOU)
    count = sum(map(len, kept)) / len(kept)
    return {"masks_per_image": count, "precision": precision, "recall": recall}


def _all_scores(
    found: Sequence[Sequence[ScoredMask]], images: Sequence[EvaluationImage]
) -> dict[str, Any]:
    made = [[(mask.rle, mask.confidence) for mask in masks] for masks in found]
    summary = evaluate_proposals([item.truths for item in images], made).summary()
    return {name: summary[name] for name in ("ar_100", "ap")}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the domains and print the results."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.prefill",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of the domains' folders")
    parser.add_argument("--domain", action="append", choices=DOMAINS, help="default: all")
    for name, value in (("train", 40), ("held-out", 16), ("test", 16)):
        parser.add_argument(f"--{name}", type=int, default=value, help=f"images, default {value}")
    parser.add_argument("--steps", type=int, default=DetectorConfig().steps)
    parser.add_argument("--rate", type=float, default=DetectorConfig().learning_rate)
    parser.add_argument("--flip", type=float, default=DetectorConfig().flip_share)
    parser.add_argument("--source", choices=KINDS, default=PrefillSettings().source)
    parser.add_argument("--tune", action="store_true", help="report on training images")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    given = parser.parse_args(arguments)
    names = given.domain or list(DOMAINS)
    domains = {name: run_domain(name, given.data, given) for name in names}
    table = Table("domain", "pre-fill", "masks", "precision", "recall", "AR@100", "AP")
    for name, kinds in domains.items():
        for kind in KINDS:
            row = kinds[kind]
            values = (
                row.get(key) for key in ("masks_per_image", "precision", "recall", "ar_100", "ap")
            )
            table.add_row(name, kind, *("–" if v is None else f"{v:.3f}" for v in values))
    Console(stderr=given.json).print(table)
    if given.json:
        chosen = {name: kinds[given.source] for name, kinds in domains.items()}
        summary = {
            "prefill_precision": {name: row["precision"] for name, row in chosen.items()},
            "stage2_seconds_ratio": {name: row["seconds_ratio"] for name, row in chosen.items()},
            "domains": domains,
        }
        print(json.dumps(summary))
    return 0


if __name__ == "__main__":
    sys.exit(main())
