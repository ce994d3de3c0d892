"""Square crops around masks, as encoders of mask vectors see them.

H x W = image, N = masks, S = side of a crop.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from engine.core import rle as rle_codec
from engine.core.rle import RLE

SCALES = (1.1, 2.0)
"""Sides of the crops, in longer sides of the mask's box: the mask alone, and with its context."""

FILL = (124, 116, 104)
"""Colour outside the image, and outside the mask in a masked crop: ImageNet's mean, RGB."""

SMALLEST_SIDE = 8
"""Smallest side of a crop, in pixels of the image."""


@dataclass(frozen=True, slots=True)
class Crops:
    """Crops of N masks at one scale.

    Attributes:
        pixels_NSSC: RGB uint8.
        cover_NSS: float32 in [0, 1], the share of each pixel that the mask covers.
    """

    pixels_NSSC: np.ndarray
    cover_NSS: np.ndarray

    def masked(self) -> np.ndarray:
        """Return the crops with FILL outside the masks, RGB uint8 (N, S, S, 3)."""
        cover = self.cover_NSS[..., None]
        filled = self.pixels_NSSC * cover + np.array(FILL, np.float32) * (1 - cover)
        return np.asarray(np.rint(filled), np.uint8)


def cut_crops(image_HWC: np.ndarray, rles: Sequence[RLE], scale: float, side: int) -> Crops:
    """Cut a crop around each mask, centred on its box.

    Args:
        image_HWC: RGB uint8.
        rles: masks of the image; none is empty.
        scale: the crop's side, in longer sides of the mask's box.
        side: S, in pixels of the crop.
    """
    pixels = np.empty((len(rles), side, side, 3), np.uint8)
    cover = np.empty((len(rles), side, side), np.float32)
    for index, rle in enumerate(rles):
        x0, y0, x1, y1 = rle_codec.box_xyxy(rle)
        length = max(round(max(x1 - x0, y1 - y0) * scale), SMALLEST_SIDE)
        corner = round((x0 + x1 - length) / 2), round((y0 + y1 - length) / 2)
        mask = rle_codec.decode(rle).view(np.uint8)
        pixels[index] = _resized(_window(image_HWC, corner, length, FILL), side)
        cover[index] = _resized(_window(mask, corner, length, 0).astype(np.float32), side)
    return Crops(pixels, cover)


def _window(
    image: np.ndarray, corner_xy: tuple[int, int], length: int, fill: int | tuple[int, int, int]
) -> np.ndarray:
    """Return a square window of an image, filled where it extends beyond the image."""
    height, width = image.shape[:2]
    (x0, y0), (x1, y1) = corner_xy, (corner_xy[0] + length, corner_xy[1] + length)
    inside = image[max(0, y0) : min(y1, height), max(0, x0) : min(x1, width)]
    top, bottom = max(0, -y0), max(0, y1 - height)
    left, right = max(0, -x0), max(0, x1 - width)
    value = fill if isinstance(fill, tuple) else (fill,)
    return np.asarray(
        cv2.copyMakeBorder(inside, top, bottom, left, right, cv2.BORDER_CONSTANT, value=value)
    )


def _resized(window: np.ndarray, side: int) -> np.ndarray:
    method = cv2.INTER_AREA if len(window) > side else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(window, (side, side), interpolation=method))
