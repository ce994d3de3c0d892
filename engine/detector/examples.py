"""Training examples of a detector: an image's embedding and the boxes of its masks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from engine.core.rle import RLE, box_xyxy
from engine.detector.detector import units_per_pixel
from engine.detector.training import Example
from engine.sam.segmenter import Embedding


def example_of(embedding: Embedding, rles: Sequence[RLE]) -> Example:
    """Return the example of one image; boxes of at most one unit are left out.

    Args:
        embedding: of the whole image.
        rles: masks of the image.
    """
    scale = units_per_pixel(embedding)
    boxes = np.array([box_xyxy(rle) for rle in rles], np.float32).reshape(-1, 4)
    boxes *= np.array([*scale, *scale], np.float32)
    is_box = (boxes[:, 2:] - boxes[:, :2] > 1).all(axis=1)
    return Example(embedding.features_1CHW[0].cpu().half(), torch.from_numpy(boxes[is_box]))
