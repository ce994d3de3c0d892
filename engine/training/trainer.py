"""The training loop: optimiser, schedule, averaged weights, checkpoints to resume from.

Each step draws its data and prompts from a generator seeded by (seed, step, rank), so a run that
was stopped and resumed does the same steps as one that was not.

Where torch.distributed is initialised (`torchrun`), every process works on its own images and the
gradients are averaged before each step: N processes do what one does with N times the images.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError  # raised by torch.load; nothing is unpickled here
from typing import Any

import numpy as np
import torch
from torch import distributed

from engine.core.errors import DataEngineError
from engine.training.cached_views import CachedViews
from engine.training.config import TrainConfig
from engine.training.drop_path import drop_path
from engine.training.samples import ExampleSource, Sample, make_sample
from engine.training.step import prompt_plan, training_step

MAX_DRAWS = 50
"""Draws without a usable mask after which a source is considered empty."""


class TrainingError(DataEngineError):
    """Training cannot go on; the last good checkpoint is untouched."""


class NoMasksError(TrainingError):
    """The source has no usable mask. Annotate more images, or lower `min_pixels`."""


class CheckpointFileError(TrainingError):
    """A checkpoint to resume from could not be written or read. The message says what to do."""


class DivergedError(TrainingError):
    """The loss became NaN or infinite. Lower `learning_rate`, or look at the images named."""


@dataclass(frozen=True, slots=True)
class Progress:
    """What is told after each step. loss and iou are running means; rate is the decoder's learning
    rate; seconds since the start."""

    step: int
    steps: int
    loss: float
    iou: float
    rate: float
    seconds: float


class Trainer:
    """Trains `sam` in place; the averaged weights are put into it at the end."""

    def __init__(self, sam: Any, config: TrainConfig, source: ExampleSource) -> None:
        self.sam, self.config, self.source = sam, config, source
        self.optimizer = torch.optim.AdamW(
            parameter_groups(sam, config), betas=(0.9, 0.999), weight_decay=config.weight_decay
        )
        self.rank, self.processes = process_rank()
        self._trained = [p for group in self.optimizer.param_groups for p in group["params"]]
        self._views = CachedViews(sam, config, source, self.rank)
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
        log: Path | None = None,
    ) -> None:
        """Do the steps that are left.

        Args:
            on_step: called after every step.
            checkpoint: file to resume from, if it exists, and to save to (by rank 0).
            every_seconds: how often to save.
            log: CSV file with a row a step (by rank 0); after a stop it goes on where the
                checkpoint does.

        Raises:
            NoMasksError: nothing to train on.
            DivergedError: the loss is not finite.
            CheckpointFileError: the checkpoint could not be read or written.
        """
        if checkpoint is not None and checkpoint.exists():
            self.load(checkpoint)
        self.sam.train()
        with drop_path(self.sam.image_encoder, self.config.drop_path), self._logged(log) as write:
            self._steps(on_step, checkpoint, every_seconds, write)
        if checkpoint is not None:
            self.save(checkpoint)
        with torch.no_grad():
            for name, value in self.sam.named_parameters():
                if name in self.average:
                    value.copy_(self.average[name])
        self.sam.eval()

    def _steps(
        self,
        on_step: Callable[[Progress], None] | None,
        checkpoint: Path | None,
        every_seconds: float,
        write: Callable[[Progress], None],
    ) -> None:
        began, saved, before = time.monotonic(), time.monotonic(), self.seconds
        while self.step < self.config.steps:
            rate = self._one_step()
            self.seconds = before + time.monotonic() - began
            told = Progress(self.step, self.config.steps, self.loss, self.iou, rate, self.seconds)
            write(told)
            if on_step is not None:
                on_step(told)
            if checkpoint is not None and time.monotonic() - saved > every_seconds:
                self.save(checkpoint)
                saved = time.monotonic()

    @contextmanager
    def _logged(self, path: Path | None) -> Iterator[Callable[[Progress], None]]:
        """What writes a row a step; rows after the step that is resumed from are dropped."""
        if path is None or self.rank:
            yield lambda progress: None
            return
        kept: list[str] = []
        if path.exists():
            with path.open() as file:
                whole = [row for row in list(file)[1:] if row.endswith("\n")]  # a kill may cut one
            kept = [row for row in whole if int(row.split(",")[0]) <= self.step]
        with path.open("w") as file:
            file.write("step,loss,iou,learning_rate,seconds\n" + "".join(kept))

            def write(told: Progress) -> None:
                numbers = (told.loss, told.iou, told.rate)
                row = [str(told.step), *(repr(n) for n in numbers), f"{told.seconds:.1f}"]
                file.write(",".join(row) + "\n")
                file.flush()

            yield write

    def _one_step(self) -> float:
        """One step of the optimiser; the learning rate it took."""
        config = self.config
        plan = prompt_plan(config, np.random.default_rng([config.seed, self.step]))  # of all ranks
        rng = np.random.default_rng([config.seed, self.step, 1 + self.rank])
        generator = torch.Generator(device=self.sam.device)
        generator.manual_seed(int(rng.integers(2**62)))
        torch.manual_seed(int(rng.integers(2**62)))
        rate = learning_rate_factor(self.step, config)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["peak"]
        self.optimizer.zero_grad(set_to_none=True)
        results = [self._accumulate(plan, rng, generator) for _ in range(config.accumulate)]
        if self.processes > 1:
            _average_gradients(self._trained, self.processes)
        torch.nn.utils.clip_grad_norm_(self._trained, config.clip_norm)
        self.optimizer.step()
        self.step += 1
        self._average()
        loss, iou = (float(value) for value in np.mean(results, axis=0))
        keep = 0.95 if math.isfinite(self.loss) else 0.0
        self.loss = keep * (self.loss if keep else 0.0) + (1 - keep) * loss
        self.iou = keep * (self.iou if keep else 0.0) + (1 - keep) * iou
        return rate * config.learning_rate

    def _accumulate(
        self, plan: list[bool], rng: np.random.Generator, generator: torch.Generator
    ) -> tuple[float, float]:
        """Add the gradients of one batch; its loss and IoU."""
        samples = self._draw(rng)
        scale = 1 / self.config.accumulate
        result = training_step(self.sam, samples, self.config, rng, generator, plan, scale)
        if not math.isfinite(result.loss):
            raise DivergedError(
                f"loss is {result.loss} at step {self.step}, on "
                f"{self._culprits(samples, plan)}; lower learning_rate "
                f"({self.config.learning_rate}) or look at the masks there"
            )
        return result.loss, result.iou

    @torch.no_grad()
    def _culprits(self, samples: list[Sample], plan: list[bool]) -> str:
        """Names of the images whose own loss is not finite; all where each alone is."""
        bad = []
        for sample in samples:
            generator = torch.Generator(device=self.sam.device).manual_seed(0)
            rng = np.random.default_rng(0)
            alone = training_step(self.sam, [sample], self.config, rng, generator, plan)
            if not math.isfinite(alone.loss):
                bad.append(sample.name)
        return ", ".join(bad or [sample.name for sample in samples])

    def _sample(self, rng: np.random.Generator) -> Sample | None:
        if self.config.frozen_encoder:
            return self._views.draw(rng)
        return make_sample(self.source(rng), self.config, rng)

    def _draw(self, rng: np.random.Generator) -> list[Sample]:
        """The images of one step, at least one of which has a mask."""
        wanted = self.config.images_per_step
        samples: list[Sample] = []
        for _ in range(MAX_DRAWS * wanted):
            sample = self._sample(rng)
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
        """Write everything needed to resume; the old file stays until the new one is whole.

        Raises:
            CheckpointFileError: no space, or no permission; the old file is as it was.
        """
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
        write_state(path, state)

    def load(self, path: Path) -> None:
        """Go back to where `save` was.

        Raises:
            CheckpointFileError: the file is damaged, or of another model or configuration.
        """
        with reading_state(path, self.sam.device) as state:
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
    """Linear warm-up, then a cosine to zero or steps down, as a share of the peak."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    if config.schedule == "steps":
        return 0.1 ** sum(step >= drop * config.steps for drop in config.drops)
    done = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def write_state(path: Path, state: dict[str, Any]) -> None:
    """Write what a training resumes from; the old file stays until the new one is whole.

    Raises:
        CheckpointFileError: no space, or no permission; the old file is as it was.
    """
    temporary = path.with_suffix(".partial")
    try:
        torch.save(state, temporary)
        temporary.replace(path)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
        temporary.unlink(missing_ok=True)
        raise CheckpointFileError(
            f"{path} could not be written: {error}; the last one is kept. Make room and run "
            "again: training resumes from there"
        ) from error


