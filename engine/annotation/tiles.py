"""Large images in tiles, for browsers that could not hold the whole: JPEGs of 512 x 512 pixels at
full resolution and at each halving of it.

All tiles of an image are made at once, as the file has to be decoded as a whole, and are kept in a
temporary file while they are recent.
"""

from __future__ import annotations

import os
import tempfile
import threading
import weakref
from collections.abc import Callable, Iterator

import cv2
import numpy as np
from cachetools import LRUCache

from engine.annotation.errors import not_found
from storage.formats.images import write_jpeg

TILED_FROM = 8_000
"""The page loads images with a longer side than this in tiles; as in web/js/editor/tiles.js."""
TILE = 512
"""Pixels along a tile's side; those at the right and lower border are smaller."""
SMALLEST = 1_600
"""The coarsest level is the first whose longer side has at most this many pixels."""

Place = tuple[int, int, int]
"""Level (0: full resolution; each further one half of it), column and row."""


class Pyramid:
    """The tiles of an image as JPEG, in a file that ends with this object."""

    def __init__(self, tiles: Iterator[tuple[Place, bytes]]) -> None:
        self._file = tempfile.TemporaryFile(prefix="dataengine-tiles-")  # noqa: SIM115
        weakref.finalize(self, self._file.close)
        self._places: dict[Place, tuple[int, int]] = {}
        self.size = 0
        """Bytes."""
        for place, jpeg in tiles:
            self._file.write(jpeg)
            self._places[place] = (self.size, len(jpeg))
            self.size += len(jpeg)
        self._file.flush()

    def get(self, place: Place) -> bytes | None:
        """The tile at a place; None if there is none."""
        found = self._places.get(place)
        if found is None:
            return None
        start, length = found
        return os.pread(self._file.fileno(), length, start)


class Tiles:
    """Tiles by image; thread-safe. One image is cut at a time, as it takes much memory."""

    def __init__(
        self, pixels_of: Callable[..., np.ndarray], *, capacity_bytes: int = 1 << 32
    ) -> None:
        """
        Args:
            pixels_of: as for `engine.annotation.pictures.Pictures`.
            capacity_bytes: of temporary files. An image that needs more is kept alone.
        """
        self._pixels_of = pixels_of
        self._lock, self._cutting = threading.Lock(), threading.Lock()
        self._recent: LRUCache[tuple[object, ...], Pyramid] = LRUCache(
            capacity_bytes, lambda pyramid: min(capacity_bytes, pyramid.size)
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
        found = self.of(image_id, between).get((level, column, row))
        if found is None:
            raise not_found(f"image {image_id} has no tile {column}, {row} at level {level}")
        return found

    def of(self, image_id: int, between: tuple[float, float] | None = None) -> Pyramid:
        """All tiles of an image."""
        chosen = () if between is None else (between,)
        key = (image_id, *chosen)
        if (known := self._known(key)) is not None:
            return known
        with self._cutting:
            if (known := self._known(key)) is not None:
                return known
            made = Pyramid(cut(self._pixels_of(image_id, *chosen)))
            with self._lock:
                self._recent[key] = made
            return made

    def _known(self, key: tuple[object, ...]) -> Pyramid | None:
        with self._lock:
            return self._recent.get(key)


def cut(image_HWC: np.ndarray) -> Iterator[tuple[Place, bytes]]:
    """All tiles of an RGB uint8 image (H, W, 3) as JPEG, level by level."""
    level = 0
    while True:
        height, width = image_HWC.shape[:2]
        for top in range(0, height, TILE):
            for left in range(0, width, TILE):
                tile = image_HWC[top : top + TILE, left : left + TILE]
                yield (level, left // TILE, top // TILE), write_jpeg(tile)
        if max(height, width) <= SMALLEST:
            return
        half = (max(1, (width + 1) // 2), max(1, (height + 1) // 2))
        image_HWC = np.asarray(cv2.resize(image_HWC, half, interpolation=cv2.INTER_AREA))
        level += 1
