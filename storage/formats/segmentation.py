"""Segmentations in COCO's and SA-1B's JSON, checked before pycocotools reads them.

pycocotools trusts its input: run lengths that do not fill the image, or polygons with huge
coordinates, can crash the process or take all memory. So run lengths are parsed here (without
decoding any mask) and polygons are clipped first. Formats: https://cocodataset.org/#format-data and
`maskApi.c` of https://github.com/cocodataset/cocoapi.

R = runs, N = corners, H = height, W = width.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from engine.core.rle import RLE
from engine.core.run_lengths import unpack


def rle_from_json(segmentation: object) -> RLE:
    """Check a COCO RLE, `counts` as a string (compressed) or a list, and make it canonical.

    Raises:
        ValueError: not such an object, or run lengths that do not fill its size exactly.
    """
    if not isinstance(segmentation, dict):
        raise ValueError(f"expected an RLE object, got a {json_type(segmentation)}")
    size = rle_size(segmentation.get("size"))
    counts = segmentation.get("counts")
    if isinstance(counts, str):
        if not counts.isascii():
            raise ValueError("RLE counts are not ASCII")
        runs = _unpack(counts.encode())
    elif isinstance(counts, list):
        runs = _plain_runs(counts)
    else:
        raise ValueError(f"RLE counts must be a string or a list, got a {json_type(counts)}")
    if (runs < 0).any() or int(runs.sum()) != size[0] * size[1]:
        raise ValueError(f"RLE run lengths do not fill {size[0]} x {size[1]} pixels (H x W)")
    return _pack(runs, size)


def run_lengths(rle: RLE) -> np.ndarray:
    """The mask's run lengths, int64 of shape (R,): column-major, starting with a run of 0.

    Raises:
        ValueError: the counts are not COCO's compressed form.
    """
    return _unpack(rle.counts)


def rle_from_polygons(segmentation: list[Any], size: tuple[int, int]) -> RLE:
    """The union of COCO polygons, clipped to an image of size (H, W); even-odd inside each.

    Rings with fewer than three corners are ignored: they enclose nothing.

    Args:
        segmentation: a list of rings [x, y, x, y, ...] in pixels, or a single such ring.
        size: (H, W) of the image.

    Raises:
        ValueError: not rings, or no ring near the image.
    """
    flat = all(isinstance(value, int | float) for value in segmentation)
    rings = [_ring(ring) for ring in ([segmentation] if flat else segmentation)]
    clipped = [_clip(ring, size) for ring in rings if len(ring) >= 3]
    usable = [ring.ravel().tolist() for ring in clipped if len(ring) >= 3]
    if not usable:
        raise ValueError(
            "empty mask: its polygons have fewer than three corners or lie far outside"
        )
    merged = coco_mask.merge(coco_mask.frPyObjects(usable, *size))
    return _pack(_unpack(merged["counts"]), size)


def rle_size(size: object) -> tuple[int, int]:
    """The (H, W) of an RLE object.

    Raises:
        ValueError: not two positive integers, or an image beyond 2**32 pixels.
    """
    if not isinstance(size, list) or len(size) != 2:
        raise ValueError(f"RLE size must be [height, width], got {size!r:.80}")
    height, width = (whole_number(side) for side in size)
    if height is None or width is None or height <= 0 or width <= 0:
        raise ValueError(f"RLE size must be two positive integers, got {size!r:.80}")
    if height * width >= 2**32:
        raise ValueError(f"RLE size {size!r:.80} is beyond COCO's 32-bit run lengths")
    return height, width


def whole_number(value: object) -> int | None:
    """The value as an integer, also if it is a whole float; else None."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _plain_runs(counts: list[Any]) -> np.ndarray:
    runs = [whole_number(run) for run in counts]
    if not all(run is not None and 0 <= run < 2**32 for run in runs):
        raise ValueError("RLE run lengths must be integers of at least 0")
    return np.array(runs, dtype=np.int64)


def _unpack(counts: bytes) -> np.ndarray:
    return unpack([counts])[0]


def _pack(runs: np.ndarray, size: tuple[int, int]) -> RLE:
    """Compress run lengths without empty runs except the first: pycocotools' boxes need that."""
    values = np.arange(len(runs)) % 2
    values, runs = values[runs > 0], runs[runs > 0]
    starts = np.flatnonzero(np.diff(values, prepend=-1))
    merged = np.add.reduceat(runs, starts).tolist()
    counts = merged if values[0] == 0 else [0, *merged]
    coded = coco_mask.frPyObjects({"size": list(size), "counts": counts}, *size)
    return RLE(size=size, counts=bytes(coded["counts"]))


def _ring(ring: object) -> np.ndarray:
    """Corners (x, y), float64 of shape (N, 2)."""
    if not isinstance(ring, list) or len(ring) % 2:
        raise ValueError("a polygon must be a list of x, y, x, y, ...")
    for value in ring:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"a polygon holds {value!r:.40}, which is not a number")
        if abs(value) > 1e15 or not math.isfinite(value):
            raise ValueError(f"a polygon holds {value!r:.40}, which is not a pixel coordinate")
    return np.array(ring, dtype=np.float64).reshape(-1, 2)


def _clip(ring: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Clip a ring to one image size around the image (Sutherland-Hodgman), because pycocotools'
    memory grows with the length of the outline. pycocotools clips the rest."""
    for axis, side in ((0, size[1]), (1, size[0])):
        for limit, sign in ((-side, 1.0), (2 * side, -1.0)):
            inside = sign * (ring[:, axis] - limit)
            if (inside >= 0).all():
                continue
            corners: list[np.ndarray] = []
            for i in range(len(ring)):
                a, b = inside[i - 1], inside[i]
                if (a >= 0) != (b >= 0):
                    corners.append(ring[i - 1] + (ring[i] - ring[i - 1]) * (a / (a - b)))
                if b >= 0:
                    corners.append(ring[i])
            ring = np.array(corners).reshape(-1, 2)
    return ring


def json_type(value: object) -> str:
    """JSON's name for the type of a parsed value: "object", "list", "string", ..."""
    names = {dict: "object", list: "list", str: "string", type(None): "null", bool: "boolean"}
    return names.get(type(value), "number")
