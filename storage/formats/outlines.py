"""A mask's outlines as polygons, and what polygons cannot show.

P = corners.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from engine.core import rle as rle_codec
from engine.core.rle import RLE


@dataclass(frozen=True, slots=True)
class Polygons:
    """The outlines of a mask's pieces as COCO's rings [x, y, x, y, ...] in pixels, and the number
    of its holes, which they fill."""

    rings: list[list[float]]
    holes: int


def polygons_of(rle: RLE) -> Polygons:
    """Return the outlines along the pixels' edges: filled again as COCO's polygons are, they give
    the pieces without their holes, within a pixel of their border.

    An outline through the pixels' centres would lose the pixels of its right and lower border.
    """
    x0, y0, x1, y1 = rle_codec.box_xyxy(rle)
    if x1 <= x0:
        return Polygons([], 0)
    inside = rle_codec.decode(rle)[y0:y1, x0:x1].astype(np.uint8)
    twice = cv2.resize(inside, None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST)
    contours, hierarchy = cv2.findContours(twice, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    outer = hierarchy[0][:, 3] < 0
    rings = []
    for contour, is_outer in zip(contours, outer, strict=True):
        if is_outer:
            # Of the doubled grid, even coordinates are a pixel's first edge, odd ones its last.
            corners_P2 = contour[:, 0].astype(np.float64)
            edges = (corners_P2 + corners_P2 % 2) / 2 + (x0, y0)
            rings.append(edges.ravel().tolist())
    return Polygons(rings, int((~outer).sum()))
