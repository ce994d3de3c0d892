"""What tests of training share: random weights, and small scenes to train on."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

import numpy as np
import torch

from engine.core.rle import encode
from engine.sam.build import build_sam
from engine.simulation.scenes import generate_scene
from engine.training.samples import Example


@cache
def random_weights() -> Any:
    """A `lite` that no test may change."""
    torch.manual_seed(11)
    return build_sam("lite")


def fresh() -> Any:
    """A `lite` with the same random weights every time."""
    return copy.deepcopy(random_weights())


def draw(rng: np.random.Generator) -> Example:
    """A source that uses the generator it is given."""
    seed = int(rng.integers(1000))
    scene = generate_scene(seed, (64, 80), "regions")
    return Example(scene.image_HWC, [encode(mask) for mask in scene.masks], f"scene {seed}")
