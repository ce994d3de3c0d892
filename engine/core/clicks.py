"""Simulated clicks: the next one is the point of the error region farthest from its edge.

This is the click protocol of SAM's evaluation (paper, section 7.1 and appendix D.1), as in RITM.
Masks are bool (H, W); points are (x, y) in pixels.
"""

from __future__ import annotations

import cv2
import numpy as np


def depth(mask_HW: np.ndarray) -> np.ndarray:
    """Return the distance of each set pixel to the nearest unset one in pixels, float32 (H, W).

    Pixels outside the array count as unset; unset pixels have distance 0.
    """
    x, y, width, height = cv2.boundingRect(mask_HW.view(np.uint8))
    found = np.zeros(mask_HW.shape, np.float32)
    # no pixel outside the mask's box is set, so a border of one pixel is enough
    inside = np.pad(mask_HW[y : y + height, x : x + width].view(np.uint8), 1)
    if width:
        distance = cv2.distanceTransform(inside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        found[y : y + height, x : x + width] = distance[1:-1, 1:-1]
    return found


def center_point(mask_HW: np.ndarray) -> tuple[int, int]:
    """Return (x, y) of the pixel farthest from the mask's edge.

    Raises:
        ValueError: the mask is empty.
    """
    inside = depth(mask_HW)
    best = int(inside.argmax())
    if inside.flat[best] <= 0:
        raise ValueError("expected a mask with at least one set pixel, got an empty mask")
    y, x = divmod(best, mask_HW.shape[1])
    return x, y


def next_click(
    predicted_HW: np.ndarray, truth_HW: np.ndarray
) -> tuple[tuple[int, int], int] | None:
    """Return the next corrective click as ((x, y), label), or None if both masks are equal.

    The label is 1 in a false-negative region and 0 in a false-positive region.
    """
    missing, surplus = depth(truth_HW & ~predicted_HW), depth(predicted_HW & ~truth_HW)
    if max(missing.max(), surplus.max()) <= 0:
        return None
    label = int(missing.max() >= surplus.max())
    best = int((missing if label else surplus).argmax())
    y, x = divmod(best, predicted_HW.shape[1])
    return (x, y), label
