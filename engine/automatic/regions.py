"""Small pieces and small holes of masks: of fewer than so many pixels (SAM paper, appendix B;
`remove_small_regions` of segment_anything/utils/amg.py), or of a small share of the mask.

Masks are bool windows (h, w) of a frame (H, W). In `clean` pieces and holes are 8-connected.
"""

from __future__ import annotations

import cv2
import numpy as np

from engine.automatic.windows import Drawn
from engine.core.pieces import chosen, pieces, without_pinholes


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


def tidy(drawn: Drawn, min_piece: float, min_hole: float, min_whole: float) -> Drawn:
    """Fill pinholes and remove specks, by shares of the mask itself.

    Args:
        drawn: the mask on its own box.
        min_piece: pieces of less than this share of the largest go.
        min_hole: holes of at most this share of the mask are filled.
        min_whole: a mask whose largest piece is less than this share of it is left empty.

    Returns:
        The mask on its own box; the very same object where nothing had to be done.
    """
    mask = without_pinholes(drawn.mask, min_hole) if min_hole else drawn.mask
    labels, areas = pieces(mask)
    if len(areas) > 1:
        if areas.max() < min_whole * areas.sum():
            return Drawn(np.zeros_like(mask), drawn.x, drawn.y)
        is_kept = areas >= min_piece * areas.max()
        mask = mask if is_kept.all() else chosen(labels, is_kept)
    return drawn if mask is drawn.mask else Drawn(mask, drawn.x, drawn.y).tight()


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
