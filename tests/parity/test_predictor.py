"""Equality with segment_anything's own predictor, with the same weights.

Random weights with the decoder stretched, so that masks differ from click to click; then the
shipped model, where it lies in the package.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from engine.core.records import Prompt
from engine.sam import Segmenter, Thresholds, load_sam
from engine.sam.checkpoint import shipped_path
from engine.simulation.scenes import generate_scene
from tests.parity.weights import stretched

torch.set_num_threads(1)
IMAGE = generate_scene(3, (150, 200), "regions").image_HWC
"""Not square, and not a multiple of a stride."""

CLICK = np.array([[61.0, 95.0]])
THREE = np.array([[61.0, 95.0], [120.5, 30.0], [180.0, 140.0]])
THREE_LABELS = np.array([1, 0, 1])
BOX = np.array([20.0, 33.0, 141.0, 118.0])


@pytest.fixture(scope="module")
def sam() -> Any:
    return stretched(sharpness=8, gain=30, offset=0)


@pytest.fixture(scope="module")
def segmenter(sam: Any) -> Segmenter:
    return Segmenter(sam, version="random", thresholds=Thresholds())


@pytest.fixture(scope="module")
def predictor(sam: Any) -> Any:
    from segment_anything import SamPredictor

    theirs = SamPredictor(sam)
    theirs.set_image(IMAGE)
    return theirs


def former_logits() -> np.ndarray:
    return np.random.default_rng(8).normal(0, 4, (192, 192)).astype(np.float32)


CASES = {
    "one click": (Prompt(points_xy=CLICK, labels=np.array([1])), True),
    "one click, one mask": (Prompt(points_xy=CLICK, labels=np.array([1])), False),
    "three clicks": (Prompt(points_xy=THREE, labels=THREE_LABELS), True),
    "three clicks and logits": (
        Prompt(points_xy=THREE, labels=THREE_LABELS, mask_logits=former_logits()),
        False,
    ),
    "box": (Prompt(box_xyxy=BOX), False),
    "box and click": (Prompt(points_xy=CLICK, labels=np.array([1]), box_xyxy=BOX), False),
    "box and logits": (Prompt(box_xyxy=BOX, mask_logits=former_logits()), True),
}


def test_the_image_is_embedded_as_the_predictor_does(segmenter: Segmenter, predictor: Any) -> None:
    ours = segmenter.embed(IMAGE)
    assert ours.original_size == predictor.original_size
    assert ours.input_size == tuple(predictor.input_size)
    assert torch.allclose(ours.features_1CHW, predictor.features, atol=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_a_prompt_gives_the_prediction_of_the_predictor(
    case: str, segmenter: Segmenter, predictor: Any
) -> None:
    prompt, multimask = CASES[case]
    masks, scores, logits = predictor.predict(
        point_coords=prompt.points_xy,
        point_labels=prompt.labels,
        box=prompt.box_xyxy,
        mask_input=None if prompt.mask_logits is None else prompt.mask_logits[None],
        multimask_output=multimask,
    )
    embedding = segmenter.embed(IMAGE)
    answer = segmenter.predict(embedding, [prompt], multimask=multimask)
    ours = answer.logits_BMHW[0]
    assert np.abs(ours.numpy() - logits).max() < 2e-3  # scaled weights scale rounding errors too
    assert np.abs(answer.predicted_iou_BM[0].numpy() - scores).max() < 1e-4
    assert 0 < masks.mean() < 1
    assert (segmenter.masks(embedding, ours) == masks).mean() > 0.9999


@pytest.mark.parametrize("case", CASES)
@pytest.mark.skipif(not shipped_path().exists(), reason="the base model is not in this checkout")
def test_the_shipped_model_predicts_as_the_predictor_does(case: str) -> None:
    from segment_anything import SamPredictor

    prompt, multimask = CASES[case]
    sam = load_sam()
    theirs = SamPredictor(sam)
    theirs.set_image(IMAGE)
    _, scores, logits = theirs.predict(
        point_coords=prompt.points_xy,
        point_labels=prompt.labels,
        box=prompt.box_xyxy,
        mask_input=None if prompt.mask_logits is None else prompt.mask_logits[None],
        multimask_output=multimask,
    )
    ours = Segmenter(sam, version="lite", thresholds=Thresholds())
    answer = ours.predict(ours.embed(IMAGE), [prompt], multimask=multimask)
    assert np.abs(answer.logits_BMHW[0].numpy() - logits).max() < 2e-4
    assert np.abs(answer.predicted_iou_BM[0].numpy() - scores).max() < 1e-5
