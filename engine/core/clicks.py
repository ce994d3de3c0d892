"""Where a careful person clicks: at the point of the error farthest from its edge.

The click protocol of SAM's evaluation (paper, section 7.1 and appendix D.1), as in RITM. Masks are
bool (H, W); points (x, y) pixels.
"""

from __future__ import annotations

import cv2
import numpy as np


def depth(mask_HW: np.ndarray) -> np.ndarray:
    """Distance of each set pixel to the nearest unset one, float32 (H, W); the frame counts as
    unset."""
    x, y, width, height = cv2.boundingRect(mask_HW.view(np.uint8))
    found = np.zeros(mask_HW.shape, np.float32)
    # nothing outside the mask's box is set, so a border of one pixel stands for all of it
    inside = np.pad(mask_HW[y : y + height, x : x + width].view(np.uint8), 1)
    if width:
        distance = cv2.distanceTransform(inside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        found[y : y + height, x : x + width] = distance[1:-1, 1:-1]
    return found


def center_point(mask_HW: np.ndarray) -> tuple[int, int]:
    """The (x, y) of the deepest pixel.

    Raises:
        ValueError: the mask is empty.
    """
    inside = depth(mask_HW)
    best = int(inside.argmax())
    if inside.flat[best] <= 0:
        raise ValueError("an empty mask has no centre")
    y, x = divmod(best, mask_HW.shape[1])
    return x, y


def next_click(found_HW: np.ndarray, wanted_HW: np.ndarray) -> tuple[tuple[int, int], int] | None:
    """The next corrective click, ((x, y), label): label 1 where something is missing, 0 where too
    much is covered. None where both masks are equal."""
    missing, surplus = depth(wanted_HW & ~found_HW), depth(found_HW & ~wanted_HW)
    if max(missing.max(), surplus.max()) <= 0:
        return None
    label = int(missing.max() >= surplus.max())
    best = int((missing if label else surplus).argmax())
    y, x = divmod(best, found_HW.shape[1])
    return (x, y), label
