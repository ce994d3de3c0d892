"""The training loop: optimiser, schedule, averaged weights, checkpoints to resume from.

Each step draws its data and prompts from a generator seeded by (seed, step, rank), so that a
resumed run takes the same steps as an uninterrupted one.

If torch.distributed is initialised (`torchrun`), every process draws its own images and gradients
are averaged before each step: N processes are equivalent to one with N times the images.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError  # raised by torch.load; nothing is unpickled here
from typing import Any

import numpy as np
import torch
from torch import distributed

from engine.core.errors import DataEngineError
from engine.sam.threads import map_on_threads
from engine.training.cached_views import CachedViews
from engine.training.config import TrainConfig
from engine.training.drop_path import drop_path
from engine.training.early_stopping import EarlyStopping
from engine.training.parts import Replicas, part_count
from engine.training.samples import Example, ExampleSource, Sample, make_sample
from engine.training.step import prompt_plan, training_step

MAX_DRAWS = 50
"""Draws without a usable mask after which a source counts as empty."""


class TrainingError(DataEngineError):
    """Training cannot continue; the last checkpoint is unchanged."""


class NoMasksError(TrainingError):
    """The source has no usable mask. Annotate more images, or lower `min_pixels`."""


class CheckpointFileError(TrainingError):
    """A checkpoint to resume from cannot be written or read. The message says what to do."""


class DivergedError(TrainingError):
    """The loss became NaN or infinite. Lower `learning_rate`, or look at the images named."""


@dataclass(frozen=True, slots=True)
class Progress:
    """State after `step` of `steps`: running means of loss and IoU, the decoder's learning rate,
    and the training time, including that before a resume."""

    step: int
    steps: int
    loss: float
    iou: float
    rate: float
    seconds: float


class Trainer:
    """Trains `sam` in place; at the end it has the mean of the averaged weights and those at the
    start, by `trained_share`. `checked` are the examples of early stopping.

    Attributes:
        share: of the trained weights in the result, in [0, 1]; None before the end.
    """

    def __init__(
        self,
        sam: Any,
        config: TrainConfig,
        source: ExampleSource,
        checked: Sequence[Example] = (),
    ) -> None:
        self.sam, self.config, self.source = sam, config, source
        self.optimizer = torch.optim.AdamW(
            parameter_groups(sam, config), betas=(0.9, 0.999), weight_decay=config.weight_decay
        )
        self.rank, self.processes = process_rank()
        self._trained = [p for group in self.optimizer.param_groups for p in group["params"]]
        self._views = CachedViews(sam, config, source, self.rank)
        self.stopping = EarlyStopping(sam, config, checked)
        self.share: float | None = None
        self.step = 0
        self.seconds = 0.0
        self.loss, self.iou = math.nan, math.nan
        self._replicas = Replicas(sam, part_count(sam, config))
        self._start = {
            name: value.detach().clone()
            for name, value in sam.named_parameters()
            if value.requires_grad
        }
        self.average = {name: value.clone() for name, value in self._start.items()}

    def run(
        self,
        *,
        on_step: Callable[[Progress], None] | None = None,
        checkpoint: Path | None = None,
        every_seconds: float = 120.0,
        log: Path | None = None,
    ) -> None:
        """Take the remaining steps.

        Args:
            on_step: called after every step.
            checkpoint: file to resume from, if it exists, and to save to (by rank 0).
            every_seconds: time between checkpoints.
            log: CSV file with one row per step (by rank 0); a resumed run drops the rows after its
                checkpoint and appends.

        Raises:
            NoMasksError: the source has no usable mask.
            DivergedError: the loss is not finite.
            CheckpointFileError: the checkpoint cannot be read or written.
        """
        if checkpoint is not None and checkpoint.exists():
            self.load(checkpoint)
        self.sam.train()
        with drop_path(self.sam.image_encoder, self.config.drop_path), self._open_log(log) as write:
            self._run_steps(on_step, checkpoint, every_seconds, write)
        if checkpoint is not None:
            self.save(checkpoint)
        result = self.stopping.best or self.average
        self.share = self.config.trained_share
        if self.share is None:
            self.share = self.stopping.best_share(self._start, result)
        with torch.no_grad():
            for name, value in self.sam.named_parameters():
                if name in result:
                    value.copy_(self._start[name].lerp(result[name], self.share))
        self.sam.eval()

    def _run_steps(
        self,
        on_step: Callable[[Progress], None] | None,
        checkpoint: Path | None,
        every_seconds: float,
        write: Callable[[Progress], None],
    ) -> None:
        began, saved, before = time.monotonic(), time.monotonic(), self.seconds
        while self.step < self.config.steps and not self.stopping.stops:
            rate = self._optimise_once()
            if self.stopping.is_due(self.step):
                self.stopping.check(self.average)
            self.seconds = before + time.monotonic() - began
            progress = Progress(
                self.step, self.config.steps, self.loss, self.iou, rate, self.seconds
            )
            write(progress)
            if on_step is not None:
                on_step(progress)
            if checkpoint is not None and time.monotonic() - saved > every_seconds:
                self.save(checkpoint)
                saved = time.monotonic()

    @contextmanager
    def _open_log(self, path: Path | None) -> Iterator[Callable[[Progress], None]]:
        """Yield a function that writes one row; rows after the current step are dropped first."""
        if path is None or self.rank:
            yield lambda progress: None
            return
        kept: list[str] = []
        if path.exists():
            with path.open() as file:
                # a killed process can leave half a row
                whole = [row for row in list(file)[1:] if row.endswith("\n")]
            kept = [row for row in whole if int(row.split(",")[0]) <= self.step]
        with path.open("w") as file:
            file.write("step,loss,iou,learning_rate,seconds\n" + "".join(kept))

            def write(progress: Progress) -> None:
                numbers = (progress.loss, progress.iou, progress.rate)
                row = [str(progress.step), *(repr(n) for n in numbers), f"{progress.seconds:.1f}"]
                file.write(",".join(row) + "\n")
                file.flush()

            yield write

    def _optimise_once(self) -> float:
        """Take one step of the optimiser; return the learning rate."""
        config = self.config
        plan = prompt_plan(config, np.random.default_rng([config.seed, self.step]))  # on all ranks
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
        self._update_average()
        loss, iou = (float(value) for value in np.mean(results, axis=0))
        keep = 0.95 if math.isfinite(self.loss) else 0.0
        self.loss = keep * (self.loss if keep else 0.0) + (1 - keep) * loss
        self.iou = keep * (self.iou if keep else 0.0) + (1 - keep) * iou
        return rate * config.learning_rate

    def _accumulate(
        self, plan: list[bool], rng: np.random.Generator, generator: torch.Generator
    ) -> tuple[float, float]:
        """Add the gradients of one batch; return its loss and IoU."""
        samples = self._draw_batch(rng)
        loss, iou = self._step_in_parts(samples, plan, rng, generator)
        if not math.isfinite(loss):
            raise DivergedError(
                f"the loss is {loss} at step {self.step}, on "
                f"{self._find_nonfinite(samples, plan)}; lower learning_rate "
                f"({self.config.learning_rate}), or check the masks of these images"
            )
        return loss, iou

    def _step_in_parts(
        self,
        samples: list[Sample],
        plan: list[bool],
        rng: np.random.Generator,
        generator: torch.Generator,
    ) -> tuple[float, float]:
        """Add the gradients of one batch; return the means of its loss and IoU over all masks."""
        models = self._replicas.models
        shares = [samples[number :: len(models)] for number in range(len(models))]
        seeds = [int(seed) for seed in rng.integers(2**62, size=len(models))]

        def step(number: int) -> tuple[float, float]:
            part, rng = shares[number], np.random.default_rng(seeds[number])
            clicks = torch.Generator(device=self.sam.device).manual_seed(seeds[number])
            share = len(part) / len(samples)
            scale = share / self.config.accumulate
            found = training_step(models[number], part, self.config, rng, clicks, plan, scale)
            return found.loss * share, found.iou * share

        filled = [number for number, part in enumerate(shares) if part]
        results = map_on_threads(step, filled, torch.get_num_threads())
        self._replicas.add_gradients()
        return sum(loss for loss, _ in results), sum(iou for _, iou in results)

    @torch.no_grad()
    def _find_nonfinite(self, samples: list[Sample], plan: list[bool]) -> str:
        """Return the names of the images whose own loss is not finite; all if there is none."""
        bad = []
        for sample in samples:
            generator = torch.Generator(device=self.sam.device).manual_seed(0)
            rng = np.random.default_rng(0)
            alone = training_step(self.sam, [sample], self.config, rng, generator, plan)
            if not math.isfinite(alone.loss):
                bad.append(sample.name)
        return ", ".join(bad or [sample.name for sample in samples])

    def _draw_sample(self, rng: np.random.Generator) -> Sample | None:
        if self.config.frozen_encoder:
            return self._views.draw(rng)
        return make_sample(self.source(rng), self.config, rng)

    def _draw_batch(self, rng: np.random.Generator) -> list[Sample]:
        """Draw the images of one step, at least one of them with a mask."""
        count = self.config.images_per_step
        samples: list[Sample] = []
        for _ in range(MAX_DRAWS * count):
            sample = self._draw_sample(rng)
            if sample is None:
                continue
            samples = [*samples, sample][-count:]
            if len(samples) == count and not all(s.is_background_K.all() for s in samples):
                return samples
        if all(s.is_background_K.all() for s in samples):
            raise NoMasksError("no image of the training set has a usable mask")
        return samples

    @torch.no_grad()
    def _update_average(self) -> None:
        decay = min(self.config.ema_decay, self.step / (self.step + 10))
        for name, value in self.sam.named_parameters():
            if name in self.average:
                self.average[name].lerp_(value.detach(), 1 - decay)

    def save(self, path: Path) -> None:
        """Write everything needed to resume, atomically, on rank 0.

        Raises:
            CheckpointFileError: the file cannot be written; the previous file is unchanged.
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
            "stopping": self.stopping.state(),
        }
        write_state(path, state)

    def load(self, path: Path) -> None:
        """Restore the state that `save` wrote.

        Raises:
            CheckpointFileError: the file is damaged, or of another model or configuration.
        """
        with reading_state(path, self.sam.device) as state:
            self.sam.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.average = state["average"]
            self.step, self.seconds = state["step"], state["seconds"]
            self.loss, self.iou = state["loss"], state["iou"]
            if "stopping" in state:  # not in older checkpoints
                self.stopping.load(state["stopping"])


