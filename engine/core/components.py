"""Connected components and holes of masks.

Masks are bool (H, W). Components are 8-connected and holes 4-connected, so that a diagonal line one
pixel wide is one component and encloses a hole.
"""

from __future__ import annotations

import cv2
import numpy as np


def connected_components(mask_HW: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Label the P components of a mask.

    Returns:
        Labels, int32 (H, W), 0 outside the mask and 1 to P inside; areas in pixels, int (P,).
    """
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask_HW.view(np.uint8), connectivity=8)
    return labels, np.asarray(stats[1:, cv2.CC_STAT_AREA])


def select_components(labels_HW: np.ndarray, is_kept_P: np.ndarray) -> np.ndarray:
    """Return the mask of the components for which `is_kept_P` is True, bool (H, W)."""
    return np.asarray(np.concatenate([[False], is_kept_P])[labels_HW])


def largest_component(mask_HW: np.ndarray) -> np.ndarray:
    """Return the mask of the component with the largest area, bool (H, W); empty if the mask is."""
    labels, areas = connected_components(mask_HW)
    return np.asarray(labels == 1 + int(areas.argmax())) if len(areas) else np.zeros_like(mask_HW)


def fill_holes(
    mask_HW: np.ndarray, max_share: float, open_xy: np.ndarray | None = None
) -> np.ndarray:
    """Fill the small holes of a mask.

    Args:
        mask_HW: the mask; pixels outside the array count as unset.
        max_share: holes of at most this share of the mask's area are filled.
        open_xy: (x, y) pixels inside the array, int (N, 2); a hole with one of them is not filled.

    Returns:
        A new mask, or `mask_HW` itself if it has no hole.
    """
    outside = np.pad(~mask_HW, 1, constant_values=True)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(
        outside.view(np.uint8), connectivity=4
    )
    if count <= 2:  # label 0 is the mask, label 1 its surroundings
        return mask_HW
    is_small = stats[:, cv2.CC_STAT_AREA] <= max_share * np.count_nonzero(mask_HW)
    is_small[[0, labels[0, 0]]] = False
    if open_xy is not None and len(open_xy):
        is_small[labels[open_xy[:, 1] + 1, open_xy[:, 0] + 1]] = False
    return np.asarray(mask_HW | is_small[labels[1:-1, 1:-1]])
