"""The frame of annotations on pictures that EXIF rotates: stored pixels, or the upright picture?

Tools disagree, and files do not say. Here images are upright (`storage.formats.images`), so masks
in stored pixels are rotated likewise. The frame is derived from the file, or the user is asked: a
wrong guess would put masks beside their objects.

Boxes are XYXY in pixels; H = height, W = width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import StrEnum
from typing import Any

import numpy as np

from engine.core import rle as rle_codec
from engine.core.rle import RLE

TOLERANCE = 1.5
"""Pixels by which a polygon may exceed its picture and still count as inside."""

Box = tuple[float, float, float, float]


class Frame(StrEnum):
    """The frame of coordinates."""

    AUTO = "auto"
    UPRIGHT = "upright"
    STORED = "stored"


class FrameDoubtError(ValueError):
    """The file does not show which frame its annotations are in: the user must choose."""


def stored_size(size: tuple[int, int], orientation: int) -> tuple[int, int]:
    """The (H, W) of the stored pixels of an upright picture of this (H, W)."""
    return size[::-1] if orientation >= 5 else size


def upright(rle: RLE, orientation: int) -> RLE:
    """The mask of stored pixels, rotated upright by EXIF's orientation, 1 to 8."""
    mask_HW = rle_codec.decode(rle)
    if orientation >= 5:
        mask_HW = mask_HW.T
    if orientation in (2, 3, 6, 7):
        mask_HW = mask_HW[:, ::-1]
    if orientation in (3, 4, 7, 8):
        mask_HW = mask_HW[::-1]
    return rle_codec.encode(np.ascontiguousarray(mask_HW))


def polygon_frame(
    annotations: Iterable[dict[str, Any]],
    stated: tuple[int, int] | None,
    size: tuple[int, int],
    orientation: int,
    sizes_are_turned: Callable[[], bool],
) -> Frame:
    """The frame of an image's polygons, UPRIGHT or STORED; UPRIGHT without polygons.

    Args:
        annotations: the image's.
        stated: its (H, W) in the annotation file, or None.
        size: (H, W) of the upright picture.
        orientation: EXIF's, 2 to 8.
        sizes_are_turned: whether the file gives stored sizes with upright polygons elsewhere.

    Raises:
        FrameDoubtError: the file does not show it, or contradicts itself.
    """
    known = [(polygon_box(annotation), stated_box(annotation)) for annotation in annotations]
    pairs = [(polygon, box) for polygon, box in known if polygon is not None]
    stored = stored_size(size, orientation)
    if not pairs:
        return Frame.UPRIGHT
    if stored == size:
        if any(_disagree(polygon, box, stored, orientation) for polygon, box in pairs):
            raise FrameDoubtError("boxes and polygons are rotated differently")
        return Frame.UPRIGHT
    fits_upright = all(_inside(polygon, size) for polygon, _ in pairs)
    fits_stored = all(_inside(polygon, stored) for polygon, _ in pairs)
    if stated in (None, size):
        if fits_stored and not fits_upright:
            raise FrameDoubtError("polygons lie outside the upright picture")
        return Frame.UPRIGHT
    if fits_upright and fits_stored and sizes_are_turned():
        return Frame.UPRIGHT
    if fits_upright == fits_stored:
        raise FrameDoubtError(
            "the size is that of the stored pixels, the polygons may be of either"
        )
    return Frame.UPRIGHT if fits_upright else Frame.STORED


def size_is_turned(annotations: Iterable[dict[str, Any]], stated: tuple[int, int]) -> bool:
    """Whether an image's polygons exceed the file's (H, W) but fit (W, H)."""
    polygons = [box for annotation in annotations if (box := polygon_box(annotation))]
    outside = not all(_inside(polygon, stated) for polygon in polygons)
    return outside and all(_inside(polygon, stated[::-1]) for polygon in polygons)


def polygon_box(annotation: dict[str, Any]) -> Box | None:
    """The bounding box of an annotation's polygons; None if they are missing or broken."""
    rings = annotation.get("segmentation")
    if not isinstance(rings, list):
        return None
    flat = [v for ring in rings for v in (ring if isinstance(ring, list) else [ring])]
    if len(flat) < 6 or not all(isinstance(value, int | float) for value in flat):
        return None
    return min(flat[::2]), min(flat[1::2]), max(flat[::2]), max(flat[1::2])


def stated_box(annotation: dict[str, Any]) -> Box | None:
    """An annotation's own box as XYXY; None if missing or of at most one pixel."""
    box = annotation.get("bbox")
    if not isinstance(box, list) or len(box) != 4:
        return None
    if not all(isinstance(value, int | float) for value in box) or box[2] * box[3] <= 1:
        return None
    return box[0], box[1], box[0] + box[2], box[1] + box[3]


def overlap(left: Box, right: Box) -> float:
    """IoU of two boxes, 0 to 1."""
    wide = min(left[2], right[2]) - max(left[0], right[0])
    high = min(left[3], right[3]) - max(left[1], right[1])
    both = max(wide, 0.0) * max(high, 0.0)
    areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in (left, right)]
    return both / max(sum(areas) - both, 1e-9)


def _inside(box: Box, size: tuple[int, int]) -> bool:
    return box[2] <= size[1] + TOLERANCE and box[3] <= size[0] + TOLERANCE


def _disagree(polygon: Box, box: Box | None, size: tuple[int, int], orientation: int) -> bool:
    """Whether the box matches the polygon only if one of them is rotated."""
    if box is None or overlap(polygon, box) > 0.5:
        return False
    turned = (_turned(polygon, size, orientation), box), (polygon, _turned(box, size, orientation))
    return any(overlap(*pair) > 0.5 for pair in turned)


def _turned(box: Box, size: tuple[int, int], orientation: int) -> Box:
    """A box in stored pixels of size (H, W), rotated upright."""
    (x0, y0, x1, y1), (height, width) = box, size
    if orientation >= 5:
        x0, y0, x1, y1, height, width = y0, x0, y1, x1, width, height
    if orientation in (2, 3, 6, 7):
        x0, x1 = width - x1, width - x0
    if orientation in (3, 4, 7, 8):
        y0, y1 = height - y1, height - y0
    return x0, y0, x1, y1