@contextmanager
def reading_state(path: Path, device: torch.device) -> Iterator[dict[str, Any]]:
    """What `write_state` wrote, for the block to take up.

    Raises:
        CheckpointFileError: the file is damaged, or does not fit the model or the optimiser.
    """
    try:
        yield torch.load(path, map_location=device, weights_only=True)
    except (OSError, EOFError, RuntimeError, ValueError, KeyError, UnpicklingError) as error:
        raise CheckpointFileError(
            f"{path} cannot be resumed from: {error!r}; delete it to train from the start"
        ) from error


def parameter_groups(sam: Any, config: TrainConfig) -> list[dict[str, Any]]:
    """Trunk, neck and decoder with their rates; what is frozen loses its gradient."""
    depths = [_part_of_encoder(name) for name, _ in sam.named_parameters()]
    deepest = max((depth for depth in depths if depth is not None and depth < _NECK), default=0)
    by_rate: dict[float, list[torch.nn.Parameter]] = {}
    for (_, value), depth in zip(sam.named_parameters(), depths, strict=True):
        frozen = depth is not None and (config.frozen_encoder or depth <= config.frozen_stages)
        value.requires_grad_(not frozen)
        if frozen:
            continue
        if depth is None:
            share = 1.0
        elif depth == _NECK:
            share = config.neck_rate
        else:
            share = config.encoder_rate * config.layer_decay ** (deepest - depth)
        by_rate.setdefault(share, []).append(value)
    return [
        {"params": values, "lr": 0.0, "peak": config.learning_rate * share, "share": share}
        for share, values in sorted(by_rate.items())
        if share > 0
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
    if parts[1] in ("stages", "blocks", "layers"):  # of lite, segment_anything's ViT, TinyViT
        return 1 + int(parts[2])
    return _NECK
