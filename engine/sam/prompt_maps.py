"""Prompt maps (masks, drawn clicks and boxes) as one row of channels per cell of the embedding."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F


def downscaled_rows(layers: Any, maps_BMHW: torch.Tensor) -> torch.Tensor:
    """Apply a `mask_downscaling` of segment_anything to maps, (B, L, C).

    The layers are two 2 x 2 convolutions of stride 2, each with a LayerNorm2d and an activation,
    and a 1 x 1 convolution. As the strides are the kernel sizes, all are matrix products of rows,
    in the layout that the mask decoder reads. PyTorch's convolutions of these shapes take a slow
    path on a CPU.

    Args:
        layers: the seven layers.
        maps_BMHW: float, H = 4h, W = 4w, L = h x w.
    """
    first, first_norm, activation, second, second_norm, _, last = layers
    batch, count, height, width = maps_BMHW.shape
    grid = (height // 4, width // 4)
    cells = maps_BMHW.reshape(batch, count, grid[0], 2, 2, grid[1], 2, 2)
    cells = cells.permute(0, 2, 5, 3, 6, 1, 4, 7)  # (B, h, w, quarter of a cell, map, its quarter)
    cells = cells.reshape(batch, grid[0] * grid[1], 4, count * 4)
    cells = F.linear(cells, first.weight.flatten(1), first.bias)
    cells = activation(_normalise(first_norm, cells)).flatten(2)
    cells = F.linear(cells, second.weight.permute(0, 2, 3, 1).flatten(1), second.bias)
    cells = activation(_normalise(second_norm, cells))
    return F.linear(cells, last.weight.flatten(1), last.bias)


def _normalise(norm: Any, rows: torch.Tensor) -> torch.Tensor:
    """Apply a LayerNorm2d to rows of channels."""
    return F.layer_norm(rows, (rows.shape[-1],), norm.weight, norm.bias, norm.eps)
