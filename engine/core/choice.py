"""Orders images for annotation. All functions are deterministic: ties go to the first one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def most_uncertain(scores: Sequence[float | None], count: int) -> list[int]:
    """Return the places of `count` images, the lowest score first; images without a score (None)
    follow in their order."""
    infinite = np.array([np.inf if score is None else score for score in scores])
    return [int(place) for place in np.argsort(infinite, kind="stable")[:count]]


def most_different(
    vectors: Sequence[np.ndarray], start: Sequence[np.ndarray], count: int
) -> list[int]:
    """Return the places of `count` vectors by greedy k-center (Gonzalez 1985): each is the one
    farthest from `start` and from those chosen before it. Without `start` the first is the one
    closest to the mean.

    Args:
        vectors: of equal length, any number type.
        start: vectors that are covered already.
    """
    count = min(count, len(vectors))
    if count <= 0:
        return []
    points = np.asarray(vectors, np.float32)
    if len(start):
        apart = np.full(len(points), np.inf, np.float32)
        for centre in np.asarray(start, np.float32):
            apart = np.minimum(apart, _squares(points, centre))
    else:
        apart = -_squares(points, points.mean(axis=0))
    chosen: list[int] = []
    while len(chosen) < count:
        place = int(np.argmax(apart))
        if not chosen and not len(start):
            apart = np.full(len(points), np.inf, np.float32)
        apart = np.minimum(apart, _squares(points, points[place]))
        chosen.append(place)
        apart[chosen] = -np.inf  # equal vectors are chosen once each
    return chosen


def _squares(points_ND: np.ndarray, centre_D: np.ndarray) -> np.ndarray:
    """Squared distances of the points to the centre."""
    return np.asarray(((points_ND - centre_D) ** 2).sum(axis=1))
