"""Chooses masks that pre-fill an image: by calibrated confidence, from one source or two.

I = images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from engine.automatic.duplicates import remove_duplicates
from engine.core.metrics import match
from engine.core.rle import RLE, iou_matrix

LEAST_MASKS = 10
"""With fewer masks above a confidence, their precision says nothing."""

JOIN_IOU = 0.7
"""Above this IoU, two masks are of the same object; parts of larger objects stay."""


@dataclass(frozen=True, slots=True)
class ScoredMask:
    """A mask and the confidence, [0, 1], by which it is chosen."""

    rle: RLE
    confidence: float


def precision_of(
    found: Sequence[Sequence[ScoredMask]], truths: Sequence[Sequence[RLE]], min_iou: float
) -> tuple[float, float]:
    """Return the share of masks that match a true mask of their own, and the share of true masks
    that are matched; 1 and 0 if there are no masks.

    Args:
        found: masks of I images. truths: all true masks of each image.
        min_iou: of a match.
    """
    matches = masks = known = 0
    for image_masks, image_truths in zip(found, truths, strict=True):
        table = iou_matrix([mask.rle for mask in image_masks], list(image_truths))
        matches += len(match(table, min_iou))
        masks, known = masks + len(image_masks), known + len(image_truths)
    return matches / masks if masks else 1.0, matches / known if known else 0.0


def least_confidence(
    found: Sequence[Sequence[ScoredMask]],
    truths: Sequence[Sequence[RLE]],
    precision: float,
    min_iou: float,
) -> float:
    """Return the lowest confidence above which at least `precision` of the masks are right, the
    IoU with a true mask being at least `min_iou`; above 1, which takes no mask, if there is none.

    Args:
        found: masks of I images. truths: all true masks of each image.
        precision: in [0, 1].
        min_iou: of a match.
    """
    rows = [
        (mask.confidence, float(table.max()) >= min_iou if table.size else False)
        for image_masks, image_truths in zip(found, truths, strict=True)
        for mask, table in zip(
            image_masks,
            iou_matrix([mask.rle for mask in image_masks], list(image_truths)),
            strict=True,
        )
    ]
    rows.sort(key=lambda row: -row[0])
    confidences = np.array([confidence for confidence, _ in rows])
    right = np.cumsum([is_right for _, is_right in rows])
    counts = np.arange(1, len(rows) + 1)
    is_cut = np.append(confidences[1:] < confidences[:-1], True)[: len(rows)]  # not between equals
    good = np.flatnonzero((right >= precision * counts) & (counts >= LEAST_MASKS) & is_cut)
    return float(confidences[good[-1]]) if good.size else 1.01


def keep_distinct(masks: Sequence[ScoredMask]) -> list[int]:
    """Return the indices of the masks that do not repeat a more confident one, ascending."""
    confidences = np.array([mask.confidence for mask in masks])
    return remove_duplicates([mask.rle for mask in masks], confidences, JOIN_IOU, 1.0)
