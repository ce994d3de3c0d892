"""Regions of like pixels (superpixels) in a part of an image: what the page's wand selects from
where the model fails.

SLIC in scikit-image: neighbouring pixels of like colour, in pieces of about equal size.
"""

from __future__ import annotations

import gzip
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

import cv2
import numpy as np
from cachetools import LRUCache

from engine.annotation.errors import invalid

MAX_SIDE = 768
"""Pixels along the longer side of the part as it is divided; larger parts are reduced."""
MIN_REGIONS, MAX_REGIONS = 4, 3_000
_ITERATIONS, _COMPACTNESS = 4, 10.0


class Part(NamedTuple):
    """A part of an image in pixels, half-open, and the number of regions to divide it into."""

    x0: int
    y0: int
    x1: int
    y1: int
    regions: int


class LikeRegions:
    """Regions by image and part; recent ones are kept. Thread-safe; one division is made at a time,
    so that the model's answers do not wait for the wand."""

    def __init__(
        self, pixels_of: Callable[..., np.ndarray], *, capacity_bytes: int = 1 << 26
    ) -> None:
        """`pixels_of`: as for `engine.annotation.pictures.Pictures`."""
        self._pixels_of = pixels_of
        self._lock, self._working = threading.Lock(), threading.Lock()
        self._recent: LRUCache[tuple[object, ...], bytes] = LRUCache(capacity_bytes, len)

    def get(self, image_id: int, part: Part, between: tuple[float, float] | None = None) -> bytes:
        """The regions of a part, as `packed` writes them. `between`: percentiles of the image's
        values that become black and white before.

        Raises:
            RefusedError: the part is empty or not inside the image.
        """
        chosen = () if between is None else (between,)
        key = (image_id, part, *chosen)
        with self._working:
            with self._lock:
                if (found := self._recent.get(key)) is not None:
                    return found
            made = packed(divided(self._pixels_of(image_id, *chosen), part))
        with self._lock, suppress(ValueError):  # larger than the cache
            self._recent[key] = made
        return made


def divided(image_HWC: np.ndarray, part: Part) -> np.ndarray:
    """The number of each pixel's region in the part of an RGB uint8 image (H, W, 3): uint16 (h, w),
    the longer side at most MAX_SIDE.

    Raises:
        RefusedError: the part is empty or not inside the image.
    """
    from skimage.segmentation import slic  # takes half a second to import

    height, width = image_HWC.shape[:2]
    if not (0 <= part.x0 < part.x1 <= width and 0 <= part.y0 < part.y1 <= height):
        raise invalid(
            f"the part {tuple(part[:4])} is empty or outside the image of {width} x {height} pixels"
        )
    cut_HWC = image_HWC[part.y0 : part.y1, part.x0 : part.x1]
    scale = min(1.0, MAX_SIDE / max(cut_HWC.shape[:2]))
    size = [max(1, round(side * scale)) for side in cut_HWC.shape[1::-1]]
    small_HWC = cv2.resize(cut_HWC, size, interpolation=cv2.INTER_AREA)
    labels_HW = slic(
        small_HWC,
        n_segments=part.regions,
        compactness=_COMPACTNESS,
        max_num_iter=_ITERATIONS,
        start_label=0,
    )
    return np.asarray(labels_HW, np.uint16)


def packed(labels_HW: np.ndarray) -> bytes:
    """Width and height as little-endian uint32, then the labels, row by row, as little-endian
    uint16, all compressed by gzip."""
    height, width = labels_HW.shape
    head = struct.pack("<II", width, height)
    return gzip.compress(head + labels_HW.astype("<u2").tobytes(), compresslevel=5, mtime=0)
