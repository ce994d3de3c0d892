"""Trains a detector on embeddings and boxes. Minutes on a CPU: the encoder is not run again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from engine.detector.network import CELL, build_network
from engine.sam.segmenter import half_is_faster


@dataclass(frozen=True, kw_only=True, slots=True)
class DetectorConfig:
    """How a detector is trained; the values are from docs/LOG.md, 2026-11-27."""

    steps: int = 200
    images_per_step: int = 8
    learning_rate: float = 2e-3
    warmup_steps: int = 20
    weight_decay: float = 1e-2
    flip_share: float = 0.5
    """Share of embeddings that are mirrored left to right."""
    seed: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Example:
    """An embedding (C, h, w), float16 or float32, and the boxes of its objects, (N, 4) float32
    XYXY in units of the network (`units_per_pixel`)."""

    embedding_Chw: torch.Tensor
    boxes_N4: torch.Tensor

    def mirrored(self) -> Example:
        """Return the example mirrored left to right."""
        side = self.embedding_Chw.shape[-1] * CELL
        left, top, right, bottom = self.boxes_N4.unbind(1)
        boxes = torch.stack([side - right, top, side - left, bottom], 1)
        return Example(self.embedding_Chw.flip(-1), boxes)


def train_detector(
    examples: Sequence[Example],
    config: DetectorConfig,
    *,
    device: str = "cpu",
    on_step: Callable[[int, float], None] | None = None,
) -> Any:
    """Train a network from random weights and return it.

    Args:
        examples: at least one; all embeddings have one shape.
        config: how.
        device: torch device.
        on_step: called after each step with its number and loss.

    Raises:
        ValueError: there is no example.
        FloatingPointError: a loss is not finite.
    """
    if not examples:
        raise ValueError("a detector needs at least one image with masks")
    torch.manual_seed(config.seed)
    rng = np.random.default_rng(config.seed)
    network = build_network(examples[0].embedding_Chw.shape[0]).to(device).train()
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
    )
    for step in range(config.steps):
        _set_rate(optimizer, config, step)
        loss = _step(network, optimizer, _draw(examples, config, rng), device)
        if not np.isfinite(loss):
            raise FloatingPointError(f"the loss of step {step + 1} is {loss}")
        if on_step is not None:
            on_step(step + 1, loss)
    return network.eval()


def _set_rate(optimizer: torch.optim.Optimizer, config: DetectorConfig, step: int) -> None:
    warm = min(1.0, (step + 1) / max(1, config.warmup_steps))
    decay = 0.5 + 0.5 * np.cos(np.pi * step / config.steps)
    for group in optimizer.param_groups:
        group["lr"] = config.learning_rate * warm * decay


def _draw(
    examples: Sequence[Example], config: DetectorConfig, rng: np.random.Generator
) -> list[Example]:
    drawn = rng.choice(len(examples), config.images_per_step, replace=True)
    flips = rng.random(config.images_per_step) < config.flip_share
    return [
        examples[index].mirrored() if flip else examples[index]
        for index, flip in zip(drawn, flips, strict=True)
    ]


def _step(
    network: Any, optimizer: torch.optim.Optimizer, batch: Sequence[Example], device: str
) -> float:
    embeddings = [example.embedding_Chw.float().to(device) for example in batch]
    targets = [
        {
            "boxes": example.boxes_N4.to(device),
            "labels": torch.zeros(len(example.boxes_N4), dtype=torch.int64, device=device),
        }
        for example in batch
    ]
    kind = torch.device(device).type
    with torch.autocast(kind, torch.bfloat16, enabled=half_is_faster(kind)):
        losses: dict[str, torch.Tensor] = network(embeddings, targets)
    total = torch.stack([loss.float() for loss in losses.values()]).sum()
    optimizer.zero_grad()
    total.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(network.parameters(), 1.0)
    optimizer.step()
    return float(total.detach())
