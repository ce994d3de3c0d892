"""Small pieces and small holes of masks (SAM paper, appendix B; `remove_small_regions` of
segment_anything/utils/amg.py).

Masks are bool windows (h, w) of a frame (H, W); pieces and holes are 8-connected.
"""

from __future__ import annotations

import cv2
import numpy as np

from engine.automatic.windows import Drawn


def clean(
    drawn: Drawn, size: tuple[int, int], min_region: int, *, keep_largest: bool
) -> tuple[Drawn, bool]:
    """Fill holes, then remove pieces, of fewer than `min_region` pixels.

    Args:
        drawn: the mask on its own box.
        size: (H, W) of the frame.
        min_region: in pixels.
        keep_largest: what to do where every piece is small: keep the largest (segment_anything),
            or leave nothing (the paper drops such a mask).

    Returns:
        The mask on its own box, and whether it is another one than before.
    """
    roomy = _with_margin(drawn, size, min_region)
    filled, had_holes = _without_small(~roomy.mask, min_region)
    mask = ~filled
    pieces, had_pieces = _without_small(mask, min_region)
    if had_pieces and keep_largest and not pieces.any():
        pieces = _largest(mask)
    if not had_holes and not had_pieces:
        return drawn, False
    return Drawn(pieces, roomy.x, roomy.y).tight(), True


def _with_margin(drawn: Drawn, size: tuple[int, int], margin: int) -> Drawn:
    """A window so much larger that what lies outside the mask is no small hole in it unless it is
    one in the whole frame."""
    x0, y0, x1, y1 = drawn.box_xyxy
    left, top = min(margin, x0), min(margin, y0)
    right, bottom = min(margin, size[1] - x1), min(margin, size[0] - y1)
    padded = np.pad(drawn.mask, ((top, bottom), (left, right)))
    return Drawn(padded, x0 - left, y0 - top)


def _without_small(mask: np.ndarray, min_region: int) -> tuple[np.ndarray, bool]:
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.view(np.uint8), connectivity=8)
    small = stats[:, cv2.CC_STAT_AREA] < min_region
    small[0] = False  # what is not set
    if not small.any():
        return mask, False
    return mask & ~small[labels], True


def _largest(mask: np.ndarray) -> np.ndarray:
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.view(np.uint8), connectivity=8)
    if count == 1:
        return mask
    return np.asarray(labels == 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax()))
