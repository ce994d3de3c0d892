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
