"""Boxes and clicks drawn on the mask grid."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from engine.core.records import Prompt
from engine.sam import Segmenter, Thresholds
from engine.sam.build import build_sam
from engine.sam.drawn_prompts import FAR, DrawnPromptEncoder, _box_maps, _click_map
from engine.sam.prompt_maps import downscaled_rows

torch.set_num_threads(1)
GRID = (48, 48)


def encoder_that_draws() -> DrawnPromptEncoder:
    torch.manual_seed(5)
    encoder = DrawnPromptEncoder(128, GRID, (384, 384))
    last: Any = encoder.drawing[-1]
    torch.nn.init.normal_(last.weight)
    return encoder


def test_a_box_is_drawn_to_a_fraction_of_a_cell_with_its_ellipse() -> None:
    box = torch.tensor([[10.25, 20.0, 30.0, 40.5]])
    inside, distance = _box_maps(box, 192, 192)
    assert float(inside.sum()) == pytest.approx(19.75 * 20.5, rel=1e-5)
    assert float(inside[0, 25, 10]) == pytest.approx(0.75)
    ellipse = math.pi / 4 * 19.75 * 20.5
    assert float((distance < 1).sum()) == pytest.approx(ellipse, rel=0.02)
    assert float(distance.max()) == FAR


def test_a_click_is_a_gaussian_and_other_labels_are_not_drawn() -> None:
    centers = torch.tensor([[[10.5, 20.5], [100.0, 50.0]]])
    drawn = _click_map(centers, torch.tensor([[True, False]]), 192, 192)
    assert float(drawn.max()) == pytest.approx(1.0)
    assert divmod(int(drawn.flatten().argmax()), 192) == (20, 10)
    assert float(drawn[0, 40:60, 90:110].max()) == 0


def test_nothing_is_drawn_before_training() -> None:
    encoder = DrawnPromptEncoder(128, GRID, (384, 384))
    box = torch.tensor([[10.0, 20.0, 300.0, 200.0]])
    assert not encoder.draw(None, None, box, GRID).any()


def test_a_lone_click_has_the_same_dense_embedding_everywhere() -> None:
    encoder = encoder_that_draws()
    points = (torch.tensor([[[5.0, 7.0]], [[300.0, 100.0]]]), torch.ones(2, 1, dtype=torch.int))
    dense = encoder(points, None, None)[1]
    assert torch.equal(dense[0], dense[1])
    boxed = encoder(points, torch.tensor([[0.0, 0, 20, 20], [250.0, 50, 350, 150]]), None)[1]
    assert not torch.allclose(boxed[0], boxed[1], atol=1e-3)


def test_prompt_maps_become_the_same_rows_as_by_convolutions() -> None:
    layers = encoder_that_draws().drawing
    maps = torch.randn(3, 4, 4 * 6, 4 * 5, generator=torch.Generator().manual_seed(0))
    rows = downscaled_rows(layers, maps)
    assert torch.allclose(rows, layers(maps).flatten(2).mT, atol=1e-5)


def test_the_drawing_scales_with_the_grid() -> None:
    encoder = encoder_that_draws()
    box = torch.tensor([[96.0, 96.0, 288.0, 288.0]])
    coarse = encoder.draw(None, None, box, (24, 24))
    fine = encoder.draw(None, None, box, GRID)
    coarse, fine = coarse.reshape(1, 24, 24, -1), fine.reshape(1, *GRID, -1)
    assert torch.allclose(coarse[:, 2, 2], fine[:, 4, 4], atol=1e-5)  # well outside
    assert torch.allclose(coarse[:, 12, 12], fine[:, 24, 24], atol=0.5)
    assert not torch.allclose(coarse[:, 12, 12], coarse[:, 2, 2], atol=0.5)


@pytest.mark.parametrize("size", [(384, 384), (200, 384)])
def test_drawn_prompts_change_the_prediction(size: tuple[int, int]) -> None:
    torch.manual_seed(1)
    plain: Any = build_sam("lite")
    drawn: Any = build_sam("lite")
    drawn.load_state_dict(plain.state_dict())
    torch.nn.init.normal_(drawn.prompt_encoder.drawing[-1].weight)
    image = np.random.default_rng(2).integers(0, 256, (*size, 3), dtype=np.uint8)
    click = Prompt(points_xy=np.array([[50.0, 60.0]]), labels=np.array([1]))
    box = Prompt(box_xyxy=np.array([20.0, 30.0, 90.0, 120.0]))
    logits = np.random.default_rng(3).normal(size=(192, 192)).astype(np.float32)
    again = Prompt(points_xy=click.points_xy, labels=click.labels, mask_logits=logits)
    for prompt, differs in ((click, False), (box, True), (again, True)):
        answers = []
        for sam in (plain, drawn):
            segmenter = Segmenter(sam, version="x", thresholds=Thresholds())
            answer = segmenter.predict(segmenter.embed(image), [prompt], multimask=False)
            answers.append(answer.logits_BMHW)
        assert torch.allclose(answers[0], answers[1], atol=1e-5) != differs
