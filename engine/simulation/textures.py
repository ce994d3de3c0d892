"""Fillings for generated scenes: noise, gradients, stripes and crops of free photographs.

H = height, W = width; every filling is RGB float32 in [0, 255], shape (H, W, 3).
"""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np
import skimage.data

TEXTURE_PHOTOS = (
    "astronaut",
    "brick",
    "camera",
    "grass",
    "gravel",
    "hubble_deep_field",
    "immunohistochemistry",
    "moon",
    "retina",
)
"""Photographs shipped inside scikit-image, public domain or CC0. The demo's photographs (coins,
coffee, cat, rocket) are not among them, so that the model is not trained on them."""


@cache
def photo(name: str) -> np.ndarray:
    """Return a photograph of scikit-image, RGB uint8 (H, W, 3); it is read once per process."""
    image = np.asarray(getattr(skimage.data, name)())
    if image.ndim == 2:
        image = np.repeat(image[:, :, None], 3, axis=2)
    return np.ascontiguousarray(image[:, :, :3].astype(np.uint8))


def random_color(rng: np.random.Generator) -> np.ndarray:
    """Draw a colour, float32 (3,) in [0, 255], nearly grey with probability one half."""
    color = rng.uniform(0, 255, 3)
    if rng.random() < 0.5:
        color = color.mean() + rng.normal(0, 18, 3)
    return np.clip(color, 0, 255).astype(np.float32)


def value_noise(rng: np.random.Generator, size: tuple[int, int], cell: float) -> np.ndarray:
    """Draw smooth noise, float32 (H, W), with zero mean and unit variance on a grid of `cell`
    pixels, interpolated."""
    height, width = size
    coarse = (max(2, round(height / cell)), max(2, round(width / cell)))
    grid = rng.standard_normal(coarse).astype(np.float32)
    return np.asarray(cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC))


def _photo_crop(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    source = photo(TEXTURE_PHOTOS[rng.integers(len(TEXTURE_PHOTOS))])
    height, width = size
    side = int(rng.uniform(0.12, 1.0) * min(source.shape[:2]))
    side = max(side, 16)
    y = rng.integers(0, source.shape[0] - side + 1)
    x = rng.integers(0, source.shape[1] - side + 1)
    crop = np.rot90(source[y : y + side, x : x + side], int(rng.integers(4)))
    if rng.random() < 0.5:
        crop = crop[:, ::-1]
    crop = cv2.resize(np.ascontiguousarray(crop), (width, height), interpolation=cv2.INTER_AREA)
    crop = crop.astype(np.float32)
    if rng.random() < 0.5:
        weight = (crop.mean(axis=2, keepdims=True) - crop.mean()) / 128
        crop = random_color(rng) + weight * rng.uniform(-160, 160, 3).astype(np.float32)
    return crop


def _noise(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    total = np.zeros(size, np.float32)
    for cell in (3, 8, 24, 64):
        total += rng.uniform(0, 1) ** 2 * value_noise(rng, size, cell * rng.uniform(0.6, 1.6))
    spread = rng.normal(0, 28, 3).astype(np.float32)
    return np.asarray(random_color(rng) + total[:, :, None] * spread)


def _gradient(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    angle = rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[0 : size[0], 0 : size[1]].astype(np.float32)
    along = np.cos(angle) * x / size[1] + np.sin(angle) * y / size[0]
    along = (along - along.min()) / max(float(np.ptp(along)), 1e-6)
    first, second = random_color(rng), random_color(rng)
    second = first + (second - first) * rng.uniform(0.1, 0.7)
    return np.asarray(first + along[:, :, None] * (second - first), dtype=np.float32)


def _stripes(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    angle, period = rng.uniform(0, np.pi), rng.uniform(4, 40)
    y, x = np.mgrid[0 : size[0], 0 : size[1]].astype(np.float32)
    wave = np.sin((np.cos(angle) * x + np.sin(angle) * y) * (2 * np.pi / period))
    if rng.random() < 0.4:
        wave = wave * np.sin((np.cos(angle) * y - np.sin(angle) * x) * (2 * np.pi / period))
    if rng.random() < 0.5:
        wave = np.sign(wave)
    spread = rng.normal(0, 40, 3).astype(np.float32)
    return np.asarray(random_color(rng) + wave[:, :, None] * spread, dtype=np.float32)


def _flat(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    return np.broadcast_to(random_color(rng), (*size, 3)).astype(np.float32)


FILLINGS = ((_photo_crop, 0.4), (_noise, 0.25), (_gradient, 0.15), (_stripes, 0.1), (_flat, 0.1))
"""Kinds of filling with their probabilities."""


def random_filling(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """Draw a filling of a random kind for `size` (H, W), float32 (H, W, 3) in [0, 255]."""
    kind = rng.choice(len(FILLINGS), p=[odds for _, odds in FILLINGS])
    return np.asarray(np.clip(FILLINGS[kind][0](rng, size), 0, 255))
