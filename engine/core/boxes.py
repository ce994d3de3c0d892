"""Boxes: half-open pixel XYXY unless a name says otherwise. N = boxes."""

from __future__ import annotations

import numpy as np


def iou_matrix(left_N4: np.ndarray, right_M4: np.ndarray) -> np.ndarray:
    """Return the IoU of every pair of XYXY boxes, float64 (N, M); 0 where both are empty."""
    left = np.asarray(left_N4, dtype=np.float64)
    right = np.asarray(right_M4, dtype=np.float64)
    low = np.maximum(left[:, None, :2], right[None, :, :2])
    high = np.minimum(left[:, None, 2:], right[None, :, 2:])
    overlap = np.clip(high - low, 0, None).prod(axis=2)
    union = _areas(left)[:, None] + _areas(right)[None, :] - overlap
    return np.asarray(np.divide(overlap, union, out=np.zeros_like(overlap), where=union > 0))


def masks_may_overlap(
    left_N4: np.ndarray,
    left_areas_N: np.ndarray,
    right_M4: np.ndarray,
    right_areas_M: np.ndarray,
    least_iou: float,
) -> np.ndarray:
    """Return which pairs of masks can have an IoU of `least_iou` or more, by their boxes and areas
    alone: bool (N, M). A pair that has one is never left out.

    Args:
        left_N4: the masks' tight XYXY boxes.
        left_areas_N: their pixels.
        right_M4: of the other masks.
        right_areas_M: their pixels.
        least_iou: above 0, at most 1.
    """
    left, right = np.asarray(left_N4, np.int64), np.asarray(right_M4, np.int64)
    low = np.maximum(left[:, None, :2], right[None, :, :2])
    high = np.minimum(left[:, None, 2:], right[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=2)
    smaller = np.minimum(left_areas_N[:, None], right_areas_M[None, :])
    larger = np.maximum(left_areas_N[:, None], right_areas_M[None, :])
    # the intersection is at most `shared` and `smaller`, the union at least `larger`
    least = least_iou * larger * (1 - 1e-12)  # rounding must not leave out a pair at the limit
    return np.asarray((np.minimum(shared, smaller) >= least) & (shared > 0))


def _areas(boxes_N4: np.ndarray) -> np.ndarray:
    return np.asarray(np.clip(boxes_N4[:, 2:] - boxes_N4[:, :2], 0, None).prod(axis=1))


def nms(boxes_N4: np.ndarray, scores_N: np.ndarray, max_iou: float) -> np.ndarray:
    """Greedy non-maximum suppression, as `torchvision.ops.nms` does it.

    Args:
        boxes_N4: XYXY, any unit.
        scores_N: the highest score is kept first; of equal scores, the lower index.
        max_iou: a box is dropped if its IoU with a kept box is above this.

    Returns:
        Indices of the kept boxes, int64, best first.
    """
    boxes = np.asarray(boxes_N4, dtype=np.float64)
    order = np.argsort(-np.asarray(scores_N), kind="stable")
    areas = _areas(boxes)
    kept: list[int] = []
    while order.size:
        best, rest = order[0], order[1:]
        kept.append(int(best))
        low = np.maximum(boxes[best, :2], boxes[rest, :2])
        high = np.minimum(boxes[best, 2:], boxes[rest, 2:])
        overlap = np.clip(high - low, 0, None).prod(axis=1)
        union = areas[best] + areas[rest] - overlap
        ratio = np.divide(overlap, union, out=np.zeros_like(overlap), where=union > 0)
        order = rest[ratio <= max_iou]
    return np.asarray(kept, dtype=np.int64)
