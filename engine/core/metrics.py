"""Metrics of masks. N = predictions, M = truths; masks are bool (H, W)."""

from __future__ import annotations

import math

import cv2
import numpy as np

BOUNDARY_SHARE = 0.008
"""Tolerance of `boundary_f` as a share of the image's diagonal, from DAVIS (Perazzi et al.,
2016)."""

MIN_BOUNDARY_PIXELS = 2.0
"""Lower bound of the tolerance in pixels."""


def iou(left_HW: np.ndarray, right_HW: np.ndarray) -> float:
    """Return the intersection over union in [0, 1]; 1 if both masks are empty."""
    union = int(np.count_nonzero(left_HW | right_HW))
    if union == 0:
        return 1.0
    return int(np.count_nonzero(left_HW & right_HW)) / union


def batch_iou(left_NHW: np.ndarray, right_NHW: np.ndarray) -> np.ndarray:
    """Return the IoU of N pairs of bool masks (N, H, W), float64 (N,); 1 where both are empty."""
    union = (left_NHW | right_NHW).sum(axis=(1, 2))
    overlap = (left_NHW & right_NHW).sum(axis=(1, 2))
    return np.where(union > 0, overlap / np.maximum(union, 1), 1.0)


def match(iou_NM: np.ndarray, min_iou: float) -> list[tuple[int, int]]:
    """Match rows and columns one to one, greedily, highest IoU first.

    Args:
        iou_NM: IoU of every prediction with every truth.
        min_iou: pairs below this, and pairs with IoU 0, are not matched.

    Returns:
        (row, column) of each matched pair.
    """
    pairs: list[tuple[int, int]] = []
    left = iou_NM.copy()
    while left.size and left.max() >= min_iou and left.max() > 0:
        row, column = np.unravel_index(int(left.argmax()), left.shape)
        pairs.append((int(row), int(column)))
        left[row, :] = -1
        left[:, column] = -1
    return pairs


def boundary_tolerance(size: tuple[int, int]) -> float:
    """Return the tolerance of `boundary_f` in pixels for an image of (H, W)."""
    return max(MIN_BOUNDARY_PIXELS, BOUNDARY_SHARE * math.hypot(*size))


def boundary_f(left_HW: np.ndarray, right_HW: np.ndarray, tolerance: float) -> float:
    """Return the boundary F1 of two masks in [0, 1] (the F of DAVIS, Perazzi et al., 2016).

    It is the harmonic mean of two shares: of each outline, the share of pixels that lie within
    `tolerance` pixels of the other outline. An outline is every set pixel with an unset pixel among
    its eight neighbours; pixels outside the array count as unset. The result is 1 if both masks are
    empty and 0 if one is.
    """
    x, y, width, height = cv2.boundingRect((left_HW | right_HW).view(np.uint8))
    if width == 0:
        return 1.0
    window = (slice(y, y + height), slice(x, x + width))  # no pixel outside is set
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
