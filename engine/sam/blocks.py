"""Residual blocks of image encoders: this project's and segment_anything's."""

from __future__ import annotations

from typing import Any

from torch import nn

from engine.sam.lite import InvertedResidual
from engine.sam.modeling import Block
from engine.sam.tiny_vit import Mlp, WindowAttention


def residual_blocks(encoder: Any) -> list[nn.Module]:
    """Return the encoder's blocks with a skip connection, in the order of the forward pass."""
    return [
        module
        for module in encoder.modules()
        if isinstance(module, Block | WindowAttention | Mlp)
        or (isinstance(module, InvertedResidual) and module.has_skip)
    ]
