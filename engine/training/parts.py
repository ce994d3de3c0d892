"""A training step in parts, one for each core, on threads: each part has some of the step's images.

A model's operations are too small for several cores to share one without loss. Each part draws its
prompts, so that the result of a training depends on the number of cores, as it does on the number
of processes.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from engine.training.config import TrainConfig


class Replicas:
    """Copies of a model that share its weights and have gradients of their own.

    Attributes:
        models: one for each part; the model itself if there is one part.
    """

    def __init__(self, sam: Any, count: int) -> None:
        self._sam = sam
        self.models = [sam] if count == 1 else [_share_weights(sam) for _ in range(count)]

    def add_gradients(self) -> None:
        """Add the gradients of all copies to the model's, in the order of the copies."""
        if self.models == [self._sam]:
            return
        for model in self.models:
            for value, part in zip(self._sam.parameters(), model.parameters(), strict=True):
                if part.grad is not None:
                    value.grad = part.grad if value.grad is None else value.grad + part.grad
                    part.grad = None


def part_count(sam: Any, config: TrainConfig) -> int:
    """Return the number of a step's parts: one on a GPU, and with a model that has batch norms or
    skips blocks, which needs all images together."""
    if sam.device.type != "cpu" or config.drop_path:
        return 1
    if any(isinstance(module, _BatchNorm) for module in sam.modules()):
        return 1
    return min(torch.get_num_threads(), config.images_per_step)


def _share_weights(sam: Any) -> Any:
    shared: dict[int, torch.Tensor] = {
        id(value): nn.Parameter(value.detach(), requires_grad=value.requires_grad)
        for value in sam.parameters()
    }
    shared |= {id(value): value for value in sam.buffers()}
    return copy.deepcopy(sam, shared).train()
