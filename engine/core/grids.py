"""Point grids for prompting everything."""

from __future__ import annotations

import numpy as np


def point_grid(points_per_side: int, size: tuple[int, int]) -> np.ndarray:
    """Cell centres of an n x n grid over an image of (H, W): float (n * n, 2), (x, y) in pixels,
    row by row (segment_anything/utils/amg.py, `build_point_grid`).

    Raises:
        ValueError: points_per_side is below 1.
    """
    if points_per_side < 1:
        raise ValueError(f"a grid needs at least 1 point a side, got {points_per_side}")
    centers = (np.arange(points_per_side) + 0.5) / points_per_side
    x, y = np.meshgrid(centers * size[1], centers * size[0])
    return np.stack([x.ravel(), y.ravel()], axis=1)
