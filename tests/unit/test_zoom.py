"""Small objects are looked at closer, on tiles of the image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from engine.core.metrics import iou
from engine.core.records import Prompt
from engine.sam import Embedding, Prediction, Segmenter, load_segmenter
from engine.sam.zoom import SMALLEST_SIDE, Ask, Zoom

torch.set_num_threads(1)
SIZE = (600, 800)


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    return load_segmenter()


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    """Grey, with a large bright disk and a small one."""
    found = np.full((*SIZE, 3), 90, np.uint8)
    found[disk(200, 250, 120)] = (230, 180, 60)
    found[disk(610, 420, 7)] = (60, 200, 240)
    noise = np.random.default_rng(1).integers(-8, 9, found.shape)
    return np.clip(found.astype(int) + noise, 0, 255).astype(np.uint8)


def disk(x: int, y: int, radius: int) -> np.ndarray:
    ys, xs = np.mgrid[: SIZE[0], : SIZE[1]]
    return np.asarray((xs - x) ** 2 + (ys - y) ** 2 <= radius**2)


def click(x: float, y: float) -> Ask:
    return Ask(Prompt(points_xy=np.array([[x, y]]), labels=np.array([1])))


def box(x: float, y: float, radius: float) -> Ask:
    corners = np.array([x - radius, y - radius, x + radius + 1, y + radius + 1])
    return Ask(Prompt(box_xyxy=corners))


class Counting:
    """A segmenter's `predict_each` that notes the size of what it was asked about."""

    def __init__(self, segmenter: Segmenter) -> None:
        self.segmenter = segmenter
        self.sizes: list[tuple[int, int]] = []

    def __call__(self, asked: Sequence[tuple[Embedding, Prompt, bool]]) -> list[Prediction]:
        self.sizes += [embedding.original_size for embedding, _, _ in asked]
        return self.segmenter.predict_each(asked)


def test_a_small_object_is_drawn_better_from_close_up(
    segmenter: Segmenter, image: np.ndarray
) -> None:
    truth = disk(610, 420, 7)
    for ask in (click(610, 420), box(610, 420, 7)):
        near, far = Zoom(segmenter, image), Zoom(segmenter, image, is_on=False)
        ious = []
        for viewer in (near, far):
            (answer,) = viewer.predict([ask], multimask=False)
            ious.append(iou(viewer.mask(answer, 0), truth))
        assert ious[0] > 0.8
        assert ious[0] > ious[1]


def test_a_large_object_is_answered_on_the_whole_image(
    segmenter: Segmenter, image: np.ndarray
) -> None:
    decode = Counting(segmenter)
    viewer = Zoom(segmenter, image, decode=decode)
    (answer,) = viewer.predict([click(200, 250)], multimask=True)
    assert decode.sizes == [SIZE]
    assert answer.tile == viewer.whole
    plain = segmenter.predict(segmenter.embed(image), [click(200, 250).prompt], multimask=True)
    assert torch.allclose(answer.logits_MHW, plain.logits_BMHW[0], atol=1e-4)


def test_tiles_hold_their_boxes_and_lie_in_the_image(
    segmenter: Segmenter, image: np.ndarray
) -> None:
    viewer = Zoom(segmenter, image)
    rng = np.random.default_rng(3)
    for _ in range(200):
        radius = float(rng.uniform(1, 90))
        x, y = rng.uniform(radius, SIZE[1] - radius), rng.uniform(radius, SIZE[0] - radius)
        corners = np.array([x - radius, y - radius, x + radius, y + radius])
        x0, y0, x1, y1 = viewer._around(corners, 1 / 3, None)
        assert 0 <= x0 <= corners[0]
        assert 0 <= y0 <= corners[1]
        assert corners[2] <= x1 <= SIZE[1]
        assert corners[3] <= y1 <= SIZE[0]
        assert max(x1 - x0, y1 - y0) >= min(3 * 2 * radius, SMALLEST_SIDE)


def test_a_correction_stays_on_the_tile_of_its_answer_unless_it_is_outside(
    segmenter: Segmenter, image: np.ndarray
) -> None:
    viewer = Zoom(segmenter, image)
    (first,) = viewer.predict([click(610, 420)], multimask=True)
    assert first.tile != viewer.whole
    points = np.array([[610.0, 420.0], [616.0, 420.0]])
    near = Ask(Prompt(points_xy=points, labels=np.array([1, 0])), first, first.best)
    (second,) = viewer.predict([near], multimask=False)
    assert second.tile == first.tile
    far = np.array([[610.0, 420.0], [200.0, 250.0]])
    away = Ask(Prompt(points_xy=far, labels=np.array([1, 0])), first, first.best)
    (third,) = viewer.predict([away], multimask=False)
    assert third.tile == viewer.whole


def test_former_logits_are_fed_back(segmenter: Segmenter, image: np.ndarray) -> None:
    viewer = Zoom(segmenter, image)
    (first,) = viewer.predict([click(610, 420)], multimask=True)
    prompt = click(610, 420).prompt
    (fed,) = viewer.predict([Ask(prompt, first, 0)], multimask=False)
    (other,) = viewer.predict([Ask(prompt, first, 2)], multimask=False)
    assert not torch.equal(fed.logits_MHW, other.logits_MHW)


def test_the_pixels_are_fetched_when_they_are_needed_and_few_tiles_are_kept(
    segmenter: Segmenter, image: np.ndarray
) -> None:
    fetched: list[int] = []

    def pixels() -> np.ndarray:
        fetched.append(1)
        return image

    viewer = Zoom(segmenter, pixels, segmenter.embed(image), max_tiles=2)
    viewer.predict([click(200, 250)], multimask=True)
    assert fetched == []
    asks = [box(x, y, 6) for x in (50, 300, 700) for y in (50, 500)]
    found = viewer.predict(asks, multimask=False)
    assert fetched == [1]
    assert len({answer.tile for answer in found}) == 6
    assert len(viewer._embedded) == 2
    assert viewer.whole in viewer._embedded
    assert viewer.masks([(answer, 0) for answer in found]).shape == (6, *SIZE)
