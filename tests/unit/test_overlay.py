"""Pictures of masks over images."""

from __future__ import annotations

import numpy as np
import pytest

from engine.core import rle
from engine.core.overlay import draw_masks, mask_color, shrink

SIZE = (60, 80)


def box_mask(x0: int, y0: int, x1: int, y1: int, size: tuple[int, int] = SIZE) -> rle.RLE:
    mask = np.zeros(size, bool)
    mask[y0:y1, x0:x1] = True
    return rle.encode(mask)


def grey(size: tuple[int, int] = SIZE) -> np.ndarray:
    return np.full((*size, 3), 128, np.uint8)


def test_without_masks_the_picture_is_a_copy_of_the_image() -> None:
    image = grey()
    drawn = draw_masks(image, [])
    assert np.array_equal(drawn, image)
    assert not np.shares_memory(drawn, image)


def test_a_mask_is_mixed_into_its_inside_and_outlined_in_full_colour() -> None:
    image = grey()
    drawn = draw_masks(image, [box_mask(10, 10, 40, 40)], alpha=0.5)
    color = np.array(mask_color(0))
    assert np.abs(drawn[25, 25] - (color + 128) / 2).max() <= 1
    assert np.abs(drawn[25, 10] - color).max() <= 8, "the outline is smoothed a little"
    assert np.array_equal(drawn[5, 5], image[5, 5])
    assert (image == 128).all(), "the image given must stay as it was"


def test_a_part_is_seen_on_its_whole_whatever_the_order() -> None:
    whole, part = box_mask(5, 5, 70, 50), box_mask(20, 20, 40, 40)
    for masks, index in (([whole, part], 1), ([part, whole], 0)):
        drawn = draw_masks(grey(), masks, alpha=1.0)
        assert np.array_equal(drawn[30, 30], mask_color(index))
        assert np.array_equal(drawn[10, 60], mask_color(1 - index))


def test_colours_depend_on_the_index_and_do_not_repeat() -> None:
    assert len({mask_color(index) for index in range(105)}) == 105
    assert mask_color(3) == mask_color(3)
    with pytest.raises(ValueError, match="not be negative, got -1"):
        mask_color(-1)


def test_large_images_are_scaled_down_and_small_ones_are_not() -> None:
    size = (300, 1200)
    drawn = draw_masks(grey(size), [box_mask(0, 0, 600, 300, size)], max_side=400, alpha=1.0)
    assert drawn.shape == (100, 400, 3)
    assert np.array_equal(drawn[50, 100], mask_color(0))
    assert np.array_equal(drawn[50, 300], (128, 128, 128))
    assert draw_masks(grey(), [], max_side=400).shape == (*SIZE, 3)
    assert shrink(grey((1, 5000)), 10).shape == (1, 10, 3)


def test_a_mask_of_one_pixel_is_visible_after_scaling_down() -> None:
    size = (1000, 1000)
    drawn = draw_masks(grey(size), [box_mask(500, 500, 501, 501, size)], max_side=100)
    assert (drawn != 128).any()


def test_holes_stay_clear_and_empty_masks_draw_nothing() -> None:
    ring = np.zeros(SIZE, bool)
    ring[5:55, 5:75] = True
    ring[20:40, 20:60] = False
    drawn = draw_masks(grey(), [rle.encode(np.zeros(SIZE, bool)), rle.encode(ring)], alpha=1.0)
    assert np.array_equal(drawn[30, 40], (128, 128, 128))
    assert np.array_equal(drawn[10, 10], mask_color(1))


@pytest.mark.parametrize(
    ("image", "options", "message"),
    [
        (np.zeros((4, 4), np.uint8), {}, "RGB uint8"),
        (np.zeros((4, 4, 3)), {}, "RGB uint8"),
        (np.zeros((0, 4, 3), np.uint8), {}, "one pixel"),
        (grey(), {"alpha": 1.5}, "alpha"),
        (grey(), {"max_side": 0}, "max_side"),
    ],
)
def test_invalid_arguments_are_refused(
    image: np.ndarray, options: dict[str, float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        draw_masks(image, [], **options)  # type: ignore[arg-type]


def test_a_mask_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="mask 0 has size"):
        draw_masks(grey(), [box_mask(0, 0, 3, 3, (80, 60))])