def process_rank() -> tuple[int, int]:
    """Return this process's rank and the number of processes; (0, 1) outside `torchrun`."""
    if not distributed.is_initialized():
        return 0, 1
    return distributed.get_rank(), distributed.get_world_size()


def _average_gradients(parameters: list[torch.nn.Parameter], processes: int) -> None:
    """Replace each gradient by its mean over all processes, in one all-reduce. A missing gradient
    counts as zero."""
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    flat = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])
    distributed.all_reduce(flat)
    pieces = torch.split(flat / processes, [p.numel() for p in parameters])
    for parameter, piece in zip(parameters, pieces, strict=True):
        parameter.grad = piece.view_as(parameter)


def learning_rate_factor(step: int, config: TrainConfig) -> float:
    """Return the learning rate as a share of its peak: linear warm-up, then `config.schedule`."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    if config.schedule == "steps":
        return 0.1 ** sum(step >= drop * config.steps for drop in config.drops)
    done = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def write_state(path: Path, state: dict[str, Any]) -> None:
    """Write the state of a training, atomically.

    Raises:
        CheckpointFileError: the file cannot be written; the previous file is unchanged.
    """
    temporary = path.with_suffix(".partial")
    try:
        torch.save(state, temporary)
        temporary.replace(path)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
        temporary.unlink(missing_ok=True)
        raise CheckpointFileError(
            f"{path} cannot be written: {error}; the previous checkpoint is kept. Free disk space "
            "and run again: training resumes from it"
        ) from error


@contextmanager
def reading_state(path: Path, device: torch.device) -> Iterator[dict[str, Any]]:
    """Yield the state that `write_state` wrote; errors of the `with` block count as a bad file.

    Raises:
        CheckpointFileError: the file is damaged, or does not fit the model or the optimiser.
    """
    try:
        yield torch.load(path, map_location=device, weights_only=True)
    except (OSError, EOFError, RuntimeError, ValueError, KeyError, UnpicklingError) as error:
        raise CheckpointFileError(
            f"training cannot resume from {path}: {error!r}; delete it to train from the start"
        ) from error


def parameter_groups(sam: Any, config: TrainConfig) -> list[dict[str, Any]]:
    """Return AdamW's parameter groups with their peak rates, and set `requires_grad`.

    Each group has `peak`, its peak rate, and `share`, that rate as a share of `learning_rate`.
    """
    depths = [_encoder_depth(name) for name, _ in sam.named_parameters()]
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


def _encoder_depth(name: str) -> int | None:
    """Return a parameter's depth in the encoder: 0 stem, 1.. stages or blocks, _NECK after them;
    None outside the encoder."""
    if not name.startswith("image_encoder."):
        return None
    parts = name.split(".")
    if parts[1] in ("stem", "patch_embed", "pos_embed"):
        return 0
    if parts[1] in ("stages", "blocks", "layers"):  # of lite, segment_anything's ViT, TinyViT
        return 1 + int(parts[2])
    return _NECK
