"""The training loop: optimiser, schedule, averaged weights, checkpoints to resume from.

Each step draws its data and prompts from a generator seeded by (seed, step, rank), so a run that
was stopped and resumed does the same steps as one that was not.

Where torch.distributed is initialised (`torchrun`), every process works on its own images and the
gradients are averaged before each step: N processes do what one does with N times the images.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import distributed

from engine.training.config import TrainConfig
from engine.training.samples import Example, Sample, make_sample
from engine.training.step import training_step

ExampleSource = Callable[[np.random.Generator], Example]
"""Draws one annotated image at random."""

MAX_DRAWS = 50
"""Draws without a usable mask after which a source is considered empty."""


class TrainingError(Exception):
    """Training cannot go on; the last good checkpoint is untouched."""


class NoMasksError(TrainingError):
    """The source has no usable mask. Annotate more images, or lower `min_pixels`."""


class DivergedError(TrainingError):
    """The loss became NaN or infinite. Lower `learning_rate`, or look at the images named."""


@dataclass(frozen=True, slots=True)
class Progress:
    """What is told after each step. loss and iou are running means; seconds since the start."""

    step: int
    steps: int
    loss: float
    iou: float
    seconds: float


class Trainer:
    """Trains `sam` in place; the averaged weights are put into it at the end."""

    def __init__(self, sam: Any, config: TrainConfig, source: ExampleSource) -> None:
        self.sam, self.config, self.source = sam, config, source
        self.optimizer = torch.optim.AdamW(
            _parameter_groups(sam, config), betas=(0.9, 0.999), weight_decay=config.weight_decay
        )
        self.rank, self.processes = process_rank()
        self.step = 0
        self.seconds = 0.0
        self.loss, self.iou = math.nan, math.nan
        self.average = {
            name: value.detach().clone()
            for name, value in sam.named_parameters()
            if value.requires_grad
        }

    def run(
        self,
        *,
        on_step: Callable[[Progress], None] | None = None,
        checkpoint: Path | None = None,
        every_seconds: float = 120.0,
    ) -> None:
        """Do the steps that are left.

        Args:
            on_step: called after every step.
            checkpoint: file to resume from, if it exists, and to save to (by rank 0).
            every_seconds: how often to save.

        Raises:
            NoMasksError: nothing to train on.
            DivergedError: the loss is not finite.
        """
        if checkpoint is not None and checkpoint.exists():
            self.load(checkpoint)
        self.sam.train()
        began, saved, before = time.monotonic(), time.monotonic(), self.seconds
        while self.step < self.config.steps:
            self._one_step()
            self.seconds = before + time.monotonic() - began
            if on_step is not None:
                on_step(Progress(self.step, self.config.steps, self.loss, self.iou, self.seconds))
            if checkpoint is not None and time.monotonic() - saved > every_seconds:
                self.save(checkpoint)
                saved = time.monotonic()
        if checkpoint is not None:
            self.save(checkpoint)
        with torch.no_grad():
            for name, value in self.sam.named_parameters():
                if name in self.average:
                    value.copy_(self.average[name])
        self.sam.eval()

    def _one_step(self) -> None:
        config = self.config
        shared = np.random.default_rng([config.seed, self.step])
        refinements = int(shared.integers(0, config.refinements + 1))  # ranks keep step
        rng = np.random.default_rng([config.seed, self.step, 1 + self.rank])
        generator = torch.Generator(device=self.sam.device)
        generator.manual_seed(int(rng.integers(2**62)))
        torch.manual_seed(int(rng.integers(2**62)))
        result = training_step(
            self.sam, self._draw(rng), config, rng, generator, refinements=refinements
        )
        if not torch.isfinite(result.loss):
            raise DivergedError(
                f"loss is {result.loss.item()} at step {self.step}; lower learning_rate "
                f"({config.learning_rate}) or look at the newest masks"
            )
        rate = learning_rate_factor(self.step, config)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["peak"]
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(result.loss)
        trained = [p for group in self.optimizer.param_groups for p in group["params"]]
        if self.processes > 1:
            _average_gradients(trained, self.processes)
        torch.nn.utils.clip_grad_norm_(trained, config.clip_norm)
        self.optimizer.step()
        self.step += 1
        self._average()
        keep = 0.95 if math.isfinite(self.loss) else 0.0
        self.loss = keep * (self.loss if keep else 0.0) + (1 - keep) * float(result.loss.detach())
        self.iou = keep * (self.iou if keep else 0.0) + (1 - keep) * result.iou

    def _draw(self, rng: np.random.Generator) -> list[Sample]:
        """The images of one step, at least one of which has a mask."""
        wanted = self.config.images_per_step
        samples: list[Sample] = []
        for _ in range(MAX_DRAWS * wanted):
            sample = make_sample(self.source(rng), self.config, rng)
            if sample is None:
                continue
            samples = [*samples, sample][-wanted:]
            if len(samples) == wanted and not all(s.is_background_K.all() for s in samples):
                return samples
        if all(s.is_background_K.all() for s in samples):
            raise NoMasksError("no image of the training set has a usable mask")
        return samples

    @torch.no_grad()
    def _average(self) -> None:
        decay = min(self.config.ema_decay, self.step / (self.step + 10))
        for name, value in self.sam.named_parameters():
            if name in self.average:
                self.average[name].lerp_(value.detach(), 1 - decay)

    def save(self, path: Path) -> None:
        """Write everything needed to resume; the old file stays until the new one is whole."""
        if self.rank:
            return
        state = {
            "step": self.step,
            "seconds": self.seconds,
            "loss": self.loss,
            "iou": self.iou,
            "model": self.sam.state_dict(),
            "average": self.average,
            "optimizer": self.optimizer.state_dict(),
        }
        temporary = path.with_suffix(".partial")
        torch.save(state, temporary)
        temporary.replace(path)

    def load(self, path: Path) -> None:
        """Go back to where `save` was."""
        state = torch.load(path, map_location=self.sam.device, weights_only=True)
        self.sam.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.average = state["average"]
        self.step, self.seconds = state["step"], state["seconds"]
        self.loss, self.iou = state["loss"], state["iou"]


def process_rank() -> tuple[int, int]:
    """This process's rank and how many processes train together; (0, 1) outside `torchrun`."""
    if not distributed.is_initialized():
        return 0, 1
    return distributed.get_rank(), distributed.get_world_size()


