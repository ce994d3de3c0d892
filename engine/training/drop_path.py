"""Stochastic depth: in training, each image skips some of the trunk's residual blocks.

SAM applies it to each block's two branches (paper, appendix A: 0.4 for ViT-H). Here it applies to
whole blocks, which needs no change to segment_anything's code.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from engine.sam.blocks import residual_blocks


@contextmanager
def drop_path(encoder: Any, chance: float) -> Iterator[None]:
    """Apply stochastic depth to an encoder inside the `with` block.

    The last block is skipped with probability `chance` in [0, 1), which decreases linearly to 0 at
    the first block; outputs that are not skipped are scaled so that the mean is unchanged.
    """
    blocks = residual_blocks(encoder) if chance > 0 else []
    hooks = [
        block.register_forward_hook(_skip(chance * index / max(len(blocks) - 1, 1)))
        for index, block in enumerate(blocks)
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _skip(chance: float) -> Any:
    def hook(block: torch.nn.Module, inputs: tuple[Any, ...], output: torch.Tensor) -> Any:
        if not block.training or chance <= 0:
            return output
        before = inputs[0]
        kept = torch.rand(len(before), device=before.device) >= chance
        weight = (kept / (1 - chance)).to(before.dtype).reshape(-1, *[1] * (before.ndim - 1))
        return before + (output - before) * weight

    return hook
