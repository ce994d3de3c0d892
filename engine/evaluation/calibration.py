"""Calibration of a model's score thresholds for automatic masks, on images with known truth.

SAM's thresholds (0.88 and 0.95) were chosen by eye for ViT-H (paper, appendix B); a small model
keeps no mask at those. Calibration chooses the pair with the highest F1 among those that reach a
minimum precision and find MIN_RECALL of the objects. If there are none, it chooses the pair with
the highest F0.5, which weighs precision more than recall: the highest precision of all is often
that of a single mask.
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
MIN_RECALL = 0.1
"""With thresholds that find fewer of the objects, a precision says little and is of little use."""

PREDICTED_STEPS = tuple(float(v) for v in np.round(np.arange(0.30, 0.96, 0.02), 2))
STABILITY_STEPS = (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95)


@dataclass(frozen=True, slots=True)
class _ScoredMask:
    """Scores of one automatic mask, its highest IoU with any truth, and whether it is matched to a
    truth at FOUND_IOU."""

    predicted: float
    stability: float
    iou: float
    matched: bool


def calibrate(
    segmenter: Segmenter,
    images: Iterable[EvaluationImage],
    *,
    points_per_side: int = 16,
    crop_layers: int | None = None,
    min_precision: float = 0.8,
    confident_precision: float = 0.9,
    on_image: Callable[[], None] | None = None,
) -> tuple[Thresholds, dict[str, float]]:
    """Choose thresholds for a model.

    Args:
        segmenter: the model; its own thresholds are ignored.
        images: images with all their objects annotated, else correct masks count as wrong.
        points_per_side, crop_layers: of `GeneratorConfig`.
        min_precision: share of kept masks that must have IoU 0.5 with a truth.
        confident_precision: share of pre-filled masks that must have IoU 0.75 with a truth.
        on_image: called after each image.

    Returns:
        The thresholds, and precision, recall and F1 at IoU 0.5 with them.
    """
    config = GeneratorConfig(
        points_per_side=points_per_side,
        crop_layers=crop_layers,
        min_predicted_iou=PREDICTED_STEPS[0],
        min_stability=STABILITY_STEPS[0],
    )
    generator = MaskGenerator(segmenter, config)
    found: list[_ScoredMask] = []
    truths = 0
    for item in images:
        masks = generator.generate(item.image_HWC)
        found += _match_to_truths(
            [m.rle for m in masks],
            item.truths,
            [(m.predicted_iou, m.stability_score) for m in masks],
        )
        truths += len(item.truths)
        if on_image is not None:
            on_image()
    best = _choose_thresholds(found, truths, min_precision)
    confident = _confident_threshold(found, best[1], confident_precision)
    kept = _scores(found, truths, *best)
    return (
        Thresholds(
            min_predicted_iou=best[0],
            min_stability=best[1],
            confident_iou=max(confident, best[0]),
        ),
        {"precision_50": kept[0], "recall_50": kept[1], "f1_50": kept[2]},
    )


def _match_to_truths(
    rles: list[RLE], truths: list[RLE], scores: list[tuple[float, float]]
) -> list[_ScoredMask]:
    overlap = iou_matrix(rles, truths)
    best = overlap.max(axis=1) if truths else np.zeros(len(rles))
    matched = {row for row, _ in match(overlap, FOUND_IOU)}
    return [
        _ScoredMask(predicted, stability, float(best[row]), row in matched)
        for row, (predicted, stability) in enumerate(scores)
    ]


def _scores(
    found: list[_ScoredMask], truths: int, predicted: float, stability: float
) -> tuple[float, float, float]:
    kept = [f for f in found if f.predicted > predicted and f.stability >= stability]
    if not kept or not truths:
        return 0.0, 0.0, 0.0
    precision = sum(f.iou >= FOUND_IOU for f in kept) / len(kept)
    recall = sum(f.matched for f in kept) / truths
    return precision, recall, 2 * precision * recall / max(precision + recall, 1e-9)


def _choose_thresholds(
    found: list[_ScoredMask], truths: int, min_precision: float
) -> tuple[float, float]:
    pairs = [(p, s) for p in PREDICTED_STEPS for s in STABILITY_STEPS]
    scores = {pair: _scores(found, truths, *pair) for pair in pairs}
    good = [
        pair for pair in pairs if scores[pair][0] >= min_precision and scores[pair][1] >= MIN_RECALL
    ]
    if good:
        return max(good, key=lambda pair: scores[pair][2])
    return max(pairs, key=lambda pair: _f_half(*scores[pair][:2]))


def _f_half(precision: float, recall: float) -> float:
    return 1.25 * precision * recall / max(0.25 * precision + recall, 1e-9)


def _confident_threshold(found: list[_ScoredMask], stability: float, precision: float) -> float:
    """Return the lowest threshold on predicted IoU with at least `precision` for pre-filling."""
    for predicted in PREDICTED_STEPS:
        kept = [f.iou for f in found if f.predicted > predicted and f.stability >= stability]
        if len(kept) >= 10 and np.mean(np.array(kept) >= CONFIDENT_IOU) >= precision:
            return predicted
    return PREDICTED_STEPS[-1]
