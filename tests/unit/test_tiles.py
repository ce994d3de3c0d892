"""Prompts about small objects are predicted on tiles of the image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from engine.core.metrics import iou
from engine.core.records import Prompt
from engine.sam import Embedding, Prediction, Segmenter, load_segmenter
from engine.sam.tiles import SMALLEST_SIDE, PromptRequest, TiledPredictor
from tests.unit.fake_segmenters import AnswersTogether

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


def click(x: float, y: float) -> PromptRequest:
    return PromptRequest(Prompt(points_xy=np.array([[x, y]]), labels=np.array([1])))


def box(x: float, y: float, radius: float) -> PromptRequest:
    corners = np.array([x - radius, y - radius, x + radius + 1, y + radius + 1])
    return PromptRequest(Prompt(box_xyxy=corners))


class Counting:
    """A segmenter's `predict_each` that records the sizes of the embedded images."""

    def __init__(self, segmenter: Segmenter) -> None:
        self.segmenter = segmenter
        self.sizes: list[tuple[int, int]] = []

    def __call__(self, requests: Sequence[tuple[Embedding, Prompt, bool]]) -> list[Prediction]:
        self.sizes += [embedding.original_size for embedding, _, _ in requests]
        return self.segmenter.predict_each(requests)


class Blank(AnswersTogether):
    """Predicts empty masks and counts the images that it embeds."""

    images_at_once = 1

    def __init__(self) -> None:
        self.embedded = 0

    def embed_many(self, images: Sequence[np.ndarray], *, half: bool = False) -> list[Embedding]:
        self.embedded += len(images)
        return [Embedding(torch.zeros(1), image.shape[:2], image.shape[:2]) for image in images]

    def predict(
        self, embedding: Embedding, prompts: Sequence[Prompt], *, multimask: bool
    ) -> Prediction:
        return Prediction(torch.zeros(len(prompts), 1, 4, 4), torch.ones(len(prompts), 1))


def test_a_small_object_is_segmented_better_on_a_tile(
    segmenter: Segmenter, image: np.ndarray
) -> None:
    truth = disk(610, 420, 7)
    for request in (click(610, 420), box(610, 420, 7)):
        near, far = (
            TiledPredictor(segmenter, image),
            TiledPredictor(segmenter, image, use_tiles=False),
        )
        ious = []
        for viewer in (near, far):
            (answer,) = viewer.predict([request], multimask=False)
            ious.append(iou(viewer.mask(answer, 0), truth))
        assert ious[0] > 0.8
        assert ious[0] > ious[1]


def test_a_large_object_is_predicted_on_the_whole_image(
    segmenter: Segmenter, image: np.ndarray
) -> None:
    decode = Counting(segmenter)
    viewer = TiledPredictor(segmenter, image, decode=decode)
    (answer,) = viewer.predict([click(200, 250)], multimask=True)
    assert decode.sizes == [SIZE]
    assert answer.tile == viewer.whole
    plain = segmenter.predict(segmenter.embed(image), [click(200, 250).prompt], multimask=True)
    assert torch.allclose(answer.logits_MHW, plain.logits_BMHW[0], atol=1e-4)


def test_tiles_contain_their_boxes_and_lie_inside_the_image(image: np.ndarray) -> None:
    viewer = TiledPredictor(Blank(), image)
    rng = np.random.default_rng(3)
    for _ in range(200):
        radius = float(rng.uniform(1, 90))
        x, y = rng.uniform(radius, SIZE[1] - radius), rng.uniform(radius, SIZE[0] - radius)
        corners = np.array([x - radius, y - radius, x + radius, y + radius])
        request = PromptRequest(Prompt(box_xyxy=corners))
        (prediction,) = viewer.predict([request], multimask=False)
        x0, y0, x1, y1 = prediction.tile
        assert 0 <= x0 <= corners[0]
        assert 0 <= y0 <= corners[1]
        assert corners[2] <= x1 <= SIZE[1]
        assert corners[3] <= y1 <= SIZE[0]
        assert max(x1 - x0, y1 - y0) >= min(3 * 2 * radius, SMALLEST_SIDE)


def test_a_correction_is_predicted_on_the_same_tile_unless_it_is_outside(
    segmenter: Segmenter, image: np.ndarray
) -> None:
    viewer = TiledPredictor(segmenter, image)
    (first,) = viewer.predict([click(610, 420)], multimask=True)
    assert first.tile != viewer.whole
    points = np.array([[610.0, 420.0], [616.0, 420.0]])
    near = PromptRequest(Prompt(points_xy=points, labels=np.array([1, 0])), first, first.best)
    (second,) = viewer.predict([near], multimask=False)
    assert second.tile == first.tile
    far = np.array([[610.0, 420.0], [200.0, 250.0]])
    away = PromptRequest(Prompt(points_xy=far, labels=np.array([1, 0])), first, first.best)
    (third,) = viewer.predict([away], multimask=False)
    assert third.tile == viewer.whole


def test_the_previous_logits_are_fed_back(segmenter: Segmenter, image: np.ndarray) -> None:
    viewer = TiledPredictor(segmenter, image)
    (first,) = viewer.predict([click(610, 420)], multimask=True)
    prompt = click(610, 420).prompt
    (fed,) = viewer.predict([PromptRequest(prompt, first, 0)], multimask=False)
    (other,) = viewer.predict([PromptRequest(prompt, first, 2)], multimask=False)
    assert not torch.equal(fed.logits_MHW, other.logits_MHW)


def test_pixels_are_fetched_when_a_tile_needs_them(segmenter: Segmenter, image: np.ndarray) -> None:
    fetched: list[int] = []

    def pixels() -> np.ndarray:
        fetched.append(1)
        return image

    viewer = TiledPredictor(segmenter, pixels, segmenter.embed(image))
    viewer.predict([click(200, 250)], multimask=True)
    assert fetched == []
    requests = [box(x, y, 6) for x in (50, 300, 700) for y in (50, 500)]
    found = viewer.predict(requests, multimask=False)
    assert fetched == [1]
    assert len({prediction.tile for prediction in found}) == 6
    assert viewer.masks([(prediction, 0) for prediction in found]).shape == (6, *SIZE)


def test_the_whole_image_and_the_tiles_used_last_stay_embedded(image: np.ndarray) -> None:
    model = Blank()
    viewer = TiledPredictor(model, image, max_tiles=2)
    first, last = box(50, 50, 6), box(700, 500, 6)
    for request in (first, last, last, click(200, 250)):
        viewer.predict([request], multimask=False)
    assert model.embedded == 3
    viewer.predict([first], multimask=False)
    assert model.embedded == 4
