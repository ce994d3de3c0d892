"""The training loop on a pool of photographs and scenes: minutes on a GPU, hours on a CPU.

It ends after a number of steps or of seconds, whichever comes first; the learning rate follows the
larger share of the two. Its checkpoint holds weights, averages, the optimiser's state and the time.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from engine.sam.segmenter import half_is_faster
from engine.training.config import TrainConfig
from engine.training.photo_pool import PhotoPool
from engine.training.render import Renderer
from engine.training.step import prompt_plan
from engine.training.trainer import (
    DivergedError,
    parameter_groups,
    reading_state,
    write_state,
)
from engine.training.view_plan import BOX, Plan, ViewConfig, plans
from engine.training.view_step import ViewStep

REPORT_STEPS = 25
"""Steps between reports; reading the loss synchronises with the GPU."""


USED_FIELDS = (
    *("steps", "refinements", "vary_refinements", "repeats", "learning_rate", "encoder_rate"),
    *("neck_rate", "frozen_stages", "frozen_encoder", "weight_decay", "warmup_steps"),
    *("layer_decay", "clip_norm", "ema_decay", "iou_weight", "box_noise", "seed"),
)
"""Fields of `TrainConfig` that this training reads; `ViewConfig` has the others."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ViewTraining:
    """Configuration of one training.

    Attributes:
        views: distributions of views.
        config: rates and refinements; only the fields in USED_FIELDS are read.
        seconds: time limit, in addition to `config.steps`.
        frozen_share: first share of the training in which the trunk is frozen.
        workers: processes that draw plans; 0 for this process.
    """

    views: ViewConfig
    config: TrainConfig
    seconds: float = math.inf
    frozen_share: float = 0.0
    workers: int = 0


@dataclass(frozen=True, slots=True)
class ViewProgress:
    """State after a step: completed share of the training, [0, 1], means of loss and of IoU after
    the first prompt since the last report, images per second, and training time."""

    step: int
    share: float
    loss: float
    iou: float
    rate: float
    seconds: float


@dataclass(slots=True)
class _Tally:
    loss: list[torch.Tensor] = field(default_factory=list)
    iou: list[torch.Tensor] = field(default_factory=list)
    since: float = field(default_factory=time.monotonic)


