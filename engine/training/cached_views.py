"""Views whose embeddings are made once, for training with a frozen encoder.

Crops, flips and colours are then drawn `cached_views` times in all; masks and prompts at every
step. View i comes from a generator seeded by (seed, i, rank), so a run that was stopped has the
same ones.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from engine.training.config import TrainConfig
from engine.training.samples import ExampleSource, Sample, View, make_view, prompt_view
from engine.training.step import encode_samples

_VIEW_STREAM = 0x5EED
"""Keeps the views' random numbers apart from those of the steps."""


class CachedViews:
    """Views of a source, made when first drawn. Embeddings are kept in bfloat16."""

    def __init__(self, sam: Any, config: TrainConfig, source: ExampleSource, rank: int) -> None:
        self._sam, self._config, self._source, self._rank = sam, config, source, rank
        self._views: dict[int, View] = {}
        self._embeddings: dict[int, torch.Tensor] = {}

    def draw(self, rng: np.random.Generator) -> Sample | None:
        """A view with masks and prompts drawn anew; None where it has no mask to train on."""
        index = int(rng.integers(self._config.cached_views))
        if index not in self._views:
            seed = [self._config.seed, index, self._rank, _VIEW_STREAM]
            own = np.random.default_rng(seed)
            self._views[index] = make_view(self._source(own), self._config, own).packed()
        sample = prompt_view(self._views[index], self._config, rng)
        if sample is None:
            return None
        if index not in self._embeddings:
            with torch.no_grad():
                self._embeddings[index] = encode_samples(self._sam, [sample])[0].bfloat16()
        return replace(sample, embedding=self._embeddings[index])
