"""Fixtures for tests of training: random weights and small scenes."""

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
    """Return a shared `lite`, which tests must not change."""
    torch.manual_seed(11)
    return build_sam("lite")


def fresh() -> Any:
    """Return a `lite` with the same random weights at every call."""
    return copy.deepcopy(random_weights())


def draw(rng: np.random.Generator) -> Example:
    """Draw a scene with the given random generator."""
    seed = int(rng.integers(1000))
    scene = generate_scene(seed, (64, 80), "regions")
    return Example(scene.image_HWC, [encode(mask) for mask in scene.masks], f"scene {seed}")
