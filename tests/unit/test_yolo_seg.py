"""Polygons of YOLO's segmentation format give a mask's largest piece back, without its holes."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest

from engine.core import rle as rle_codec
from storage.formats.yolo_seg import label_line, outline_of
from tests.labelled_shapes import draw_picture

SIZE = (40, 60)


def filled(line: str, size: tuple[int, int]) -> np.ndarray:
    """The pixels that a reader of the format fills: it cuts corners to whole pixels."""
    values = np.array(line.split()[1:], np.float64).reshape(-1, 2)
    corners = (values * (size[1], size[0])).astype(np.int32)
    mask = np.zeros(size, np.uint8)
    cv2.fillPoly(mask, [corners], 1)
    return mask.astype(bool)


def line_of(pixels: np.ndarray) -> tuple[str, int, int]:
    outline = outline_of(rle_codec.encode(pixels))
    return label_line(3, outline, SIZE), outline.holes, outline.pieces


@pytest.mark.parametrize("seed", range(4))
def test_a_mask_of_one_piece_comes_back_pixel_by_pixel(seed: int) -> None:
    for thing in draw_picture(seed).things:
        line = label_line(0, outline_of(thing.rle), thing.rle.size)
        assert np.array_equal(filled(line, thing.rle.size), rle_codec.decode(thing.rle))


def test_holes_and_further_pieces_are_lost_and_counted() -> None:
    pixels = np.zeros(SIZE, bool)
    pixels[5:25, 5:30] = True
    whole = pixels.copy()
    pixels[8:10, 8:10] = pixels[15:18, 15:20] = False  # two holes
    pixels[30:35, 40:45] = pixels[30, 50] = True  # two more pieces
    line, holes, pieces = line_of(pixels)
    assert (line.split()[0], holes, pieces) == ("3", 2, 2)
    assert np.array_equal(filled(line, SIZE), whole)


@pytest.mark.parametrize(
    "place", [np.s_[7, 9], np.s_[0, 0], np.s_[39, 59], np.s_[7, 9:20], np.s_[3:30, 59]]
)
def test_a_pixel_and_a_line_have_a_polygon_with_an_area(place: Any) -> None:
    pixels = np.zeros(SIZE, bool)
    pixels[place] = True
    line, _, _ = line_of(pixels)
    corners = np.array(line.split()[1:], np.float64).reshape(-1, 2)
    assert len(corners) >= 3
    assert ((corners >= 0) & (corners <= 1)).all()
    assert cv2.contourArea((corners * 1000).astype(np.float32)) > 0
    assert np.array_equal(filled(line, SIZE), pixels)
