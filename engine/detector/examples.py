"""Training examples of a detector: an image and crops of it, embedded.

N = masks, H x W = image.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from engine.core.rle import RLE, box_xyxy
from engine.detector.detector import units_per_pixel
from engine.detector.training import Example
from engine.sam.segmenter import Embedding, Segmenter

VIEWS = 4
"""Embeddings per image: the whole image, and crops."""

CROP_SIDES = (0.4, 0.9)
"""Range of a crop's sides, as shares of the image's."""

LEAST_INSIDE = 0.6
"""Share of a box's area that lies in a crop with this object."""


def examples_of(
    segmenter: Segmenter,
    image_HWC: np.ndarray,
    rles: Sequence[RLE],
    rng: np.random.Generator,
    *,
    whole: Embedding | None = None,
    views: int = VIEWS,
) -> list[Example]:
    """Return `views` examples of one image, the first of them the whole image.

    Args:
        segmenter: the model.
        image_HWC: RGB uint8.
        rles: N masks of the image.
        rng: draws the crops.
        whole: the image's embedding, if it exists already.
        views: embeddings; 1 for a model that is slow to encode with.
    """
    boxes = np.array([box_xyxy(rle) for rle in rles], np.float32).reshape(-1, 4)
    found = [_example(whole or segmenter.embed(image_HWC), boxes)]
    height, width = image_HWC.shape[:2]
    for _ in range(views - 1):
        share = rng.uniform(*CROP_SIDES)
        size = np.maximum(1, (share * np.array([width, height])).astype(int))
        left, top = rng.integers(0, np.array([width, height]) - size + 1)
        right, bottom = left + size[0], top + size[1]
        crop = np.ascontiguousarray(image_HWC[top:bottom, left:right])
        limits = np.array([left, top, right, bottom], np.float32)
        found.append(_example(segmenter.embed(crop), _inside(boxes, limits)))
    return found


def _inside(boxes_N4: np.ndarray, crop_xyxy: np.ndarray) -> np.ndarray:
    """Return the boxes of which enough lies in the crop, cut and in its frame."""
    corner = np.tile(crop_xyxy[:2], 2)
    cut = np.clip(boxes_N4, np.tile(crop_xyxy[:2], 2), np.tile(crop_xyxy[2:], 2))
    areas, left = (np.prod(np.maximum(b[:, 2:] - b[:, :2], 0), axis=1) for b in (boxes_N4, cut))
    is_inside = left >= LEAST_INSIDE * np.maximum(areas, 1)
    moved: np.ndarray = (cut - corner)[is_inside]
    return moved


def _example(embedding: Embedding, boxes_N4: np.ndarray) -> Example:
    scale = units_per_pixel(embedding)
    boxes = boxes_N4 * np.array([*scale, *scale], np.float32)
    is_box = (boxes[:, 2:] - boxes[:, :2] > 1).all(axis=1)
    features = embedding.features_1CHW[0].cpu().half()
    return Example(features, torch.from_numpy(boxes[is_box].astype(np.float32)))
