"""Early stopping: averaged weights of a training are scored on images that it does not train on.

Prompts are drawn once, so that all checks of a training are comparable. The result of the training
is the average with the lowest loss.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from engine.training.config import TrainConfig
from engine.training.samples import Example, Sample, make_sample
from engine.training.step import encode_samples, training_step

SHARES = (0.25, 0.5, 0.75)
"""Shares of the trained weights that are compared at the end of a training. The whole often has the
lowest loss, but not the highest IoU (docs/LOG.md)."""

PLAN = (True,)
"""A check scores the first prompt and one correction."""


class EarlyStopping:
    """Checks a training every `check_steps` steps, and stops it after `patience` checks without a
    lower loss.

    Attributes:
        best_loss: lowest loss so far; infinite before the first check.
        best: averaged weights with that loss, by name; None before the first check.
    """

    def __init__(self, sam: Any, config: TrainConfig, examples: Sequence[Example]) -> None:
        self._sam, self._config = sam, config
        self._samples = self._draw(examples) if config.check_steps else []
        self.best_loss = math.inf
        self.best: dict[str, torch.Tensor] | None = None
        self._without_gain = 0

    def _draw(self, examples: Sequence[Example]) -> list[Sample]:
        """Draw one sample of each example that has a mask."""
        samples = []
        for index, example in enumerate(examples):
            rng = np.random.default_rng([self._config.seed, index])
            sample = make_sample(example, self._config, rng)
            if sample is not None:
                if self._config.frozen_encoder:
                    with torch.no_grad():
                        sample = replace(sample, embedding=encode_samples(self._sam, [sample])[0])
                samples.append(sample)
        return samples

    def is_due(self, step: int) -> bool:
        """Return whether to check after this step."""
        return bool(self._samples) and step % self._config.check_steps == 0

    @property
    def stops(self) -> bool:
        """Whether the last `patience` checks had no lower loss."""
        return self._without_gain >= self._config.patience

    def check(self, average: dict[str, torch.Tensor]) -> float:
        """Score averaged weights by name; keep them if they are the best; return the loss."""
        with self._weights(average):
            loss = self._loss()
        if loss < self.best_loss:
            self.best_loss, self._without_gain = loss, 0
            self.best = {name: value.clone() for name, value in average.items()}
        else:
            self._without_gain += 1
        return loss

    def best_share(self, start: dict[str, torch.Tensor], trained: dict[str, torch.Tensor]) -> float:
        """Return the share of SHARES, of trained weights in a mean with those at the start, that
        has the lowest loss on the examples; half if there are none.

        Args:
            start, trained: weights by name.
        """
        if not self._samples:
            return 0.5
        losses = []
        for share in SHARES:
            mean = {name: start[name].lerp(value, share) for name, value in trained.items()}
            with self._weights(mean):
                losses.append(self._loss())
        return SHARES[int(np.argmin(losses))]

    @torch.no_grad()
    def _loss(self) -> float:
        losses = []
        for index, sample in enumerate(self._samples):
            rng = np.random.default_rng([self._config.seed, index])
            generator = torch.Generator(device=self._sam.device).manual_seed(index)
            losses.append(
                training_step(self._sam, [sample], self._config, rng, generator, PLAN).loss
            )
        return float(np.mean(losses))

    @contextmanager
    def _weights(self, average: dict[str, torch.Tensor]) -> Iterator[None]:
        """Give the model these weights for the block."""
        named = {name: value for name, value in self._sam.named_parameters() if name in average}
        own = {name: value.detach().clone() for name, value in named.items()}
        was_training = self._sam.training
        self._sam.eval()
        try:
            with torch.no_grad():
                for name, value in named.items():
                    value.copy_(average[name])
            yield
        finally:
            with torch.no_grad():
                for name, value in named.items():
                    value.copy_(own[name])
            self._sam.train(was_training)

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint needs."""
        return {"loss": self.best_loss, "weights": self.best, "without_gain": self._without_gain}

    def load(self, state: dict[str, Any]) -> None:
        """Restore the result of `state`."""
        self.best_loss, self.best = state["loss"], state["weights"]
        self._without_gain = state["without_gain"]