class ViewTrainer:
    """Trains `sam` in place; the averaged weights are copied into it at the end."""

    def __init__(self, sam: Any, pool: PhotoPool, training: ViewTraining) -> None:
        self.sam, self.pool, self.training = sam, pool, training
        config = training.config
        groups = parameter_groups(sam, config)
        is_cuda = sam.device.type == "cuda"
        self.optimizer = torch.optim.AdamW(
            groups, betas=(0.9, 0.999), weight_decay=config.weight_decay, fused=is_cuda
        )
        self._trained = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.average = [p.detach().clone() for p in self._trained]
        self.renderer = Renderer(pool, sam, training.views.size)
        self.one_step = ViewStep(
            sam,
            iou_weight=config.iou_weight,
            box_noise=config.box_noise,
            autocast=half_is_faster(sam.device.type),
        )
        self.step, self.seconds = 0, 0.0

    @property
    def share(self) -> float:
        """Completed share of the training, [0, 1]."""
        training = self.training
        return min(1.0, max(self.step / training.config.steps, self.seconds / training.seconds))

    def run(
        self,
        *,
        on_report: Callable[[ViewProgress], None] | None = None,
        checkpoint: Path | None = None,
        every_seconds: float = 120.0,
        until: int | None = None,
    ) -> None:
        """Run the rest of the training.

        Args:
            on_report: called every REPORT_STEPS steps.
            checkpoint: file to resume from, if it exists, and to save to.
            every_seconds: time between checkpoints.
            until: step at which to stop before the end.

        Raises:
            DivergedError: the loss is not finite.
            NoMasksError: the pool has no mask that is large enough.
            CheckpointFileError: the checkpoint cannot be read or written.
        """
        if checkpoint is not None and checkpoint.exists():
            self.load(checkpoint)
        self.sam.train()
        began, before = time.monotonic(), self.seconds
        saved, tally = began, _Tally()
        source = plans(
            self.pool,
            self.training.views,
            self.training.config.seed,
            self.step,
            self.training.workers,
        )
        for plan in source:
            if self.share >= 1 or self.step == until:
                break
            loss, iou = self._optimise_once(plan)
            tally.loss.append(loss)
            tally.iou.append(iou)
            self.seconds = before + time.monotonic() - began
            if self.step % REPORT_STEPS == 0 or self.share >= 1:
                self._report(tally, on_report)
                tally = _Tally()
            if checkpoint is not None and time.monotonic() - saved > every_seconds:
                self.save(checkpoint)
                saved = time.monotonic()
        if checkpoint is not None:
            self.save(checkpoint)
        if self.share < 1:
            return
        self.use_average()
        self.sam.eval()

    def _optimise_once(self, plan: Plan) -> tuple[torch.Tensor, torch.Tensor]:
        config = self.training.config
        rng = np.random.default_rng([config.seed, self.step, 1])
        device = self.sam.device
        generator = torch.Generator(device=device)
        generator.manual_seed(int(rng.integers(2**62)))
        kinds = plan.kind_BG.flatten()
        clicks = torch.nonzero(kinds != BOX)[:, 0].to(device)
        boxes = torch.nonzero(kinds == BOX)[:, 0].to(device)
        views = self.renderer.draw(plan, generator)
        self._set_rates()
        self.optimizer.zero_grad(set_to_none=True)
        corrections = prompt_plan(config, rng)
        loss, iou = self.one_step.run(views, (clicks, boxes), corrections, generator)
        torch.nn.utils.clip_grad_norm_(self._trained, config.clip_norm)
        self.optimizer.step()
        self.step += 1
        decay = min(config.ema_decay, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(self.average, [p.detach() for p in self._trained], 1 - decay)
        return loss, iou

    def _set_rates(self) -> None:
        config, share = self.training.config, self.share
        warm = min(1.0, (self.step + 1) / max(config.warmup_steps, 1))
        factor = warm * 0.5 * (1 + math.cos(math.pi * share))
        for group in self.optimizer.param_groups:
            is_trunk = group["share"] < 1
            frozen = is_trunk and share < self.training.frozen_share
            group["lr"] = 0.0 if frozen else factor * group["peak"]

    def _report(self, tally: _Tally, on_report: Callable[[ViewProgress], None] | None) -> None:
        loss = float(torch.stack(tally.loss).mean())
        if not math.isfinite(loss):
            raise DivergedError(f"the loss is {loss} near step {self.step}; lower learning_rate")
        if on_report is not None:
            images = len(tally.loss) * self.training.views.images
            rate = images / (time.monotonic() - tally.since)
            iou = float(torch.stack(tally.iou).mean())
            on_report(ViewProgress(self.step, self.share, loss, iou, rate, self.seconds))

    @torch.no_grad()
    def use_average(self) -> None:
        """Copy the averaged weights into the model."""
        for value, average in zip(self._trained, self.average, strict=True):
            value.copy_(average)

    def save(self, path: Path) -> None:
        """Write everything needed to resume, atomically.

        Raises:
            CheckpointFileError: the file cannot be written; the previous file is unchanged.
        """
        state = {
            "step": self.step,
            "seconds": self.seconds,
            "model": self.sam.state_dict(),
            "average": self.average,
            "optimizer": self.optimizer.state_dict(),
        }
        write_state(path, state)

    def load(self, path: Path) -> None:
        """Restore the state that `save` wrote.

        Raises:
            CheckpointFileError: the file is damaged, or of another model or configuration.
        """
        with reading_state(path, self.sam.device) as state:
            self.step, self.seconds = state["step"], state["seconds"]
            self.sam.load_state_dict(state["model"])
            self.average = state["average"]
            self.optimizer.load_state_dict(state["optimizer"])
