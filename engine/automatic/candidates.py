"""Candidate masks of the generator, and which of them must be decoded again in float32.

A decoder in bfloat16 is fast, but the error of its scores is up to 0.01: enough to change the order
of similar candidates, or to move one across a threshold. `find_uncertain` finds the candidates for
which this could change the result; the generator decodes them again in float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from engine.automatic.crops import Crop
from engine.automatic.windows import Frame, LogitWindow, MaskWindow
from engine.core.boxes import iou_matrix

ROUGH_IOU = 0.01
"""Assumed error of predicted IoU in bfloat16; most errors measured on photographs are smaller."""

ROUGH_STABILITY = 0.03
"""Assumed error of stability in bfloat16."""

ROUGH_BOX_IOU = 0.03
"""Assumed error of the IoU of two boxes in bfloat16."""

ALIKE = 0.95
"""Two masks of at least this IoU count as equal, whichever is kept."""


@dataclass(frozen=True, slots=True)
class FilterThresholds:
    """Score thresholds for candidates, and the precision in which they are decoded.

    Attributes:
        predicted_iou: lower limit, exclusive, in [0, 1].
        stability: lower limit, inclusive, in [0, 1].
        half: decode in bfloat16.
    """

    predicted_iou: float
    stability: float
    half: bool = False

    def relaxed(self) -> FilterThresholds:
        """Return bfloat16 thresholds that every candidate passes that passes these in float32."""
        return FilterThresholds(
            self.predicted_iou - ROUGH_IOU, self.stability - ROUGH_STABILITY, True
        )


@dataclass(frozen=True, slots=True)
class Candidate:
    """A mask that passed the filters; box and point are in pixels of the image. `exact` is False
    if it was decoded in bfloat16."""

    frame: Frame
    crop: Crop
    window: LogitWindow
    box_xyxy: tuple[int, int, int, int]
    predicted_iou: float
    stability: float
    point_xy: tuple[float, float]
    exact: bool

    def draw(self) -> MaskWindow:
        """Return the mask on its own box, in pixels of the image."""
        return place_mask(self.frame.draw(self.window) > 0, self.window, self.crop)


def average_candidates(
    found: Sequence[Candidate], kept: np.ndarray, min_iou: float, offset: float
) -> list[Candidate]:
    """Average the logits of each kept candidate with those of similar candidates.

    Points on one object give masks that differ in detail; their mean, weighted by predicted IoU, is
    nearer to the object than the mask with the highest score (docs/generation.md).

    Args:
        found: N candidates of one crop.
        kept: indices of the candidates to return.
        min_iou: candidates of at least this mask IoU with a kept one are similar to it.
        offset: of the stability score, a logit.

    Returns:
        The kept candidates with their new masks, boxes and stability scores, in the order of
        `kept`. Predicted IoU and point are those of the kept candidate.
    """
    boxes = np.array([candidate.box_xyxy for candidate in found], np.float64).reshape(-1, 4)
    near = iou_matrix(boxes[kept], boxes) > 0
    averaged = []
    for index, row in zip(kept.tolist(), near, strict=True):
        best = found[index]
        similar = [
            found[other]
            for other in np.flatnonzero(row).tolist()
            if other == index or best.window.iou(found[other].window) >= min_iou
        ]
        averaged.append(_with_logits(best, _mean_window(similar), offset) or best)
    return averaged


def _mean_window(similar: Sequence[Candidate]) -> LogitWindow:
    """Return the mean of the candidates' logits, weighted by predicted IoU, on the window that
    contains all of theirs. Outside its own window, a candidate has its lowest logit."""
    windows = [candidate.window for candidate in similar]
    rows, columns = _union([w.rows for w in windows]), _union([w.columns for w in windows])
    total = np.zeros((rows[1] - rows[0], columns[1] - columns[0]), np.float32)
    weights = np.array([max(candidate.predicted_iou, 1e-6) for candidate in similar])
    for window, weight in zip(windows, weights / weights.sum(), strict=True):
        lowest = float(window.logits.min())
        top, left = window.rows[0] - rows[0], window.columns[0] - columns[0]
        height, width = window.logits.shape
        total += weight * lowest
        total[top : top + height, left : left + width] += weight * (window.logits - lowest)
    return LogitWindow(
        total,
        rows,
        columns,
        _union([w.frame_rows for w in windows]),
        _union([w.frame_columns for w in windows]),
    )


def _union(ranges: Sequence[tuple[int, int]]) -> tuple[int, int]:
    return min(first for first, _ in ranges), max(end for _, end in ranges)


def _with_logits(candidate: Candidate, window: LogitWindow, offset: float) -> Candidate | None:
    """Return the candidate with other logits, or None if these have no pixel above 0."""
    drawn = candidate.frame.draw(window)
    mask = drawn > 0
    if not mask.any():
        return None
    return replace(
        candidate,
        window=window,
        box_xyxy=place_mask(mask, window, candidate.crop).box_xyxy,
        stability=stability_score(drawn, offset),
    )


def stability_score(logits_HW: np.ndarray, offset: float) -> float:
    """Return the IoU of the masks thresholded at +offset and -offset, in [0, 1]; 0 if empty.

    One mask contains the other, so the IoU is the ratio of their areas (SAM paper, appendix B).
    """
    outer = int(np.count_nonzero(logits_HW > -offset))
    return int(np.count_nonzero(logits_HW > offset)) / outer if outer else 0.0


def place_mask(mask_HW: np.ndarray, window: LogitWindow, crop: Crop) -> MaskWindow:
    """Return a window's mask on its own box, in pixels of the image."""
    left, top = crop.box_xyxy[:2]
    return MaskWindow(mask_HW, left + window.frame_columns[0], top + window.frame_rows[0]).tight()


def find_uncertain(
    found: Sequence[Candidate],
    boxes_N4: np.ndarray,
    kept: np.ndarray,
    max_iou: float,
    thresholds: FilterThresholds,
) -> list[int]:
    """Find the bfloat16 candidates that could change the result if they were decoded in float32.

    These are kept candidates whose scores are within the error of a threshold, and every pair of
    candidates with similar scores and different masks of which NMS suppresses one, or nearly does.

    Args:
        found: N candidates of one crop.
        boxes_N4: the boxes that NMS compares.
        kept: indices of the candidates that NMS keeps.
        max_iou: the limit of NMS.
        thresholds: final thresholds, in float32.

    Returns:
        Indices of candidates that are not exact, ascending.
    """
    scores = np.array([candidate.predicted_iou for candidate in found])
    rough = np.array([not candidate.exact for candidate in found])
    limit = max_iou - ROUGH_BOX_IOU if max_iou < 1 else 1.0  # at 1, NMS keeps everything
    overlaps = iou_matrix(boxes_N4[kept], boxes_N4) > limit
    uncertain: set[int] = set()
    for winner, rivals in zip(kept.tolist(), overlaps, strict=True):
        error = ROUGH_IOU * (rough.astype(np.float64) + rough[winner])
        close = rivals & (scores > scores[winner] - error) & (error > 0)
        close[winner] = False
        different = [
            rival
            for rival in np.flatnonzero(close).tolist()
            if found[winner].window.iou(found[rival].window) < ALIKE
        ]
        barely = (
            scores[winner] < thresholds.predicted_iou + ROUGH_IOU
            or 0 < thresholds.stability > found[winner].stability - ROUGH_STABILITY
        )
        if different or barely:
            uncertain.update(different, [winner])
    return sorted(index for index in uncertain if rough[index])
