"""Which of a click's masks, predicted on the whole image and on tiles around it, come first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

from engine.core.metrics import iou
from engine.core.records import Prompt
from engine.core.rle import encode
from engine.evaluation.click_levels import best_click_levels, score_click_levels
from engine.evaluation.clicks import EvaluationImage
from engine.sam import Embedding, Outputs, Prediction, Segmenter
from engine.sam.tile_masks import Tile, TileMask, choose_in_box
from engine.sam.tiles import PromptRequest, TiledPredictor

Box = tuple[int, int, int, int]
SIDE, LOW = 384, 96
PLACES = np.stack(np.meshgrid(np.arange(SIDE), np.arange(SIDE)), -1) // 2
IMAGE = np.dstack([PLACES, PLACES[..., :1]]).astype(np.uint8)
"""An image whose pixels say where they are, halved."""

CLICK = (200, 200)
BLOCK: Box = (120, 120, 300, 300)
HOUSE: Box = (180, 184, 220, 224)
DOOR: Box = (196, 196, 208, 212)


def mask_of(box: Box) -> np.ndarray:
    found = np.zeros((SIDE, SIDE), bool)
    found[box[1] : box[3], box[0] : box[2]] = True
    return found


class Views(Segmenter):
    """Predicts boxes, with these predicted IoUs, that depend on the side of the tile it sees."""

    low_side = LOW
    images_at_once = 4
    workers = 1

    def __init__(self, answer: Callable[[int], list[tuple[Box, float]]], side: int = LOW) -> None:
        self.answer, self.input_side = answer, side
        self.seen: list[Tile] = []
        self.sam = SimpleNamespace(device="cpu")

    @property
    def side(self) -> int:
        return self.input_side

    def embed(self, image_HWC: np.ndarray) -> Embedding:
        return self.embed_many([image_HWC])[0]

    def embed_many(self, images: Sequence[np.ndarray], *, half: bool = False) -> list[Embedding]:
        corners = [torch.from_numpy(2 * image[0, 0, :2].astype(int)) for image in images]
        sizes = [image.shape[:2] for image in images]
        return [Embedding(xy, size, size) for xy, size in zip(corners, sizes, strict=True)]

    def predict_each(
        self, requests: Sequence[tuple[Embedding, Prompt, Outputs]]
    ) -> list[Prediction]:
        found = []
        for embedding, _, outputs in requests:
            (x0, y0), side = embedding.features_1CHW.tolist(), max(embedding.original_size)
            self.seen.append((x0, y0, x0 + side, y0 + side))
            answers = self.answer(side)
            answers = answers[:1] if outputs is Outputs.ONE else answers
            logits = np.stack([self._logits(box, x0, y0, side) for box, _ in answers])
            scores = torch.tensor([[score for _, score in answers]])
            found.append(Prediction(torch.from_numpy(logits)[None], scores))
        return found

    def _logits(self, box: Box, x0: int, y0: int, side: int) -> np.ndarray:
        shown = np.where(mask_of(box)[y0 : y0 + side, x0 : x0 + side], 5, -5).astype(np.float32)
        return np.asarray(cv2.resize(shown, (LOW, LOW), interpolation=cv2.INTER_AREA))

    def masks(self, embedding: Embedding, logits_BHW: torch.Tensor) -> np.ndarray:
        size = embedding.original_size[::-1]
        return np.stack([cv2.resize(logits.numpy(), size) > 0 for logits in logits_BHW])


def predicted(model: Views, *, multimask: bool = True) -> tuple[TiledPredictor, list[TileMask]]:
    viewer = TiledPredictor(model, IMAGE)
    request = PromptRequest(Prompt(np.array([CLICK], np.float64), np.array([1])))
    (found,) = viewer.predict([request], multimask=multimask)
    return viewer, found


def shown(viewer: TiledPredictor, mask: TileMask) -> str:
    """Which of the boxes a mask is."""
    named = {"block": BLOCK, "house": HOUSE, "door": DOOR}
    found = viewer.mask(mask)
    return max(named, key=lambda name: iou(found, mask_of(named[name])))


def test_what_two_tiles_show_comes_before_what_has_a_little_higher_predicted_iou_on_one() -> None:
    viewer, found = predicted(
        Views(lambda side: [(BLOCK, 0.8)] if side == SIDE else [(HOUSE, 0.7)]), multimask=False
    )
    assert [shown(viewer, mask) for mask in found] == ["house"]
    viewer, found = predicted(
        Views(lambda side: [(BLOCK, 0.99)] if side == SIDE else [(HOUSE, 0.4)]), multimask=False
    )
    assert [shown(viewer, mask) for mask in found] == ["block"]


def test_a_mask_that_ends_at_its_tiles_edge_comes_after_whole_ones() -> None:
    def answer(side: int) -> list[tuple[Box, float]]:
        return [(HOUSE, 0.5)] if side == SIDE else [((0, 0, SIDE, SIDE), 0.95)]

    viewer, found = predicted(Views(answer), multimask=False)
    assert shown(viewer, found[0]) == "house"


def test_three_different_masks_are_offered_where_the_tiles_show_them() -> None:
    def answer(side: int) -> list[tuple[Box, float]]:
        sizes = {SIDE: BLOCK, SIDE // 2: HOUSE, SIDE // 4: DOOR}
        return [(sizes[side], 0.9), (sizes[side], 0.85), (sizes[side], 0.8)]

    viewer, found = predicted(Views(answer))
    assert {shown(viewer, mask) for mask in found} == {"block", "house", "door"}


def test_a_model_with_a_large_input_sees_the_whole_image_first() -> None:
    model = Views(lambda _: [(BLOCK, 0.8)], side=1024)
    predicted(model)
    assert model.seen == [(0, 0, SIDE, SIDE)]


@pytest.mark.parametrize(
    ("levels", "sides"), [(0, [SIDE]), (1, [SIDE, SIDE // 2]), (2, [SIDE, SIDE // 2, SIDE // 4])]
)
def test_a_model_is_asked_on_as_many_levels_of_tiles_as_its_card_says(
    levels: int, sides: list[int]
) -> None:
    model = Views(lambda _: [(BLOCK, 0.8)])
    model.click_levels = levels
    predicted(model)
    assert [x1 - x0 for x0, _, x1, _ in model.seen] == sides


@pytest.mark.parametrize(
    ("truth", "shown_on", "levels"),
    [(BLOCK, SIDE, 0), (HOUSE, SIDE // 2, 1), (DOOR, SIDE // 4, 2), ((0, 0, 9, 9), SIDE, 0)],
)
def test_the_fewest_levels_are_chosen_that_answer_as_well_as_more(
    truth: Box, shown_on: int, levels: int
) -> None:
    def answer(side: int) -> list[tuple[Box, float]]:
        return [(truth, 0.9)] if side == shown_on else [((300, 300, 340, 340), 0.1)]

    model = Views(answer)
    image = EvaluationImage(IMAGE, [encode(mask_of(truth)), encode(mask_of((0, 0, 0, 0)))])
    ious = score_click_levels(model, [image, image])
    assert ious.shape == (3, 2)
    assert best_click_levels(ious) == levels


def test_a_correction_is_predicted_on_the_tile_of_the_mask_that_it_corrects() -> None:
    model = Views(lambda side: [(BLOCK, 0.8)] if side == SIDE else [(HOUSE, 0.9)])
    viewer, found = predicted(model)
    model.seen.clear()
    points = np.array([CLICK, (210, 215)], np.float64)
    again = PromptRequest(Prompt(points, np.array([1, 0])), found[0])
    viewer.predict([again], multimask=False)
    assert model.seen == [found[0].tile]
    assert found[0].tile != viewer.whole


@pytest.mark.parametrize(("side", "lower"), [(LOW, 0.5), (1024, 0.0)])
def test_the_mask_of_a_correction_begins_at_a_higher_logit_with_a_model_of_small_input(
    side: int, lower: float
) -> None:
    viewer, found = predicted(Views(lambda _: [(BLOCK, 0.8)], side), multimask=False)
    again = PromptRequest(Prompt(np.array([CLICK, (9, 9)], np.float64), np.array([1, 0])), found[0])
    ((corrected,),) = viewer.predict([again], multimask=False)
    assert torch.equal(corrected.logits_HW, found[0].logits_HW - lower)


def boxed(model: Views, *, is_loose: bool = False) -> str:
    """What the mask of a box around the house is."""
    viewer = TiledPredictor(model, IMAGE)
    prompt = Prompt(box_xyxy=np.array(HOUSE, np.float64), is_box_loose=is_loose)
    ((found,),) = viewer.predict([PromptRequest(prompt)], multimask=False)
    return shown(viewer, found)


def test_of_the_masks_of_a_box_one_that_fills_it_comes_before_one_of_a_part() -> None:
    answers = [(DOOR, 0.8), (HOUSE, 0.7)]
    assert boxed(Views(lambda _: answers)) == "house"
    assert boxed(Views(lambda _: [(DOOR, 0.8), (HOUSE, 0.05)])) == "door"
    assert boxed(Views(lambda _: answers), is_loose=True) == "door"
    assert boxed(Views(lambda _: answers, side=1024)) == "door"


def test_a_box_is_seen_on_two_tiles_with_a_model_of_small_input() -> None:
    def answer(side: int) -> list[tuple[Box, float]]:
        return [(HOUSE, 0.7)] if side < 3 * 40 else [(DOOR, 0.8)]

    assert boxed(Views(answer)) == "house"
    assert boxed(Views(answer, side=1024)) == "door"


def test_the_mask_of_a_box_begins_at_the_logit_at_which_it_fills_the_box() -> None:
    logits = torch.full((LOW, LOW), -5.0)
    logits[44:60, 43:59] = 0.4  # a wide edge
    logits[46:56, 45:55] = 5.0  # the house, on a grid with cells of 4 pixels
    logits[52, 48] = logits[90:92, 90] = 4.0
    embedding = Embedding(torch.zeros(2), (SIDE, SIDE), (SIDE, SIDE))
    mask = TileMask((0, 0, SIDE, SIDE), embedding, logits, 0.9)
    (found,) = choose_in_box([mask], np.array(HOUSE, np.float64))
    assert torch.equal(found.logits_HW[40:64, 40:64] > 0, logits[40:64, 40:64] > 0.5)
