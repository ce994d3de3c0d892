"""Stochastic depth: in training, an image skips some of the trunk's residual blocks.

SAM trains with it (paper, appendix A: 0.4 for ViT-H), inside each block's two branches. Here whole
blocks are skipped, which needs no change to segment_anything's code.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from engine.sam.blocks import residual_blocks


@contextmanager
def drop_path(encoder: Any, chance: float) -> Iterator[None]:
    """While the body runs, the last block is skipped with `chance`, the others less, the first
    never; what is not skipped counts for more, so that the mean stays."""
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
