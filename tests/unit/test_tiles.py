"""Tiles of large images."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from engine.annotation.errors import RefusedError
from engine.annotation.tiles import SMALLEST, TILE, Tiles, cut
from storage.formats.images import read_image


def slope(height: int, width: int) -> np.ndarray:
    """Brightness from left to right, with darker rows: RGB uint8."""
    x = np.linspace(0, 255, width)[None, :, None]
    y = np.linspace(1, 0.5, height)[:, None, None]
    return np.repeat((x * y).astype(np.uint8), 3, axis=2)


def test_tiles_of_each_level_show_the_whole_image() -> None:
    image = slope(700, 3_500)
    pyramid = dict(cut(image))
    levels = {level for level, _, _ in pyramid}
    assert levels == {0, 1, 2}
    for level in levels:
        width, height = -(-3_500 // 2**level), -(-700 // 2**level)
        columns, rows = -(-width // TILE), -(-height // TILE)
        tiles = {(c, r): pyramid[level, c, r] for c in range(columns) for r in range(rows)}
        assert len(tiles) == sum(key[0] == level for key in pyramid)
        shown = np.vstack(
            [np.hstack([read_image(tiles[c, r]) for c in range(columns)]) for r in range(rows)]
        )
        expected = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
        assert np.abs(shown.astype(int) - expected).mean() < 1.5
    assert max(-(-3_500 // 4), -(-700 // 4)) <= SMALLEST


def test_an_image_is_cut_once_and_a_tile_that_is_not_there_is_refused() -> None:
    asked: list[int] = []

    def pixels_of(image_id: int) -> np.ndarray:
        asked.append(image_id)
        return slope(600, 600)

    tiles = Tiles(pixels_of)
    assert read_image(tiles.get(3, 0, 1, 1)).shape == (88, 88, 3)
    assert tiles.get(3, 0, 0, 0)
    assert asked == [3]
    for place in ((0, 2, 0), (1, 0, 0), (0, 0, 9)):
        with pytest.raises(RefusedError, match="no tile"):
            tiles.get(3, *place)


def test_tiles_are_kept_while_they_are_recent_also_those_of_an_image_larger_than_the_room() -> None:
    asked: list[int] = []

    def pixels_of(image_id: int) -> np.ndarray:
        asked.append(image_id)
        return slope(600, 600)

    tiles = Tiles(pixels_of, capacity_bytes=100)
    first = tiles.get(1, 0, 0, 0)
    assert tiles.get(1, 0, 0, 0) == first
    assert tiles.of(1).size > 100
    tiles.get(2, 0, 0, 0)
    assert tiles.get(1, 0, 0, 0) == first
    assert asked == [1, 2, 1]
