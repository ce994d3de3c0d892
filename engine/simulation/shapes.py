"""Random shapes for generated scenes. Points are (x, y) in pixels; every shape is a bool mask of
`size` (H, W) about `center`, at most about `radius` pixels from it."""

from __future__ import annotations

import cv2
import numpy as np

_SHIFT = 4  # cv2 draws with 4 fractional bits


def _fill(size: tuple[int, int], points_xy: np.ndarray) -> np.ndarray:
    canvas = np.zeros(size, np.uint8)
    fixed = np.round(points_xy * (1 << _SHIFT)).astype(np.int32)
    cv2.fillPoly(canvas, [fixed], 1, shift=_SHIFT)
    return np.asarray(canvas, dtype=bool)


def _ring_of_points(
    center: np.ndarray, radii: np.ndarray, squeeze: float, turn: float
) -> np.ndarray:
    angles = np.linspace(0, 2 * np.pi, len(radii), endpoint=False)
    x, y = np.cos(angles) * radii, np.sin(angles) * radii * squeeze
    turned = np.stack(
        [x * np.cos(turn) - y * np.sin(turn), x * np.sin(turn) + y * np.cos(turn)], axis=1
    )
    return np.asarray(center + turned)


def ellipse(
    rng: np.random.Generator, size: tuple[int, int], center: np.ndarray, radius: float
) -> np.ndarray:
    """A filled ellipse, at most twice as long as wide."""
    radii = np.full(48, radius)
    return _fill(
        size, _ring_of_points(center, radii, rng.uniform(0.5, 1), rng.uniform(0, 2 * np.pi))
    )


def blob(
    rng: np.random.Generator, size: tuple[int, int], center: np.ndarray, radius: float
) -> np.ndarray:
    """A smooth closed curve: a circle with a few random harmonics."""
    angles = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    radii = np.ones(64)
    for harmonic in range(2, 7):
        amplitude = rng.normal(0, 0.35 / harmonic)
        radii += amplitude * np.cos(harmonic * angles + rng.uniform(0, 2 * np.pi))
    radii = np.clip(radii, 0.25, 2) * radius
    return _fill(
        size, _ring_of_points(center, radii, rng.uniform(0.5, 1), rng.uniform(0, 2 * np.pi))
    )


def polygon(
    rng: np.random.Generator, size: tuple[int, int], center: np.ndarray, radius: float
) -> np.ndarray:
    """A polygon or star of 3 to 9 corners."""
    radii = radius * rng.uniform(0.6, 1.2, int(rng.integers(3, 10)))
    if rng.random() < 0.3:
        radii = np.repeat(radii, 2)
        radii[::2] *= rng.uniform(0.35, 0.7)
    return _fill(
        size, _ring_of_points(center, radii, rng.uniform(0.4, 1), rng.uniform(0, 2 * np.pi))
    )


def rectangle(
    rng: np.random.Generator, size: tuple[int, int], center: np.ndarray, radius: float
) -> np.ndarray:
    """A rectangle, upright with probability one half."""
    half = np.array([radius, radius * rng.uniform(0.25, 1)])
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * half
    turn = 0.0 if rng.random() < 0.5 else rng.uniform(0, np.pi)
    if rng.random() < 0.3:
        corners = corners[:, ::-1]
    turning = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    return _fill(size, center + corners @ turning)


def ring(
    rng: np.random.Generator, size: tuple[int, int], center: np.ndarray, radius: float
) -> np.ndarray:
    """A blob with a hole."""
    outer = blob(rng, size, center, radius)
    inner = ellipse(rng, size, center, radius * rng.uniform(0.3, 0.6))
    return np.asarray(outer & ~inner)


def strip(
    rng: np.random.Generator, size: tuple[int, int], center: np.ndarray, radius: float
) -> np.ndarray:
    """A thick bent line, such as a cable or a branch."""
    heading = rng.uniform(0, 2 * np.pi)
    steps = 10
    points = [center - radius * np.array([np.cos(heading), np.sin(heading)])]
    for _ in range(steps):
        heading += rng.normal(0, 0.35)
        points.append(
            points[-1] + 2 * radius / steps * np.array([np.cos(heading), np.sin(heading)])
        )
    canvas = np.zeros(size, np.uint8)
    thickness = max(2, round(radius * rng.uniform(0.12, 0.4)))
    cv2.polylines(canvas, [np.round(points).astype(np.int32)], False, 1, thickness)
    return canvas.astype(bool)


def capsule(size: tuple[int, int], start: np.ndarray, end: np.ndarray, radius: float) -> np.ndarray:
    """All pixels within `radius` of the line segment from `start` to `end`, bool (H, W)."""
    y, x = np.mgrid[0 : size[0], 0 : size[1]].astype(np.float64)
    along = end - start
    share = ((x - start[0]) * along[0] + (y - start[1]) * along[1]) / max(
        float(along @ along), 1e-9
    )
    share = np.clip(share, 0, 1)
    gap = np.hypot(x - start[0] - share * along[0], y - start[1] - share * along[1])
    return np.asarray(gap <= radius)


SHAPES = (
    (blob, 0.3),
    (ellipse, 0.2),
    (polygon, 0.18),
    (rectangle, 0.16),
    (ring, 0.06),
    (strip, 0.1),
)
"""Kinds of shape with their probabilities."""


def random_shape(
    rng: np.random.Generator, size: tuple[int, int], center: np.ndarray, radius: float
) -> np.ndarray:
    """Draw a shape of a random kind."""
    kind = rng.choice(len(SHAPES), p=[odds for _, odds in SHAPES])
    return SHAPES[kind][0](rng, size, center, radius)
