"""Masks on their way through the generator, and which rough ones must be looked at again.

A decoder in bfloat16 is fast, but its scores are off by up to a hundredth: enough to let another of
several near-equal candidates win, or to carry one over a threshold. That matters only where it
changes what is kept. `doubtful` finds those places; the generator decodes them again, exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from engine.automatic.crops import Crop
from engine.automatic.windows import Drawn, Frame, Window
from engine.core.boxes import iou_matrix

ROUGH_IOU = 0.01
"""How far predicted IoU may be off in bfloat16; most of it seen on photographs is below."""

ROUGH_STABILITY = 0.03
"""The same for stability."""

ROUGH_BOX_IOU = 0.03
"""The same for the IoU of two boxes."""

ALIKE = 0.95
"""Two masks of at least this IoU are the same: which of them is kept makes no difference."""


@dataclass(frozen=True, slots=True)
class Bar:
    """What a candidate must reach, and in which precision it is decoded.

    Attributes:
        predicted_iou: to be exceeded, in [0, 1].
        stability: to be reached, in [0, 1].
        half: decode in bfloat16.
    """

    predicted_iou: float
    stability: float
    half: bool = False

    def rough(self) -> Bar:
        """A bar in bfloat16 that everything passes which would pass this one exactly."""
        return Bar(self.predicted_iou - ROUGH_IOU, self.stability - ROUGH_STABILITY, True)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A mask that passed the filters; box and point in pixels of the image. `exact` is False where
    it was decoded in bfloat16."""

    frame: Frame
    crop: Crop
    window: Window
    box_xyxy: tuple[int, int, int, int]
    predicted_iou: float
    stability: float
    point_xy: tuple[float, float]
    exact: bool

    def draw(self) -> Drawn:
        """The mask on its own box, in pixels of the image."""
        return placed(self.frame.draw(self.window) > 0, self.window, self.crop)


def placed(mask_HW: np.ndarray, window: Window, crop: Crop) -> Drawn:
    """A window's mask on its own box, in pixels of the image."""
    left, top = crop.box_xyxy[:2]
    return Drawn(mask_HW, left + window.frame_columns[0], top + window.frame_rows[0]).tight()


def doubtful(
    found: Sequence[Candidate], boxes_N4: np.ndarray, kept: np.ndarray, max_iou: float, bar: Bar
) -> list[int]:
    """Which rough candidates could change what is kept, were they exact.

    Those kept that may in truth lie below the bar; and, wherever a candidate was suppressed by one
    with about the same score and a different mask, or was so nearly, both.

    Args:
        found: N candidates of one crop.
        boxes_N4: their boxes, as NMS sees them.
        kept: indices of those that NMS keeps.
        max_iou: above which NMS suppresses.
        bar: what the masks must reach in the end.

    Returns:
        Indices in ascending order, none of them of an exact candidate.
    """
    scores = np.array([candidate.predicted_iou for candidate in found])
    rough = np.array([not candidate.exact for candidate in found])
    nearest = max_iou - ROUGH_BOX_IOU if max_iou < 1 else 1.0  # at 1 nothing is suppressed
    overlaps = iou_matrix(boxes_N4[kept], boxes_N4) > nearest
    doubts: set[int] = set()
    for winner, rivals in zip(kept.tolist(), overlaps, strict=True):
        error = ROUGH_IOU * (rough.astype(np.float64) + rough[winner])
        close = rivals & (scores > scores[winner] - error) & (error > 0)
        close[winner] = False
        unlike = [
            rival
            for rival in np.flatnonzero(close).tolist()
            if found[winner].window.iou(found[rival].window) < ALIKE
        ]
        barely = (
            scores[winner] < bar.predicted_iou + ROUGH_IOU
            or 0 < bar.stability > found[winner].stability - ROUGH_STABILITY
        )
        if unlike or barely:
            doubts.update(unlike, [winner])
    return sorted(index for index in doubts if rough[index])
