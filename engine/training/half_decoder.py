"""A mask decoder in bfloat16 for one step of training."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

CPU_PROMPTS, GPU_PROMPTS = 4, 256
"""Largest numbers of prompts decoded together. On a CPU, more are not faster and need more memory:
a training with 4 images a step on two cores peaks at 1.6 GB with 4, at 2.05 GB with 8."""


def prompts_at_once(device: str) -> int:
    """Return the largest number of prompts to decode together on a device type."""
    return CPU_PROMPTS if device == "cpu" else GPU_PROMPTS


@contextmanager
def half_decoder(sam: Any, *, enabled: bool) -> Iterator[Any]:
    """Yield a bfloat16 copy of the model's mask decoder, and add the copy's gradients to those of
    the decoder at the end; yield the decoder itself if not `enabled`.

    A copy instead of autocast, under which layer norms return float32 and every product after them
    converts the image again.
    """
    decoder = sam.mask_decoder
    if not enabled:
        yield decoder
        return
    half = copy.deepcopy(decoder).bfloat16()
    yield half
    for value, other in zip(decoder.parameters(), half.parameters(), strict=True):
        if other.grad is not None:
            grad = other.grad.to(value.dtype)
            value.grad = grad if value.grad is None else value.grad + grad
