"""Point grids that prompt a whole image."""

from __future__ import annotations

import numpy as np


def point_grid(points_per_side: int, size: tuple[int, int]) -> np.ndarray:
    """Return the cell centres of an n x n grid (segment_anything/utils/amg.py, `build_point_grid`).

    Args:
        points_per_side: n.
        size: (H, W) of the image in pixels.

    Returns:
        (x, y) in pixels, row by row, float64 (n * n, 2).

    Raises:
        ValueError: points_per_side is below 1.
    """
    if points_per_side < 1:
        raise ValueError(f"points_per_side must be at least 1, got {points_per_side}")
    centers = (np.arange(points_per_side) + 0.5) / points_per_side
    x, y = np.meshgrid(centers * size[1], centers * size[0])
    return np.stack([x.ravel(), y.ravel()], axis=1)
