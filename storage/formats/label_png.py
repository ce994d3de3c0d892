"""Label images: a 16-bit PNG for each image, whose pixels are the number of their object, 0 for
none.

An object's pixel has one number, so where masks overlap the smaller one is on top; what that hides
is counted. N = masks, H = height, W = width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from engine.core import rle as rle_codec
from engine.core.rle import RLE

MOST = 65_535
"""Objects of one image."""


@dataclass(frozen=True, slots=True)
class Labelled:
    """A label image, uint16 (H, W), and what it does not show: pixels of masks under others, masks
    of which no pixel is left, and masks beyond MOST."""

    labels_HW: np.ndarray
    hidden_pixels: int
    hidden_masks: int


def label_image(rles: Sequence[RLE], size: tuple[int, int]) -> Labelled:
    """Number the masks from 1, in their order."""
    labels = np.zeros(size, np.uint16)
    areas = [rle_codec.area(rle) for rle in rles[:MOST]]
    for place in np.argsort(np.negative(areas), kind="stable"):
        labels[rle_codec.decode(rles[place])] = place + 1
    seen = np.bincount(labels.ravel(), minlength=len(areas) + 1)[1:]
    hidden = int(sum(areas) - seen.sum()) + sum(map(rle_codec.area, rles[MOST:]))
    lost = int((seen[: len(areas)] == 0).sum()) + len(rles[MOST:])
    return Labelled(labels, hidden, lost)


def encode_png(labels_HW: np.ndarray) -> bytes:
    """The label image as a PNG file."""
    fine, data = cv2.imencode(".png", labels_HW)
    if not fine:
        raise ValueError(f"labels of shape {labels_HW.shape} cannot be written as PNG")
    return bytes(data)


def decode_png(data: bytes) -> np.ndarray:
    """A label image of a PNG, int64 (H, W): of one band, or of three equal ones.

    Raises:
        ValueError: not such a picture; a palette or a picture in colours is no label image.
    """
    try:
        found = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise ValueError(f"not a readable picture: {error}") from error
    if found is None:
        raise ValueError("not a readable picture")
    if found.ndim == 3:
        if found.shape[2] > 3 or not (found == found[:, :, :1]).all():
            raise ValueError("its pixels are colours, not numbers of objects")
        found = found[:, :, 0]
    if found.dtype.kind not in "iu":
        raise ValueError(f"its pixels are {found.dtype}, not whole numbers")
    return np.asarray(found, np.int64)


def masks_in(labels_HW: np.ndarray) -> Iterator[tuple[int, RLE]]:
    """The number and mask of each object in a label image, by number."""
    numbers, places = np.unique(labels_HW.ravel(), return_inverse=True)
    flat = places.reshape(labels_HW.shape)
    for index, number in enumerate(numbers):
        if number != 0:
            yield int(number), rle_codec.encode(flat == index)
