"""The predicted IoUs of a model's outputs after a training."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from engine.core.rle import encode_batch
from engine.sam import Segmenter, load_segmenter
from engine.simulation.scenes import generate_scene
from engine.training import output_scores
from engine.training.output_scores import level_scores
from engine.training.samples import Example

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def examples() -> list[Example]:
    scenes = [generate_scene(40_000_000 + number, (120, 160)) for number in range(3)]
    return [Example(scene.image_HWC, encode_batch(np.stack(scene.masks))) for scene in scenes]


def last_bias(segmenter: Segmenter) -> torch.Tensor:
    bias: torch.Tensor = segmenter.sam.mask_decoder.iou_prediction_head.layers[-1].bias
    return bias


def test_outputs_whose_scores_were_moved_apart_are_levelled_again(
    examples: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output_scores, "LEAST_MASKS", 10)
    segmenter = load_segmenter()
    level_scores(segmenter, examples)
    levelled = last_bias(segmenter).detach().clone()
    with torch.no_grad():
        last_bias(segmenter)[1:] += torch.tensor([-0.2, -0.1, 0.1])
    shift = level_scores(segmenter, examples)
    assert shift == pytest.approx([0.2, 0.1, -0.1], abs=0.05)  # scores are clipped to [0, 1]
    assert torch.allclose(last_bias(segmenter), levelled, atol=0.05)
    assert last_bias(segmenter)[0] == levelled[0]  # the output for boxes and corrections


def test_a_few_masks_say_too_little_to_change_scores(examples: list[Example]) -> None:
    segmenter = load_segmenter()
    before = last_bias(segmenter).detach().clone()
    empty = Example(np.zeros((20, 20, 3), np.uint8), [])
    assert level_scores(segmenter, [examples[0], empty]) == []
    assert torch.equal(last_bias(segmenter), before)