def _average_gradients(parameters: list[torch.nn.Parameter], processes: int) -> None:
    """Replace each gradient by its mean over all processes, in one exchange. A parameter that took
    no part in one process's step counts as zero there."""
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    flat = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])
    distributed.all_reduce(flat)
    pieces = torch.split(flat / processes, [p.numel() for p in parameters])
    for parameter, piece in zip(parameters, pieces, strict=True):
        parameter.grad = piece.view_as(parameter)


def learning_rate_factor(step: int, config: TrainConfig) -> float:
    """Linear warm-up, then a cosine to zero, as a share of the peak."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    done = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def _parameter_groups(sam: Any, config: TrainConfig) -> list[dict[str, Any]]:
    """Trunk, neck and decoder with their rates; what is frozen loses its gradient."""
    trunk: list[torch.nn.Parameter] = []
    neck: list[torch.nn.Parameter] = []
    rest: list[torch.nn.Parameter] = []
    for name, value in sam.named_parameters():
        part = _part_of_encoder(name)
        value.requires_grad_(part is None or part > config.frozen_stages)
        if not value.requires_grad:
            continue
        if part is None:
            rest.append(value)
        else:
            (neck if part == _NECK else trunk).append(value)
    rates = ((trunk, config.encoder_rate), (neck, config.neck_rate), (rest, 1.0))
    return [
        {"params": values, "lr": 0.0, "peak": config.learning_rate * share}
        for values, share in rates
        if values and share > 0
    ]


_NECK = 10_000


def _part_of_encoder(name: str) -> int | None:
    """How deep in the encoder a parameter sits: 0 stem, 1.. stages or blocks, _NECK after them;
    None outside the encoder."""
    if not name.startswith("image_encoder."):
        return None
    parts = name.split(".")
    if parts[1] in ("stem", "patch_embed", "pos_embed"):
        return 0
    if parts[1] in ("stages", "blocks"):
        return 1 + int(parts[2])
    return _NECK
