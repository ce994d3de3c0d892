"""Generated scenes with exact masks: training data without licence limits, and the demo's images.

A scene is a pure function of its seed and size. There are five kinds: `objects` (textured objects
with nested parts, shadows and occlusion), `cells` (many small touching blobs, as under a
microscope), `regions` (an image divided into textured areas), `pile` (many objects of one shape)
and `capsules` (the demo's).

H = height, W = width. Masks are the visible pixels, bool (H, W); a part's pixels belong to its
whole as well.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from engine.simulation.shapes import SHAPES, blob, capsule, ellipse, random_shape
from engine.simulation.textures import random_filling, value_noise

Filling = Callable[[np.random.Generator, tuple[int, int]], np.ndarray]

MIN_AREA = 24
"""Objects with fewer visible pixels have no mask."""


@dataclass(frozen=True, slots=True)
class Scene:
    """An RGB uint8 image, the visible pixels of each object, bool (H, W), and those of none."""

    kind: str
    image_HWC: np.ndarray
    masks: list[np.ndarray]
    background_HW: np.ndarray


class _Canvas:
    """Paints objects over one another and updates their visible masks."""

    def __init__(self, rng: np.random.Generator, filling_HWC: np.ndarray) -> None:
        self.rng = rng
        self.image = filling_HWC.astype(np.float32)
        self.size = (filling_HWC.shape[0], filling_HWC.shape[1])
        self.masks: list[np.ndarray] = []

    def paint(
        self, mask: np.ndarray, filling: Filling | np.ndarray, *, part_of: int | None = None
    ) -> int:
        """Paint an object on top of the others except the whole `part_of`, and return its index.

        `filling` is RGB float32 for the canvas or the mask's box, or a function that draws it.
        """
        box = _window(mask, margin=4)
        patch = self.image[box]
        if callable(filling):
            filling = filling(self.rng, patch.shape[:2])
        elif filling.shape[:2] == self.size:
            filling = filling[box]
        alpha = cv2.GaussianBlur(mask[box].astype(np.float32), (0, 0), self.rng.uniform(0.4, 1.0))
        alpha = alpha[:, :, None]
        self.image[box] = patch * (1 - alpha) + filling * alpha
        for index, other in enumerate(self.masks):
            if index != part_of:
                other[box] &= ~mask[box]
        self.masks.append(mask)
        return len(self.masks) - 1

    def contrasting(self, mask: np.ndarray) -> np.ndarray:
        """Return a filling for the mask's box whose mean colour differs from what it covers."""
        below = self.image[mask].mean(axis=0)
        size = self.image[_window(mask, margin=4)].shape[:2]
        for _ in range(4):
            filling = random_filling(self.rng, size)
            if np.abs(filling.mean(axis=(0, 1)) - below).max() > 24:
                break
        return filling

    def shadow(self, mask: np.ndarray, radius: float) -> None:
        """Paint an object's shadow, before the object."""
        dx, dy = self.rng.normal(0, max(1.5, radius * 0.15), 2)
        box = _window(mask, margin=round(12 + radius * 0.4))
        patch = mask[box].astype(np.float32)
        move = np.array([[1, 0, dx], [0, 1, dy]], np.float32)
        shifted = cv2.warpAffine(patch, move, (patch.shape[1], patch.shape[0]))
        soft = cv2.GaussianBlur(shifted, (0, 0), self.rng.uniform(1, 4))
        self.image[box] *= 1 - self.rng.uniform(0.2, 0.6) * soft[:, :, None]

    def shade(self, mask: np.ndarray) -> None:
        """Lighten or darken an object towards its edge, so that it looks round."""
        box = _window(mask, margin=1)
        inside = mask[box].astype(np.uint8)
        distance = np.asarray(cv2.distanceTransform(inside, cv2.DIST_L2, 3), dtype=np.float32)
        depth = distance / max(float(distance.max()), 1)
        gain = 1 + self.rng.uniform(-0.5, 0.5) * (1 - depth) * inside
        self.image[box] *= gain[:, :, None]


def _window(mask: np.ndarray, margin: int) -> tuple[slice, slice]:
    """Return the mask's box with a margin in pixels, as slices of rows and columns."""
    x, y, w, h = cv2.boundingRect(mask.view(np.uint8))
    return (
        slice(max(y - margin, 0), y + h + margin),
        slice(max(x - margin, 0), x + w + margin),
    )


