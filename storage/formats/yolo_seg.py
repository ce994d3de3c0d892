"""YOLO's segmentation format: for each image a text file with a class number and a polygon a line.

Format: https://docs.ultralytics.com/datasets/segment/. A polygon has neither holes nor a second
piece, so masks lose those; the losses are counted.

P = corners.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import yaml

from engine.core import rle as rle_codec
from engine.core.rle import RLE


@dataclass(frozen=True, slots=True)
class Outline:
    """A mask's largest piece: corners (x, y) in pixels, float64 (P, 2) with P of at least 3, and
    the numbers of its holes and of the mask's other pieces, which it leaves out."""

    points_P2: np.ndarray
    holes: int
    pieces: int


def outline_of(rle: RLE) -> Outline:
    """Return the outline of a mask that is not empty. Corners are centres of pixels, so that
    `cv2.fillPoly`, which fills its border too, gives the piece back."""
    x0, y0, x1, y1 = rle_codec.box_xyxy(rle)
    inside = np.ascontiguousarray(rle_codec.decode(rle)[y0:y1, x0:x1]).view(np.uint8)
    contours, hierarchy = cv2.findContours(inside, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    parents = hierarchy[0][:, 3]
    outer = [index for index, parent in enumerate(parents) if parent < 0]
    best = max(outer, key=lambda index: (cv2.contourArea(contours[index]), len(contours[index])))
    points = contours[best][:, 0].astype(np.float64)
    if len(points) < 3:  # a pixel, or a line of them
        (left, top), (right, bottom) = points.min(axis=0), points.max(axis=0)
        points = np.array([(left, top), (right, top), (right, bottom), (left, bottom)])
        points = points + np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) / 4
    holes = int((parents == best).sum())
    return Outline(points + np.array([x0 + 0.5, y0 + 0.5]), holes, len(outer) - 1)


def label_line(number: int, outline: Outline, size: tuple[int, int]) -> str:
    """Return a line of a label file.

    Args:
        number: of the class, from 0.
        outline: of the mask.
        size: of the image, (H, W).
    """
    shares = (outline.points_P2 / (size[1], size[0])).clip(0, 1)
    return " ".join([str(number), *(f"{value:.7g}" for value in shares.ravel())])


def data_yaml(names: Sequence[str], splits: Iterable[tuple[str, str]]) -> str:
    """Return the text of `data.yaml`: names of classes by number, and a folder of images by split,
    relative to the file."""
    content = {**dict(splits), "names": dict(enumerate(names))}
    return yaml.safe_dump(content, allow_unicode=True, sort_keys=False)
