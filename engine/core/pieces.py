"""Pieces and pinholes of masks.

Masks are bool (H, W). Pieces are 8-connected, holes 4-connected: a line one pixel wide, drawn
aslant, is one piece and closes what it goes around.
"""

from __future__ import annotations

import cv2
import numpy as np


def pieces(mask_HW: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A number for each pixel, int32 (H, W): 0 outside the mask, 1 to P in its pieces; and the
    pieces' areas in pixels, int (P,)."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask_HW.view(np.uint8), connectivity=8)
    return labels, np.asarray(stats[1:, cv2.CC_STAT_AREA])


def chosen(labels_HW: np.ndarray, is_kept_P: np.ndarray) -> np.ndarray:
    """The mask of some of the pieces, bool (H, W)."""
    return np.asarray(np.concatenate([[False], is_kept_P])[labels_HW])


def without_pinholes(
    mask_HW: np.ndarray, max_share: float, open_xy: np.ndarray | None = None
) -> np.ndarray:
    """The mask with its small holes filled.

    Args:
        mask_HW: the mask; what lies outside the array counts as outside the mask.
        max_share: holes of at most this share of the mask's area are filled.
        open_xy: pixels (N, 2); a hole that one of them is in stays.
    """
    outside = np.pad(~mask_HW, 1, constant_values=True)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(
        outside.view(np.uint8), connectivity=4
    )
    if count <= 2:  # the mask, and what is around it
        return mask_HW
    is_small = stats[:, cv2.CC_STAT_AREA] <= max_share * np.count_nonzero(mask_HW)
    is_small[[0, labels[0, 0]]] = False
    if open_xy is not None and len(open_xy):
        is_small[labels[open_xy[:, 1] + 1, open_xy[:, 0] + 1]] = False
    return np.asarray(mask_HW | is_small[labels[1:-1, 1:-1]])
