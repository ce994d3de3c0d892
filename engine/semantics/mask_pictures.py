"""Pictures of masks as people and models look at them: cut out, with an outline.

N = masks, S = side of a picture.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from engine.core.rle import RLE
from engine.semantics.crops import cut_crops

SCALE = 1.6
"""Side of a picture, in longer sides of the mask's box."""
OUTLINE = (255, 0, 200)


def outlined(image_HWC: np.ndarray, rles: Sequence[RLE], side: int) -> np.ndarray:
    """Return a picture of each mask with its surroundings and its outline, RGB uint8 (N, S, S, 3).

    Args:
        image_HWC: RGB uint8.
        rles: masks of the image; none is empty.
        side: S, in pixels.
    """
    crops = cut_crops(image_HWC, rles, SCALE, side)
    for picture, cover in zip(crops.pixels_NSSC, crops.cover_NSS, strict=True):
        inside = (cover > 0.5).astype(np.uint8)
        lines, _ = cv2.findContours(inside, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(picture, lines, -1, OUTLINE, 1)
    return crops.pixels_NSSC
