"""Images for browsers: JPEG at screen size, recent ones cached in memory."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from weakref import WeakValueDictionary

import cv2
import numpy as np
from cachetools import LRUCache

from storage.formats.images import JPEG_MAX_SIDE, write_jpeg

SIDES = (32, 64, 128, 256, 512, 1024, 1600, 2048, 4096, 8192)
"""Longer sides in pixels of pictures: more sizes per image would crowd the cache."""

SCREEN_SIDE = 1600
"""Of the picture that the page shows first; the same in web/js/editor/picture.js."""


class Shared:
    """Pixels of images, read once for all who need them at the same time: those of a large image
    take gigabytes. Whoever gets them must not write to them. Thread-safe."""

    def __init__(self, read: Callable[..., np.ndarray]) -> None:
        """`read`: as `pixels_of` of `Pictures`."""
        self._read = read
        self._lock = threading.Lock()
        self._reading: dict[tuple[object, ...], threading.Lock] = {}
        self._in_use: WeakValueDictionary[tuple[object, ...], np.ndarray] = WeakValueDictionary()

    def __call__(self, image_id: int, *between: tuple[float, float]) -> np.ndarray:
        """RGB uint8 (H, W, 3)."""
        key = (image_id, *between)
        with self._lock:
            turn = self._reading.setdefault(key, threading.Lock())
        with turn:
            try:
                with self._lock:
                    found = self._in_use.get(key)
                if found is None:
                    found = self._read(image_id, *between)
                    with self._lock:
                        self._in_use[key] = found
                return found
            finally:
                with self._lock:
                    self._reading.pop(key, None)


class Pictures:
    """JPEGs by image id and longer side. Thread-safe."""

    def __init__(
        self, pixels_of: Callable[..., np.ndarray], *, capacity_bytes: int = 1 << 28
    ) -> None:
        """`pixels_of(image_id, between)` returns an image's RGB uint8 (H, W, 3); `between`:
        percentiles that become 0 and 255, left out for the usual picture."""
        self.pixels_of = pixels_of
        self._lock = threading.Lock()
        self._recent: LRUCache[tuple[object, ...], bytes] = LRUCache(capacity_bytes, len)

    def get(
        self, image_id: int, side: int | None, between: tuple[float, float] | None = None
    ) -> bytes:
        """The image as JPEG, its longer side at most the largest of SIDES up to `side` pixels;
        None: the largest that JPEG allows. `between`: percentiles that become black and white."""
        if side is not None:
            side = max(made for made in SIDES if made <= max(side, SIDES[0]))
        chosen = () if between is None else (between,)
        key = (image_id, side, *chosen)
        with self._lock:
            if (found := self._recent.get(key)) is not None:
                return found
        made = write_jpeg(at_most(self.pixels_of(image_id, *chosen), side or JPEG_MAX_SIDE))
        with self._lock, suppress(ValueError):  # larger than the cache
            self._recent[key] = made
        return made


def at_most(image_HWC: np.ndarray, side: int) -> np.ndarray:
    """RGB uint8 (H, W, 3), reduced so that its longer side has at most `side` pixels."""
    height, width = image_HWC.shape[:2]
    if max(height, width) <= side:
        return image_HWC
    scale = side / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(cv2.resize(image_HWC, size, interpolation=cv2.INTER_AREA))
