"""Removal of small components and holes: below a number of pixels (SAM paper, appendix B;
segment_anything/utils/amg.py), or below a share of the mask.

Masks are bool windows (h, w) of a frame (H, W).
"""

from __future__ import annotations

import cv2
import numpy as np

from engine.automatic.windows import MaskWindow
from engine.core.components import (
    connected_components,
    fill_holes,
    largest_component,
    select_components,
)


def remove_small_regions(
    drawn: MaskWindow, size: tuple[int, int], min_region: int, *, keep_largest: bool
) -> tuple[MaskWindow, bool]:
    """Fill holes, then remove components, of fewer than `min_region` pixels, both 8-connected.

    Args:
        drawn: the mask on its own box.
        size: (H, W) of the frame.
        min_region: in pixels.
        keep_largest: keep the largest component if all are small, as segment_anything does; False
            returns an empty mask, because the paper drops such masks.

    Returns:
        The mask on its own box, and whether it has changed.
    """
    padded = _with_margin(drawn, size, min_region)
    filled, has_small_holes = _remove_small(~padded.mask, min_region)
    mask = ~filled
    kept, has_small_components = _remove_small(mask, min_region)
    if has_small_components and keep_largest and not kept.any():
        kept = largest_component(mask)
    if not has_small_holes and not has_small_components:
        return drawn, False
    return MaskWindow(kept, padded.x, padded.y).tight(), True


def remove_specks(
    drawn: MaskWindow, min_piece: float, min_hole: float, min_whole: float
) -> MaskWindow:
    """Fill pinholes and remove specks, by shares of the mask's area.

    Args:
        drawn: the mask on its own box.
        min_piece: components below this share of the largest are removed.
        min_hole: holes of at most this share of the mask are filled.
        min_whole: a mask whose largest component is below this share of its area becomes empty.

    Returns:
        The mask on its own box; `drawn` itself if nothing changes.
    """
    mask = fill_holes(drawn.mask, min_hole) if min_hole else drawn.mask
    labels, areas = connected_components(mask)
    if len(areas) > 1:
        if areas.max() < min_whole * areas.sum():
            return MaskWindow(np.zeros_like(mask), drawn.x, drawn.y)
        is_kept = areas >= min_piece * areas.max()
        mask = mask if is_kept.all() else select_components(labels, is_kept)
    return drawn if mask is drawn.mask else MaskWindow(mask, drawn.x, drawn.y).tight()


def _with_margin(drawn: MaskWindow, size: tuple[int, int], margin: int) -> MaskWindow:
    """Return a window so large that the background in it is a small region only if it is one in the
    whole frame."""
    x0, y0, x1, y1 = drawn.box_xyxy
    left, top = min(margin, x0), min(margin, y0)
    right, bottom = min(margin, size[1] - x1), min(margin, size[0] - y1)
    padded = np.pad(drawn.mask, ((top, bottom), (left, right)))
    return MaskWindow(padded, x0 - left, y0 - top)


def _remove_small(mask: np.ndarray, min_region: int) -> tuple[np.ndarray, bool]:
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.view(np.uint8), connectivity=8)
    small = stats[:, cv2.CC_STAT_AREA] < min_region
    small[0] = False  # label 0 is the background
    if not small.any():
        return mask, False
    return mask & ~small[labels], True
