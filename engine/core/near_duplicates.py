"""Near-duplicates: a perceptual hash of an image, and whether two images show the same.

Everything is computed from a thumbnail: RGB uint8 (32, 32, 3), the means of equal areas of the
upright image. The limits are chosen on photographs: docs/inputs.md.
"""

from __future__ import annotations

import cv2
import numpy as np

SIDE = 32
"""Height and width of a thumbnail."""
HASH_SIDE = 8
COLOURS_SIDE = 4
MAX_BITS = 8
"""Hashes of near-duplicates differ in at most so many of the 64 bits."""
MIN_CONTRAST = 2.0
"""Standard deviation of the grey thumbnail, in levels, below which an image has no hash."""
_CONTRAST = 48.0
_MAX_CHANGE = 24.0
_CHANGED_CELLS = 4
_GREY = np.array([0.299, 0.587, 0.114])
_KERNEL = np.ones((3, 3), np.uint8)


def _cosines() -> np.ndarray:
    position, frequency = np.arange(SIDE), np.arange(HASH_SIDE)[:, None]
    return np.asarray(np.cos(np.pi * frequency * (2 * position + 1) / (2 * SIDE)))


def perceptual_hash(thumbnail_HWC: np.ndarray) -> int | None:
    """Return 64 bits: which of the lowest 8 x 8 frequencies of the grey thumbnail's cosine
    transform are above their median (pHash, https://www.phash.org). Re-encoding, resizing and
    brightness change few bits. An image that is nearly one colour has no hash (None), because
    noise would decide.

    Raises:
        ValueError: the thumbnail is not (32, 32, 3).
    """
    grey = _grey(thumbnail_HWC)
    if grey.std() < MIN_CONTRAST:
        return None
    lowest = _cosines() @ grey @ _cosines().T
    bits = np.packbits(lowest.ravel() > np.median(lowest))
    return int.from_bytes(bits.tobytes(), "big")


def mean_colours(thumbnail_HWC: np.ndarray) -> np.ndarray:
    """Return the mean colours of 4 x 4 equal areas as uint8 (48,), to compare images roughly."""
    cells = SIDE // COLOURS_SIDE
    blocks = thumbnail_HWC.reshape(COLOURS_SIDE, cells, COLOURS_SIDE, cells, 3)
    return np.asarray(blocks.mean(axis=(1, 3)).round(), np.uint8).ravel()


def bits_apart(hashes_N: np.ndarray, one: int) -> np.ndarray:
    """Return in how many bits each hash of uint64 (N,) differs from `one`, as uint8 (N,)."""
    return np.asarray(np.bitwise_count(hashes_N ^ np.uint64(one)))


def shows_the_same(one_HWC: np.ndarray, other_HWC: np.ndarray) -> bool:
    """Return whether two thumbnails show the same, to confirm hashes that are close.

    The first takes the second's distribution of grey levels, which removes differences of
    brightness. Then each cell of one must lie within the range of the 3 x 3 cells around its place
    in the other, and vice versa: this allows small shifts, but not an object elsewhere before the
    same background. A few cells may differ.
    """
    other = _grey(other_HWC)
    other = (other - other.mean()) / max(other.std(), MIN_CONTRAST) * _CONTRAST
    one = np.empty(other.size)
    one[np.argsort(_grey(one_HWC), axis=None, kind="stable")] = np.sort(other, axis=None)
    one = one.reshape(other.shape)
    beyond = np.concatenate([_beyond(one, other), _beyond(other, one)], axis=None)
    return bool(np.sort(beyond)[-_CHANGED_CELLS] <= _MAX_CHANGE)


def _beyond(one_HW: np.ndarray, other_HW: np.ndarray) -> np.ndarray:
    """How far each value is outside the range of the other's 3 x 3 neighbourhood."""
    least, most = cv2.erode(other_HW, _KERNEL), cv2.dilate(other_HW, _KERNEL)
    return np.asarray(np.maximum(np.maximum(one_HW - most, least - one_HW), 0))


def _grey(thumbnail_HWC: np.ndarray) -> np.ndarray:
    if thumbnail_HWC.shape != (SIDE, SIDE, 3):
        raise ValueError(f"expected a thumbnail of {SIDE, SIDE, 3}, got {thumbnail_HWC.shape}")
    return np.asarray(thumbnail_HWC @ _GREY)
