"""Large images in tiles, for browsers that could not hold the whole: JPEGs of 512 x 512 pixels at
full resolution and at each halving of it.

All tiles of an image are made at the first request, which decodes the file once, and are kept in
memory while they are recent.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress

import cv2
import numpy as np
from cachetools import LRUCache

from engine.annotation.errors import not_found
from storage.formats.images import write_jpeg

TILE = 512
"""Pixels along a tile's side; those at the right and lower border are smaller."""
SMALLEST = 1_600
"""The coarsest level is the first whose longer side has at most this many pixels."""

Pyramid = dict[tuple[int, int, int], bytes]
"""JPEG by level (0: full resolution; each further one half of it), column and row."""


class Tiles:
    """Tiles by image; thread-safe. One image is cut at a time, as it takes much memory."""

    def __init__(
        self, pixels_of: Callable[..., np.ndarray], *, capacity_bytes: int = 1 << 29
    ) -> None:
        """`pixels_of`: as for `engine.annotation.pictures.Pictures`."""
        self._pixels_of = pixels_of
        self._lock, self._cutting = threading.Lock(), threading.Lock()
        self._recent: LRUCache[tuple[object, ...], Pyramid] = LRUCache(
            capacity_bytes, lambda pyramid: sum(map(len, pyramid.values()))
        )

    def get(
        self,
        image_id: int,
        level: int,
        column: int,
        row: int,
        between: tuple[float, float] | None = None,
    ) -> bytes:
        """One tile as JPEG. `between`: percentiles of the image's values that become black and
        white.

        Raises:
            RefusedError: the image has no such tile.
        """
        chosen = () if between is None else (between,)
        key = (image_id, *chosen)
        pyramid = self._known(key)
        if pyramid is None:
            with self._cutting:
                pyramid = self._known(key)
                if pyramid is None:
                    pyramid = cut(self._pixels_of(image_id, *chosen))
                    with self._lock, suppress(ValueError):  # larger than the cache
                        self._recent[key] = pyramid
        found = pyramid.get((level, column, row))
        if found is None:
            raise not_found(f"image {image_id} has no tile {column}, {row} at level {level}")
        return found

    def _known(self, key: tuple[object, ...]) -> Pyramid | None:
        with self._lock:
            return self._recent.get(key)


def cut(image_HWC: np.ndarray) -> Pyramid:
    """All tiles of an RGB uint8 image (H, W, 3)."""
    pyramid: Pyramid = {}
    level = 0
    while True:
        height, width = image_HWC.shape[:2]
        for top in range(0, height, TILE):
            for left in range(0, width, TILE):
                tile = image_HWC[top : top + TILE, left : left + TILE]
                pyramid[level, left // TILE, top // TILE] = write_jpeg(tile)
        if max(height, width) <= SMALLEST:
            return pyramid
        half = (max(1, (width + 1) // 2), max(1, (height + 1) // 2))
        image_HWC = np.asarray(cv2.resize(image_HWC, half, interpolation=cv2.INTER_AREA))
        level += 1
