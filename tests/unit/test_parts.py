"""A training step in parts, one for each core."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from engine.sam.build import build_sam
from engine.training.config import TrainConfig
from engine.training.parts import Replicas, part_count
from engine.training.samples import Sample, make_sample
from engine.training.step import training_step
from engine.training.trainer import Trainer
from tests.unit.small_training import draw, fresh

CONFIG = TrainConfig(
    steps=2,
    images_per_step=3,
    masks_per_image=2,
    image_size=64,
    refinements=1,
    warmup_steps=1,
)


@pytest.fixture
def two_cores() -> Iterator[None]:
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


def samples(count: int) -> list[Sample]:
    rng = np.random.default_rng(0)
    found = [make_sample(draw(rng), CONFIG, rng) for _ in range(count)]
    assert None not in found
    return [sample for sample in found if sample is not None]


def add_gradients_of(sam: Any, part: list[Sample]) -> None:
    generator = torch.Generator().manual_seed(1)
    training_step(sam, part, CONFIG, np.random.default_rng(1), generator, [True], 0.5)


def gradients(sam: Any) -> dict[str, torch.Tensor]:
    return {n: value.grad.clone() for n, value in sam.named_parameters() if value.grad is not None}


def test_gradients_of_the_parts_add_up_to_those_of_the_same_steps_one_after_the_other() -> None:
    sam, parts = fresh().train(), [samples(2), samples(3)[2:]]
    for part in parts:
        add_gradients_of(sam, part)
    expected = gradients(sam)
    sam.zero_grad()
    replicas = Replicas(sam, 2)
    for model, part in zip(replicas.models, parts, strict=True):
        add_gradients_of(model, part)
    assert not gradients(sam)
    replicas.add_gradients()
    found = gradients(sam)
    assert found.keys() == expected.keys()
    assert found.keys() > {"mask_decoder.iou_token.weight"}
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)
    assert not any(gradients(model) for model in replicas.models)


def test_replicas_follow_the_models_weights() -> None:
    sam = fresh()
    replicas = Replicas(sam, 2)
    with torch.no_grad():
        for value in sam.parameters():
            value.add_(1)
    for model in replicas.models:
        for name, value in model.named_parameters():
            assert torch.equal(value, sam.get_parameter(name))


@pytest.mark.usefixtures("two_cores")
def test_a_training_on_two_cores_repeats_itself() -> None:
    first, second = fresh(), fresh()
    for sam in (first, second):
        Trainer(sam, CONFIG, draw).run()
    start = fresh()
    for name, value in first.named_parameters():
        assert torch.equal(value, second.get_parameter(name))
    assert any(
        not torch.equal(value, start.get_parameter(name))
        for name, value in first.named_parameters()
    )


@pytest.mark.usefixtures("two_cores")
def test_a_step_has_as_many_parts_as_cores_unless_the_model_needs_all_images_together() -> None:
    lite = fresh()
    assert part_count(lite, CONFIG) == 2
    assert part_count(lite, replace(CONFIG, images_per_step=1)) == 1
    assert part_count(lite, replace(CONFIG, drop_path=0.1)) == 1
    assert part_count(build_sam("vit_t"), CONFIG) == 1
