"""How good masks are. N = predictions, M = truths; masks are bool (H, W)."""

from __future__ import annotations

import math

import cv2
import numpy as np

BOUNDARY_SHARE = 0.008
"""How far apart two outlines may run and still count as the same, as a share of the image's
diagonal: what DAVIS allows (Perazzi et al., 2016)."""

MIN_BOUNDARY_PIXELS = 2.0
"""The least that is allowed, in small images."""


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


def boundary_tolerance(size: tuple[int, int]) -> float:
    """The distance in pixels that `boundary_f` allows in an image of (H, W)."""
    return max(MIN_BOUNDARY_PIXELS, BOUNDARY_SHARE * math.hypot(*size))


def boundary_f(left_HW: np.ndarray, right_HW: np.ndarray, tolerance: float) -> float:
    """F1 of the outlines in [0, 1]: the harmonic mean of the shares of each one's pixels that have
    one of the other's within `tolerance` pixels (the F of DAVIS, Perazzi et al., 2016).

    The outline is every set pixel with an unset one among its eight neighbours; outside the frame
    all is unset. 1 where both masks are empty, 0 where one is.
    """
    x, y, width, height = cv2.boundingRect((left_HW | right_HW).view(np.uint8))
    if width == 0:
        return 1.0
    window = (slice(y, y + height), slice(x, x + width))  # nothing outside is set
    edges = [_outline(mask[window]) for mask in (left_HW, right_HW)]
    if not (edges[0].any() and edges[1].any()):
        return 0.0
    shares = []
    for edge, other in (edges, edges[::-1]):
        unset = (~other).view(np.uint8)
        distance = cv2.distanceTransform(unset, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        shares.append(float((distance[edge] <= tolerance).mean()))
    return 2 * shares[0] * shares[1] / sum(shares) if sum(shares) else 0.0


def _outline(mask_HW: np.ndarray) -> np.ndarray:
    padded = np.pad(mask_HW.view(np.uint8), 1)
    inside = np.asarray(cv2.erode(padded, np.ones((3, 3), np.uint8)), bool)
    return np.asarray(mask_HW & ~inside[1:-1, 1:-1])
