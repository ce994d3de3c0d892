"""Post-processing: clicked components and the inside of the box are kept, pinholes filled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from engine.annotation.embeddings import EmbeddingCache
from engine.annotation.prompting import Prompter
from engine.annotation.schemas import Point, PredictIn
from engine.core.clicks import center_point
from engine.core.components import connected_components
from engine.core.postprocess import postprocess_mask
from engine.core.records import Prompt
from engine.core.rle import RLE, decode
from engine.sam import Embedding, Prediction, Thresholds
from engine.sam.tiles import PromptRequest, TiledPredictor
from engine.simulation.annotator import AnnotatorConfig, SimulatedAnnotator
from storage.local_store import LocalStore
from tests.unit.fake_segmenters import AnswersTogether

Rectangle = tuple[int, int, int, int]
SIZE = (60, 80)
LEFT: Rectangle = (10, 10, 30, 30)
RIGHT: Rectangle = (50, 20, 70, 40)
SPECK: Rectangle = (76, 56, 78, 58)


def mask_of(*boxes: Rectangle, without: Sequence[Rectangle] = ()) -> np.ndarray:
    found = np.zeros(SIZE, bool)
    for x0, y0, x1, y1 in boxes:
        found[y0:y1, x0:x1] = True
    for x0, y0, x1, y1 in without:
        found[y0:y1, x0:x1] = False
    return found


def clicks(*points: tuple[float, float, int], box: Rectangle | None = None) -> Prompt:
    xy = np.array([point[:2] for point in points], np.float64).reshape(-1, 2)
    labels = np.array([point[2] for point in points], np.int64)
    corners = None if box is None else np.array(box, np.float64)
    return Prompt(xy, labels, corners) if points else Prompt(box_xyxy=corners)


PINHOLE: Rectangle = (20, 20, 21, 21)
OPENING: Rectangle = (14, 14, 22, 22)
WIDE: Rectangle = (5, 5, 75, 45)


@pytest.mark.parametrize(
    ("answer", "prompt", "wanted"),
    [
        (mask_of(LEFT, RIGHT, SPECK), clicks((15, 15, 1)), mask_of(LEFT)),
        (mask_of(LEFT, RIGHT, SPECK), clicks((15, 15, 1), (60, 30, 1)), mask_of(LEFT, RIGHT)),
        (mask_of(LEFT, RIGHT), clicks((15, 15, 1), (60, 30, 0)), mask_of(LEFT)),
        (mask_of(LEFT, RIGHT), clicks((31.5, 15, 1)), mask_of(LEFT)),  # next to it
        (mask_of(LEFT, RIGHT), clicks((45, 50, 1)), mask_of(RIGHT)),  # the nearest
        (mask_of(LEFT), clicks((70, 50, 1)), mask_of(LEFT)),
        (mask_of(), clicks((70, 50, 1)), mask_of()),
        (mask_of(LEFT, without=[PINHOLE]), clicks((15, 15, 1)), mask_of(LEFT)),
        (
            mask_of(LEFT, without=[PINHOLE]),
            clicks((15, 15, 1), (20, 20, 0)),
            mask_of(LEFT, without=[PINHOLE]),
        ),
        (
            mask_of(LEFT, without=[OPENING]),
            clicks((12, 12, 1)),
            mask_of(LEFT, without=[OPENING]),
        ),
        (mask_of(LEFT, RIGHT, SPECK), clicks(box=(0, 0, 80, 60)), mask_of(LEFT, RIGHT)),
        (mask_of(WIDE), clicks(box=(10, 10, 30, 30)), mask_of((9, 9, 31, 31))),
        (mask_of(WIDE), clicks((12, 12, 1), box=(10, 10, 30, 30)), mask_of((9, 9, 31, 31))),
        (mask_of(WIDE), clicks((60, 20, 1), box=(10, 10, 30, 30)), mask_of(WIDE)),
    ],
)
def test_parts_that_contradict_the_prompt_are_removed(
    answer: np.ndarray, prompt: Prompt, wanted: np.ndarray
) -> None:
    assert np.array_equal(postprocess_mask(answer, prompt), wanted)
    top, left = 3, 7  # the result for a window is the same
    cut = postprocess_mask(answer[top:, left:], prompt, (left, top))
    assert np.array_equal(cut, wanted[top:, left:])


def test_a_loose_box_does_not_cut_the_mask() -> None:
    prompt = replace(clicks((12, 12, 1), box=(10, 10, 30, 30)), is_box_loose=True)
    assert np.array_equal(postprocess_mask(mask_of(WIDE), prompt), mask_of(WIDE))


class Dusty(AnswersTogether):
    """Predicts the left rectangle with a pinhole, and specks in the right one, for every prompt."""

    side = low_side = 80
    images_at_once = 1

    def __init__(self) -> None:
        self.thresholds, self.version = Thresholds(), "dusty"
        self.sam = SimpleNamespace(device="cpu")

    def embed_many(self, images: Sequence[np.ndarray], *, half: bool = False) -> list[Embedding]:
        return [Embedding(torch.zeros(1), image.shape[:2], image.shape[:2]) for image in images]

    def predict(self, embedding: Embedding, prompts: Any, *, multimask: bool) -> Prediction:
        answer = mask_of(LEFT, without=[PINHOLE])
        answer[RIGHT[1] : RIGHT[3] : 4, RIGHT[0] : RIGHT[2] : 4] = True
        logits = np.full((len(prompts), 1, 80, 80), -5.0, np.float32)
        logits[:, :, :60] = np.where(answer, 5, -5)
        return Prediction(torch.from_numpy(logits), torch.full((len(prompts), 1), 0.9))


def test_the_page_shows_and_stores_what_was_clicked_on(tmp_path: Path) -> None:
    cache = EmbeddingCache(
        LocalStore(tmp_path), lambda _: Dusty(), lambda _: np.zeros((*SIZE, 3), np.uint8)
    )
    prompter = Prompter(cache)

    def shown(**asked: Any) -> np.ndarray:
        (candidate,) = prompter.predict(
            1, "dusty", 1, PredictIn(lease_id="0" * 32, **asked)
        ).candidates
        x0, y0, x1, y1 = candidate.box_xyxy
        mask = decode(RLE(candidate.rle.size, candidate.rle.counts.encode()))
        assert candidate.area == mask.sum() == mask[y0:y1, x0:x1].sum()
        return mask

    assert np.array_equal(shown(points=[Point(x=15, y=15, label=1)]), mask_of(LEFT))
    box = (10.0, 10.0, 24.0, 30.0)
    assert np.array_equal(shown(box_xyxy=box), mask_of((10, 10, 25, 30)))
    assert np.array_equal(shown(box_xyxy=box, is_box_loose=True), mask_of(LEFT))


def test_the_simulated_annotator_gets_the_post_processed_mask() -> None:
    image, truth = np.zeros((*SIZE, 3), np.uint8), mask_of(LEFT)
    viewer = TiledPredictor(Dusty(), image)
    (made,) = SimulatedAnnotator(Dusty(), AnnotatorConfig(max_clicks=1)).annotate(viewer, [truth])
    assert np.array_equal(made.mask_HW, truth)
    assert (made.clicks, made.strokes) == (1, 0)
    x, y = center_point(truth)
    (answer,) = viewer.predict([PromptRequest(clicks((x, y, 1)))], multimask=True)
    assert np.array_equal(viewer.mask(answer[0]), truth)


def test_without_tiles_masks_are_not_post_processed() -> None:
    viewer = TiledPredictor(Dusty(), np.zeros((*SIZE, 3), np.uint8), use_tiles=False)
    (answer,) = viewer.predict([PromptRequest(clicks((15, 15, 1)))], multimask=True)
    assert len(connected_components(viewer.mask(answer[0]))[1]) == 26
