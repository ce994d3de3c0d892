"""Perceptual hashes: near for copies of a picture, far for other pictures, none for blank ones."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO

import numpy as np
import pytest
from PIL import Image
from skimage import data as photographs

from engine.core.near_duplicates import (
    MAX_BITS,
    bits_apart,
    mean_colours,
    perceptual_hash,
    shows_the_same,
)
from storage.formats.images import inspect_image, thumbnail, write_png

PHOTOGRAPHS = [
    np.array(Image.fromarray(getattr(photographs, name)()).convert("RGB"))
    for name in ("astronaut", "coffee", "chelsea", "coins", "page", "moon")
]


def jpeg(image: Image.Image) -> Image.Image:
    buffer = BytesIO()
    image.save(buffer, "JPEG", quality=40)
    return Image.open(buffer).convert("RGB")


def cropped(image: Image.Image) -> Image.Image:
    w, h = image.size
    return image.crop((w // 200, h // 200, w - w // 200, h - h // 200))


SAME: dict[str, Callable[[Image.Image], Image.Image]] = {
    "re-encoded": jpeg,
    "half size": lambda image: image.resize((image.width // 2, image.height // 2)),
    "another ratio": lambda image: image.resize((300, 200)),
    "darker": lambda image: image.point(lambda value: int(value * 0.7)),
    "grey": lambda image: image.convert("L").convert("RGB"),
    "cropped by half a percent": cropped,
}


def seen(image: Image.Image) -> np.ndarray:
    return thumbnail(np.array(image))


def near(one_HWC: np.ndarray, other_HWC: np.ndarray) -> bool:
    one, other = perceptual_hash(one_HWC), perceptual_hash(other_HWC)
    assert one is not None
    assert other is not None
    apart = bits_apart(np.array([one], np.uint64), other)[0]
    return bool(apart <= MAX_BITS) and shows_the_same(one_HWC, other_HWC)


@pytest.mark.parametrize("change", SAME)
def test_a_changed_copy_is_near_its_picture(change: str) -> None:
    for pixels in PHOTOGRAPHS:
        picture = Image.fromarray(pixels)
        assert near(seen(picture), seen(SAME[change](picture)))


def test_different_pictures_and_mirrored_ones_are_not_near() -> None:
    found = [thumbnail(pixels) for pixels in PHOTOGRAPHS]
    found += [thumbnail(pixels[:, ::-1]) for pixels in PHOTOGRAPHS[:4]]
    for place, one in enumerate(found):
        assert not any(near(one, other) for other in found[:place])


def test_an_object_elsewhere_before_the_same_background_is_not_near() -> None:
    """The hashes alone are: a fixed camera photographs a small object in two places."""
    background = np.array(Image.fromarray(PHOTOGRAPHS[0]).resize((640, 480)))
    here, there = background.copy(), background.copy()
    here[100:120, 100:140] = there[300:320, 400:440] = 250
    one, other = thumbnail(here), thumbnail(there)
    bits = perceptual_hash(other)
    assert bits is not None
    assert bits_apart(np.array([perceptual_hash(one)], np.uint64), bits)[0] <= MAX_BITS
    assert not shows_the_same(one, other)


@pytest.mark.parametrize("level", [0, 128, 255])
def test_a_picture_of_nearly_one_colour_has_no_hash(level: int) -> None:
    rng = np.random.default_rng(0)
    noise = rng.integers(-3, 4, (200, 300, 3))
    assert perceptual_hash(thumbnail(np.clip(level + noise, 0, 255).astype(np.uint8))) is None


def test_bits_are_counted_against_each_hash() -> None:
    hashes = np.array([0, 1, 0b1011, 2**64 - 1], np.uint64)
    assert bits_apart(hashes, 0b0001).tolist() == [1, 0, 2, 63]


def test_another_shape_than_a_thumbnails_is_refused() -> None:
    with pytest.raises(ValueError, match="thumbnail"):
        perceptual_hash(PHOTOGRAPHS[0])


def test_mean_colours_are_of_sixteen_areas() -> None:
    image = np.zeros((32, 32, 3), np.uint8)
    image[:8, 8:16] = (10, 20, 30)
    found = mean_colours(image).reshape(4, 4, 3)
    assert found[0, 1].tolist() == [10, 20, 30]
    assert found.sum() == 60


def test_the_thumbnail_of_a_file_is_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    buffer = BytesIO()
    Image.fromarray(PHOTOGRAPHS[0]).transpose(Image.Transpose.ROTATE_90).save(
        buffer, "PNG", exif=exif
    )
    turned = inspect_image(buffer.getvalue()).thumbnail_HWC
    plain = inspect_image(write_png(PHOTOGRAPHS[0])).thumbnail_HWC
    assert turned is not None
    assert plain is not None
    np.testing.assert_allclose(turned.astype(int), plain, atol=1)  # rows, then columns, rounded
