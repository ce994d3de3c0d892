"""COCO run-length encoding of masks: compressed column-major counts, as pycocotools writes them.

N = masks, H = height, W = width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask


@dataclass(frozen=True, slots=True)
class RLE:
    """One compressed mask: `size` is (H, W) in pixels, `counts` COCO's run lengths in ASCII."""

    size: tuple[int, int]
    counts: bytes

    def as_coco(self) -> dict[str, Any]:
        """Return the dict that pycocotools takes: `counts` as bytes."""
        return {"size": list(self.size), "counts": self.counts}

    def as_json(self) -> dict[str, Any]:
        """Return the dict that COCO and SA-1B store as JSON: `counts` as a string."""
        return {"size": list(self.size), "counts": self.counts.decode("ascii")}


def encode(mask_HW: np.ndarray) -> RLE:
    """Compress a bool mask of shape (H, W).

    Raises:
        ValueError: mask_HW is not a 2-D bool array.
    """
    if mask_HW.ndim != 2 or mask_HW.dtype != np.bool_:
        raise ValueError(f"expected a 2-D bool array, got {mask_HW.dtype} of shape {mask_HW.shape}")
    coded = coco_mask.encode(np.asfortranarray(mask_HW.astype(np.uint8)))
    return RLE(size=(int(coded["size"][0]), int(coded["size"][1])), counts=bytes(coded["counts"]))


def encode_batch(masks_NHW: np.ndarray) -> list[RLE]:
    """Compress N bool masks of one size, shape (N, H, W), in one call.

    Raises:
        ValueError: masks_NHW is not a 3-D bool array.
    """
    if masks_NHW.ndim != 3 or masks_NHW.dtype != np.bool_:
        raise ValueError(
            f"expected a 3-D bool array, got {masks_NHW.dtype} of shape {masks_NHW.shape}"
        )
    if len(masks_NHW) == 0:
        return []
    stacked = np.asfortranarray(masks_NHW.astype(np.uint8).transpose(1, 2, 0))
    size = (int(masks_NHW.shape[1]), int(masks_NHW.shape[2]))
    return [RLE(size=size, counts=bytes(coded["counts"])) for coded in coco_mask.encode(stacked)]


def from_window(mask_HW: np.ndarray, x: int, y: int, size: tuple[int, int]) -> RLE:
    """Compress a mask that is set inside a window only, without allocating the whole frame.

    Args:
        mask_HW: bool, the window.
        x, y: column and row of the window's first pixel in the frame.
        size: (H, W) of the frame.

    Raises:
        ValueError: the window is not a 2-D bool array, or does not lie inside the frame.
    """
    if mask_HW.ndim != 2 or mask_HW.dtype != np.bool_:
        raise ValueError(f"expected a 2-D bool array, got {mask_HW.dtype} of shape {mask_HW.shape}")
    height, width = size
    if x < 0 or y < 0 or y + mask_HW.shape[0] > height or x + mask_HW.shape[1] > width:
        raise ValueError(f"a window {mask_HW.shape} at ({x}, {y}) does not lie inside {size}")
    columns = np.pad(mask_HW.T, ((0, 0), (1, 1))).view(np.int8)
    change = columns[:, 1:] - columns[:, :-1]
    column, row = np.nonzero(change == 1)
    starts = (x + column) * height + y + row
    column, row = np.nonzero(change == -1)
    ends = (x + column) * height + y + row
    apart = starts[1:] != ends[:-1]  # else the run continues at the top of the next column
    edges = np.empty(2 * (int(apart.sum()) + min(len(starts), 1)), np.int64)
    if len(starts):
        edges[0::2] = np.concatenate([starts[:1], starts[1:][apart]])
        edges[1::2] = np.concatenate([ends[:-1][apart], ends[-1:]])
    counts = np.diff(np.concatenate([[0], edges, [height * width]]))
    if len(counts) > 1 and counts[-1] == 0:
        counts = counts[:-1]
    uncompressed = {"size": [height, width], "counts": counts.tolist()}
    coded = coco_mask.frPyObjects(uncompressed, height, width)
    return RLE(size=(height, width), counts=bytes(coded["counts"]))


def empty(size: tuple[int, int]) -> RLE:
    """Return an empty mask of size (H, W)."""
    uncompressed = {"size": list(size), "counts": [size[0] * size[1]]}
    return RLE(size=size, counts=bytes(coco_mask.frPyObjects(uncompressed, *size)["counts"]))


def decode(rle: RLE) -> np.ndarray:
    """Return the mask as a bool array of shape (H, W)."""
    return np.asarray(coco_mask.decode(rle.as_coco()), dtype=bool)


def area(rle: RLE) -> int:
    """Return the number of set pixels."""
    return int(coco_mask.area(rle.as_coco()))


def box_xyxy(rle: RLE) -> tuple[int, int, int, int]:
    """Return the tight half-open pixel box (x0, y0, x1, y1); all zeros for an empty mask."""
    x, y, w, h = (int(value) for value in coco_mask.toBbox(rle.as_coco()))
    return x, y, x + w, y + h


def iou_matrix(left: list[RLE], right: list[RLE]) -> np.ndarray:
    """Return the IoU of every pair, float64 (len(left), len(right)); all masks have one size."""
    if not left or not right:
        return np.zeros((len(left), len(right)))
    crowd = [0] * len(right)
    found = coco_mask.iou([r.as_coco() for r in left], [r.as_coco() for r in right], crowd)
    return np.asarray(found, dtype=np.float64).reshape(len(left), len(right))
