"""Views with cached embeddings, for training with a frozen encoder.

Crops, flips and colours are drawn `cached_views` times in all, masks and prompts at every step.
View i is drawn from a generator seeded by (seed, i, rank), so that a resumed run draws the same
views.
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
"""Separates the random numbers of views from those of steps."""


class CachedViews:
    """Views of a source, each computed when first drawn. Embeddings are kept in bfloat16."""

    def __init__(self, sam: Any, config: TrainConfig, source: ExampleSource, rank: int) -> None:
        self._sam, self._config, self._source, self._rank = sam, config, source, rank
        self._views: dict[int, View] = {}
        self._embeddings: dict[int, torch.Tensor] = {}

    def draw(self, rng: np.random.Generator) -> Sample | None:
        """Draw a view, its masks and prompts; return None if the view has no mask to train on."""
        index = int(rng.integers(self._config.cached_views))
        if index not in self._views:
            seed = [self._config.seed, index, self._rank, _VIEW_STREAM]
            own = np.random.default_rng(seed)
            self._views[index] = make_view(self._source(own), self._config, own).compressed()
        sample = prompt_view(self._views[index], self._config, rng)
        if sample is None:
            return None
        if index not in self._embeddings:
            with torch.no_grad():
                self._embeddings[index] = encode_samples(self._sam, [sample])[0].bfloat16()
        return replace(sample, embedding=self._embeddings[index])
