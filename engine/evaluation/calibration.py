"""Thresholds for a model's automatic masks, found on images with known truth.

SAM's thresholds (0.88 and 0.95) were picked for ViT-H by people's judgement (paper, appendix B); a
small model keeps nothing at those. Here: the pair with the best F1 among those that reach the
wanted precision.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from engine.automatic import GeneratorConfig, MaskGenerator
from engine.core.metrics import match
from engine.core.rle import RLE, iou_matrix
from engine.evaluation.clicks import EvaluationImage
from engine.sam.checkpoint import Thresholds
from engine.sam.segmenter import Segmenter

FOUND_IOU = 0.5
CONFIDENT_IOU = 0.75
PREDICTED_STEPS = tuple(float(v) for v in np.round(np.arange(0.30, 0.96, 0.02), 2))
STABILITY_STEPS = (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95)


@dataclass(frozen=True, slots=True)
class _Found:
    """One automatic mask: the model's scores, its best IoU with any truth, and whether it is the
    one matched to that truth at FOUND_IOU."""

    predicted: float
    stability: float
    iou: float
    matched: bool


def calibrate(
    segmenter: Segmenter,
    images: Iterable[EvaluationImage],
    *,
    points_per_side: int = 16,
    min_precision: float = 0.8,
    confident_precision: float = 0.9,
    on_image: Callable[[], None] | None = None,
) -> tuple[Thresholds, dict[str, float]]:
    """Choose thresholds for a model.

    Args:
        segmenter: the model; its own thresholds are not looked at.
        images: with all their objects known, else right masks count as wrong.
        points_per_side: of the grid.
        min_precision: share of kept masks that must have IoU 0.5 with a truth.
        confident_precision: share of pre-filled masks that must have IoU 0.75 with a truth.
        on_image: called after each image.

    Returns:
        The thresholds, and precision, recall and F1 at IoU 0.5 with them. Where no pair reaches the
        wanted precision, the most precise one is taken.
    """
    config = GeneratorConfig(
        points_per_side=points_per_side,
        min_predicted_iou=PREDICTED_STEPS[0],
        min_stability=STABILITY_STEPS[0],
    )
    generator = MaskGenerator(segmenter, config)
    found: list[_Found] = []
    truths = 0
    for item in images:
        masks = generator.generate(item.image_HWC)
        found += _compare(
            [m.rle for m in masks],
            item.truths,
            [(m.predicted_iou, m.stability_score) for m in masks],
        )
        truths += len(item.truths)
        if on_image is not None:
            on_image()
    best = _choose(found, truths, min_precision)
    confident = _confident(found, best[1], confident_precision)
    kept = _scores(found, truths, *best)
    return (
        Thresholds(
            min_predicted_iou=best[0],
            min_stability=best[1],
            confident_iou=max(confident, best[0]),
        ),
        {"precision_50": kept[0], "recall_50": kept[1], "f1_50": kept[2]},
    )


def _compare(rles: list[RLE], truths: list[RLE], scores: list[tuple[float, float]]) -> list[_Found]:
    overlap = iou_matrix(rles, truths)
    best = overlap.max(axis=1) if truths else np.zeros(len(rles))
    matched = {row for row, _ in match(overlap, FOUND_IOU)}
    return [
        _Found(predicted, stability, float(best[row]), row in matched)
        for row, (predicted, stability) in enumerate(scores)
    ]


def _scores(
    found: list[_Found], truths: int, predicted: float, stability: float
) -> tuple[float, float, float]:
    kept = [f for f in found if f.predicted > predicted and f.stability >= stability]
    if not kept or not truths:
        return 0.0, 0.0, 0.0
    precision = sum(f.iou >= FOUND_IOU for f in kept) / len(kept)
    recall = sum(f.matched for f in kept) / truths
    return precision, recall, 2 * precision * recall / max(precision + recall, 1e-9)


def _choose(found: list[_Found], truths: int, min_precision: float) -> tuple[float, float]:
    pairs = [(p, s) for p in PREDICTED_STEPS for s in STABILITY_STEPS]
    scores = {pair: _scores(found, truths, *pair) for pair in pairs}
    good = [pair for pair in pairs if scores[pair][0] >= min_precision]
    if good:
        return max(good, key=lambda pair: scores[pair][2])
    return max(pairs, key=lambda pair: scores[pair][0])


def _confident(found: list[_Found], stability: float, precision: float) -> float:
    """The lowest predicted IoU above which masks are right often enough for pre-filling."""
    for predicted in PREDICTED_STEPS:
        kept = [f.iou for f in found if f.predicted > predicted and f.stability >= stability]
        if len(kept) >= 10 and np.mean(np.array(kept) >= CONFIDENT_IOU) >= precision:
            return predicted
    return PREDICTED_STEPS[-1]
