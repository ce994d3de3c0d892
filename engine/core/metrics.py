"""How good masks are. N = predictions, M = truths; masks are bool (H, W)."""

from __future__ import annotations

import numpy as np


def iou(left_HW: np.ndarray, right_HW: np.ndarray) -> float:
    """Intersection over union in [0, 1]; 1 where both are empty."""
    union = int(np.count_nonzero(left_HW | right_HW))
    if union == 0:
        return 1.0
    return int(np.count_nonzero(left_HW & right_HW)) / union


def batch_iou(left_NHW: np.ndarray, right_NHW: np.ndarray) -> np.ndarray:
    """IoU of N pairs, float64 (N,); 1 where both are empty."""
    union = (left_NHW | right_NHW).sum(axis=(1, 2))
    overlap = (left_NHW & right_NHW).sum(axis=(1, 2))
    return np.where(union > 0, overlap / np.maximum(union, 1), 1.0)


def match(iou_NM: np.ndarray, min_iou: float) -> list[tuple[int, int]]:
    """Greedy one-to-one matching, best pair first, of pairs with IoU of at least `min_iou`."""
    pairs: list[tuple[int, int]] = []
    left = iou_NM.copy()
    while left.size and left.max() >= min_iou and left.max() > 0:
        row, column = np.unravel_index(int(left.argmax()), left.shape)
        pairs.append((int(row), int(column)))
        left[row, :] = -1
        left[:, column] = -1
    return pairs
