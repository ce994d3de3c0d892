"""Regions of like pixels for the page's wand."""

from __future__ import annotations

import gzip

import numpy as np
import pytest

from engine.annotation.errors import RefusedError
from engine.annotation.like_regions import MAX_SIDE, LikeRegions, Part, divided, packed


def disc() -> np.ndarray:
    """A red disc on grey with a little noise, RGB uint8 (200, 300, 3)."""
    y, x = np.mgrid[:200, :300]
    image = np.full((200, 300, 3), 120, np.uint8)
    image[(x - 150) ** 2 + (y - 100) ** 2 < 60**2] = (200, 40, 40)
    noise = np.random.default_rng(0).integers(0, 12, image.shape, np.uint8)
    return np.asarray(image + noise)


def test_regions_follow_the_borders_of_objects() -> None:
    image = disc()
    labels = divided(image, Part(50, 10, 250, 190, 60))
    assert labels.shape == (180, 200)
    assert 30 <= labels.max() + 1 <= 90
    inside = image[10:190, 50:250, 0] > 160
    wrong = sum(
        min(inside[labels == label].sum(), (~inside[labels == label]).sum())
        for label in np.unique(labels)
    )
    assert wrong < 0.01 * inside.size


def test_a_large_part_is_reduced_and_a_part_outside_is_refused() -> None:
    image = np.zeros((40, 2 * MAX_SIDE, 3), np.uint8)
    assert divided(image, Part(0, 0, 2 * MAX_SIDE, 40, 10)).shape == (20, MAX_SIDE)
    assert divided(image, Part(5, 5, 6, 6, 10)).shape == (1, 1)
    for box in ((0, 0, 2 * MAX_SIDE + 1, 40), (5, 5, 5, 9), (9, 5, 6, 9)):
        with pytest.raises(RefusedError, match="empty or outside"):
            divided(image, Part(*box, 10))


def test_the_same_part_is_divided_once_and_packed_row_by_row() -> None:
    asked: list[int] = []

    def pixels_of(image_id: int) -> np.ndarray:
        asked.append(image_id)
        return disc()

    regions = LikeRegions(pixels_of)
    part = Part(0, 0, 300, 200, 40)
    assert regions.get(1, part) == regions.get(1, part)
    assert asked == [1]
    labels = np.array([[1, 2, 3], [4, 5, 65_535]], np.uint16)
    data = gzip.decompress(packed(labels))
    assert np.frombuffer(data, "<u4", 2).tolist() == [3, 2]
    assert np.frombuffer(data, "<u2", offset=8).tolist() == [1, 2, 3, 4, 5, 65_535]