def _random_center(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    return np.array([rng.uniform(0, size[1]), rng.uniform(0, size[0])])


def _paint_object(canvas: _Canvas, radius: float, parts: float) -> None:
    rng, size = canvas.rng, canvas.size
    center = _random_center(rng, size)
    mask = random_shape(rng, size, center, radius)
    if mask.sum() < MIN_AREA:
        return
    if rng.random() < 0.4:
        canvas.shadow(mask, radius)
    whole = canvas.paint(mask.copy(), canvas.contrasting(mask))
    for _ in range(int(rng.poisson(parts)) if radius > 18 else 0):
        offset = rng.normal(0, radius * 0.35, 2)
        inner = random_shape(rng, size, center + offset, radius * rng.uniform(0.2, 0.55)) & mask
        if inner.sum() >= MIN_AREA:
            canvas.paint(inner, canvas.contrasting(inner), part_of=whole)
    if rng.random() < 0.5:
        canvas.shade(mask)


def _objects(rng: np.random.Generator, size: tuple[int, int]) -> _Canvas:
    canvas = _Canvas(rng, random_filling(rng, size))
    count = int(rng.integers(3, 22))
    side = min(size)
    largest = side * rng.uniform(0.1, 0.42)
    radii = np.sort(np.exp(rng.uniform(np.log(side * 0.025), np.log(largest), count)))[::-1]
    for radius in radii if rng.random() < 0.7 else rng.permutation(radii):
        _paint_object(canvas, float(radius), parts=0.7)
    return canvas


def _pile(rng: np.random.Generator, size: tuple[int, int]) -> _Canvas:
    canvas = _Canvas(rng, random_filling(rng, size))
    draw = SHAPES[rng.integers(len(SHAPES))][0]
    radius = min(size) * rng.uniform(0.025, 0.11)
    filling = canvas.contrasting(np.ones(size, bool))
    on_grid = rng.random() < 0.5
    pitch = radius * rng.uniform(2.0, 3.2)
    for y in np.arange(pitch / 2, size[0], pitch):
        for x in np.arange(pitch / 2, size[1], pitch):
            if rng.random() < 0.25:
                continue
            jitter = rng.normal(0, pitch * (0.05 if on_grid else 0.3), 2)
            scaled = radius * rng.uniform(0.85, 1.15)
            mask = draw(rng, size, np.array([x, y]) + jitter, scaled)
            if mask.sum() < MIN_AREA:
                continue
            if rng.random() < 0.3:
                canvas.shadow(mask, scaled)
            tinted = np.clip(filling * rng.uniform(0.8, 1.2) + rng.normal(0, 6, 3), 0, 255)
            canvas.paint(mask, tinted.astype(np.float32))
            if rng.random() < 0.4:
                canvas.shade(mask)
    return canvas


def _cells(rng: np.random.Generator, size: tuple[int, int]) -> _Canvas:
    dark = rng.random() < 0.6
    tint = np.ones(3, np.float32) if rng.random() < 0.6 else rng.uniform(0.6, 1.1, 3)
    level = rng.uniform(4, 50) if dark else rng.uniform(140, 240)
    ground = level + value_noise(rng, size, 60)[:, :, None] * rng.uniform(1, 12)
    ground = ground + value_noise(rng, size, 6)[:, :, None] * rng.uniform(0, 8)
    canvas = _Canvas(rng, np.clip(ground * tint, 0, 255).astype(np.float32))
    radius = float(np.exp(rng.uniform(np.log(4), np.log(26))) * min(size) / 256)
    count = int(rng.uniform(0.08, 0.5) * size[0] * size[1] / (np.pi * radius**2))
    contrast = rng.uniform(18, 160) if dark else -rng.uniform(30, 110)
    texture = rng.uniform(0, 0.25)
    draw = ellipse if rng.random() < 0.6 else blob
    taken = np.zeros(size, bool)
    for _ in range(min(max(count, 2), 90)):
        own = radius * rng.uniform(0.65, 1.35)
        mask = draw(rng, size, _random_center(rng, size), own)
        if mask.sum() < MIN_AREA or (rng.random() < 0.8 and taken[mask].any()):
            continue
        taken |= mask
        change = contrast * rng.uniform(0.5, 1.3)

        def cell(rng: np.random.Generator, box: tuple[int, int]) -> np.ndarray:
            grain = 1 + texture * value_noise(rng, box, max(2.0, own / 3))  # noqa: B023
            return np.clip(level * tint + change * grain[:, :, None] * tint, 0, 255)  # noqa: B023

        canvas.paint(mask, cell)
    return canvas


def _regions(rng: np.random.Generator, size: tuple[int, int]) -> _Canvas:
    canvas = _Canvas(rng, random_filling(rng, size))
    count = int(rng.integers(3, 14))
    seeds = np.stack([rng.uniform(0, size[1], count), rng.uniform(0, size[0], count)], axis=1)
    y, x = np.mgrid[0 : size[0], 0 : size[1]].astype(np.float32)
    for cell, strength in ((80, 0.12), (24, 0.05), (8, 0.012)):
        amount = strength * min(size) * rng.uniform(0.2, 1.3)
        x = x + amount * value_noise(rng, size, cell)
        y = y + amount * value_noise(rng, size, cell)
    stretch = rng.uniform(0.5, 2)
    weight = rng.uniform(0.6, 1.6, count)
    distance = np.stack(
        [
            ((x - sx) ** 2 * stretch + (y - sy) ** 2) * w
            for (sx, sy), w in zip(seeds, weight, strict=True)
        ]
    )
    labels = distance.argmin(axis=0)
    for region in range(count):
        _, components = cv2.connectedComponents((labels == region).astype(np.uint8))
        for component in range(1, int(components.max()) + 1):
            mask = components == component
            if mask.sum() >= 0.002 * mask.size:
                canvas.paint(mask, canvas.contrasting(mask))
    for _ in range(int(rng.integers(0, 7))):
        _paint_object(canvas, min(size) * rng.uniform(0.03, 0.25), parts=0.4)
    return canvas


def _capsules(rng: np.random.Generator, size: tuple[int, int]) -> _Canvas:
    """Two-coloured capsules on a tray: an untrained model segments each half as an object."""
    canvas = _Canvas(rng, random_filling(rng, size))
    first, second = rng.permutation(CAPSULE_COLOURS)[:2]
    for _ in range(int(rng.integers(14, 30))):
        center, turn = _random_center(rng, size), rng.uniform(0, 2 * np.pi)
        length = min(size) * rng.uniform(0.15, 0.25)
        along = np.array([np.cos(turn), np.sin(turn)])
        mask = capsule(size, center - along * length, center + along * length, length * 0.5)
        if mask.sum() < MIN_AREA or any((mask & other).any() for other in canvas.masks):
            continue
        y, x = np.mgrid[0 : size[0], 0 : size[1]]
        side = (x - center[0]) * along[0] + (y - center[1]) * along[1] > 0
        filling = np.where(side[:, :, None], first, second).astype(np.float32)
        canvas.shadow(mask, length)
        canvas.paint(mask, np.clip(filling + rng.normal(0, 8, 3), 0, 255).astype(np.float32))
        canvas.shade(mask)
    return canvas


CAPSULE_COLOURS = np.array(
    [[225, 60, 50], [245, 235, 225], [50, 90, 200], [250, 200, 60], [40, 150, 90], [40, 40, 50]]
)

KINDS: dict[str, tuple[Callable[[np.random.Generator, tuple[int, int]], _Canvas], float]] = {
    "objects": (_objects, 0.36),
    "cells": (_cells, 0.26),
    "regions": (_regions, 0.26),
    "pile": (_pile, 0.12),
    "capsules": (_capsules, 0.0),
}
"""Kinds of scene with their probabilities. `capsules` has probability 0: the base model is not
trained on it, so that the demo shows the loop on a domain that is new to the model."""


def _finish(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Add uneven light, blur, sensor noise, a tone curve and JPEG artefacts; return uint8."""
    size = (image.shape[0], image.shape[1])
    if rng.random() < 0.6:
        light = 1 + rng.uniform(0.05, 0.35) * value_noise(rng, size, max(size) / 2)
        image = image * light[:, :, None]
    if rng.random() < 0.5:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.3, 1.4))
    image = image + rng.normal(0, rng.uniform(0, 9), image.shape)
    image = 255 * np.clip(image / 255, 0, 1) ** np.exp(rng.normal(0, 0.2))
    if rng.random() < 0.12:
        image = np.repeat(image.mean(axis=2, keepdims=True), 3, axis=2)
    finished = np.ascontiguousarray(image).astype(np.uint8)
    if rng.random() < 0.4:
        quality = int(rng.integers(40, 95))
        _, coded = cv2.imencode(".jpg", finished[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
        decoded = np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR))
        finished = np.ascontiguousarray(decoded[:, :, ::-1])
    return finished


def generate_scene(seed: int, size: tuple[int, int] = (256, 256), kind: str | None = None) -> Scene:
    """Generate the scene of a seed.

    Args:
        seed: non-negative; the same seed and size give the same pixels.
        size: (H, W) in pixels, both at least 64.
        kind: one of KINDS, or None for a random kind.

    Raises:
        ValueError: the size is too small, or the kind is unknown.
    """
    if min(size) < 64:
        raise ValueError(f"both sides must be at least 64 pixels, got {size}")
    if kind is not None and kind not in KINDS:
        raise ValueError(f"unknown kind of scene {kind!r}; expected one of {', '.join(KINDS)}")
    rng = np.random.default_rng([seed, *size])
    names = list(KINDS)
    drawn = names[rng.choice(len(names), p=[odds for _, odds in KINDS.values()])]
    chosen = kind or drawn
    canvas = KINDS[chosen][0](rng, size)
    masks = [mask for mask in canvas.masks if mask.sum() >= MIN_AREA]
    covered = np.logical_or.reduce(masks) if masks else np.zeros(size, bool)
    return Scene(chosen, _finish(rng, canvas.image), masks, ~covered)
