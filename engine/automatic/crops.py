"""Crops of an image (SAM paper, appendix B; segment_anything/utils/amg.py).

Boxes are half-open pixel XYXY of the image; sizes (H, W).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product

import numpy as np

EDGE_PIXELS = 20
"""A mask whose box lies within this distance of an inner edge of its crop is dropped as cut off."""


@dataclass(frozen=True, slots=True)
class Crop:
    """One crop: its box, and its layer, 0 for the whole image."""

    box_xyxy: tuple[int, int, int, int]
    layer: int

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the crop in pixels."""
        return self.box_xyxy[3] - self.box_xyxy[1], self.box_xyxy[2] - self.box_xyxy[0]

    def cut(self, image_HWC: np.ndarray) -> np.ndarray:
        """Return a view of the crop's part of the image."""
        x0, y0, x1, y1 = self.box_xyxy
        return image_HWC[y0:y1, x0:x1]


def make_crops(size: tuple[int, int], layers: int, overlap: float) -> list[Crop]:
    """Return the whole image as a crop and, layer by layer, 2^i x 2^i overlapping crops.

    Args:
        size: (H, W) of the image.
        layers: number of layers of crops; 0 for the whole image alone.
        overlap: of neighbours in the first layer, as a share of the image's short side.
    """
    height, width = size
    found = [Crop((0, 0, width, height), 0)]
    for layer in range(1, layers + 1):
        count = 2**layer
        shared = int(overlap * min(size) * 2 / count)
        crop_w = math.ceil((shared * (count - 1) + width) / count)
        crop_h = math.ceil((shared * (count - 1) + height) / count)
        for column, row in product(range(count), range(count)):
            x, y = (crop_w - shared) * column, (crop_h - shared) * row
            if x < width and y < height:
                box = (x, y, min(x + crop_w, width), min(y + crop_h, height))
                found.append(Crop(box, layer))
    return found


def touches_crop_edge(boxes_N4: np.ndarray, crop: Crop, size: tuple[int, int]) -> np.ndarray:
    """Return which boxes lie within EDGE_PIXELS of an edge of their crop that is not an edge of the
    image, bool (N,).

    Args:
        boxes_N4: XYXY in pixels of the image.
        crop: the boxes' crop.
        size: (H, W) of the image.
    """
    near_crop = np.abs(boxes_N4 - np.array(crop.box_xyxy)) <= EDGE_PIXELS
    near_image = np.abs(boxes_N4 - np.array([0, 0, size[1], size[0]])) <= EDGE_PIXELS
    return np.asarray((near_crop & ~near_image).any(axis=1))
