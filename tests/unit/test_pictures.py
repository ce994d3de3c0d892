"""Images that the page requests."""

from __future__ import annotations

import numpy as np
import pytest

from engine.annotation.pictures import Pictures
from storage.formats.images import read_image


@pytest.mark.parametrize("shape", [(2, 65_501, 3), (70_000, 3, 3)])
def test_an_image_larger_than_a_jpeg_can_be_is_shown_reduced(shape: tuple[int, int, int]) -> None:
    pixels = np.zeros(shape, np.uint8)
    pixels[: shape[0] // 2, : shape[1] // 2] = 255
    pictures = Pictures(lambda _: pixels)
    shown = read_image(pictures.get(1, None), min_side=1)
    assert max(shown.shape) == 65_500
    assert shown[0, 0].min() > 200
    assert max(read_image(pictures.get(1, 1_600), min_side=1).shape) == 1_600
