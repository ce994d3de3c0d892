"""Images that the page requests."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import Any

import cv2
import numpy as np
import pytest

from engine.annotation.pictures import Pictures, Shared
from storage.formats.images import read_image, read_stretched, write_png


@pytest.mark.parametrize("shape", [(2, 65_501, 3), (70_000, 3, 3)])
def test_an_image_larger_than_a_jpeg_can_be_is_shown_reduced(shape: tuple[int, int, int]) -> None:
    pixels = np.zeros(shape, np.uint8)
    pixels[: shape[0] // 2, : shape[1] // 2] = 255
    pictures = Pictures(lambda _: pixels)
    shown = read_image(pictures.get(1, None), min_side=1)
    assert max(shown.shape) == 65_500
    assert shown[0, 0].min() > 200
    assert max(read_image(pictures.get(1, 1_600), min_side=1).shape) == 1_600


def test_a_picture_is_stretched_from_the_full_depth_of_the_stored_file() -> None:
    steps = np.linspace(1_000, 1_200, 200).astype(np.uint16)  # one level of 256 in the whole range
    deep = np.tile(steps, (100, 1))
    deep[:2] = 65_535
    data = cv2.imencode(".png", deep)[1].tobytes()
    plain = read_image(data)
    assert len(np.unique(plain[2:])) <= 2
    stretched = read_stretched(data, 0, 97)
    assert len(np.unique(stretched[2:])) > 190
    assert (stretched[:2] == 255).all()
    assert (np.diff(stretched[50, :, 0].astype(int)) >= 0).all()


def test_a_dark_picture_of_8_bits_is_stretched_too_and_colours_keep_their_order() -> None:
    dark = np.full((50, 60, 3), (4, 8, 12), np.uint8)
    dark[:, 30:] += 8
    shown = read_stretched(write_png(dark), 0, 100)
    assert (int(shown.min()), int(shown.max())) == (0, 255)
    assert (np.diff(shown[0, 0].astype(int)) > 0).all()
    flat = np.full((50, 60, 3), 7, np.uint8)
    assert not read_stretched(write_png(flat), 1, 99).any()


def test_stretched_pictures_are_kept_beside_the_plain_one() -> None:
    asked: list[tuple[Any, ...]] = []

    def pixels_of(image_id: int, *between: tuple[float, float]) -> np.ndarray:
        asked.append((image_id, *between))
        return np.zeros((40, 40, 3), np.uint8)

    pictures = Pictures(pixels_of)
    for _ in range(2):
        pictures.get(1, 64)
        pictures.get(1, 64, (1.0, 99.0))
    assert asked == [(1,), (1, (1.0, 99.0))]


def test_pixels_are_read_once_for_all_who_need_them_at_the_same_time() -> None:
    asked: list[int] = []
    may_go_on = Event()

    def read(image_id: int) -> np.ndarray:
        asked.append(image_id)
        assert may_go_on.wait(10)
        if image_id == 3:
            raise OSError("gone")
        return np.zeros((4, 4, 3), np.uint8)

    shared = Shared(read)
    with ThreadPoolExecutor(3) as pool:
        answers = [pool.submit(shared, image_id) for image_id in (1, 1, 2)]
        may_go_on.set()
        first, again, other = (answer.result() for answer in answers)
    assert first is again
    assert first is not other
    assert shared(1) is first
    assert sorted(asked) == [1, 2]
    del first, again, answers
    shared(1)
    assert sorted(asked) == [1, 1, 2]
    for _ in range(2):
        with pytest.raises(OSError, match="gone"):
            shared(3)


def test_a_large_picture_is_read_in_bands(monkeypatch: pytest.MonkeyPatch) -> None:
    from storage.formats import images

    noise = np.random.default_rng(0).integers(0, 256, (37, 23, 3)).astype(np.uint8)
    monkeypatch.setattr(images, "_BAND_PIXELS", 23 * 5)
    assert (read_image(write_png(noise)) == noise).all()
