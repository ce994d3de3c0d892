"""Masks as people draw them: true masks with noisy outlines, and now and then a careless one.

The noise needs no model, so that thousands of answers can be simulated from true masks.

H x W = image; masks are bool.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

MIN_PIXELS = 0.5
"""Smallest standard deviation of an outline's displacement in pixels."""

KNOTS = 4
"""Values of the displacement across an object's box; smooth between them."""

LOOSE = (0.05, 0.25)
"""By how much of its size a careless box is larger than the object, at each side."""

SHIFT = (0.4, 0.8)
"""By how much of its size a careless mask is shifted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Noise:
    """How a person's masks differ from the true ones.

    Raises:
        ValueError: a value is out of range.
    """

    outline: float = 0.075
    """Standard deviation of the outline's displacement as a share of the radius of a disk of the
    object's area. With .075 the IoU with a disk is about .88; two people agree to .85 to .91 (SAM
    paper, section 5)."""

    careless: float = 0.01
    """Share of objects with a careless mask, [0, 1]: none, a loose box, or a shifted mask."""

    def __post_init__(self) -> None:
        if self.outline < 0 or not 0 <= self.careless <= 1:
            raise ValueError(f"expected outline >= 0 and careless in [0, 1], got {self}")


CAREFUL = Noise()
CARELESS = Noise(careless=0.1)


def noisy_masks(
    rng: np.random.Generator, truths: Sequence[np.ndarray], noise: Noise
) -> list[np.ndarray]:
    """Return a person's masks of the objects of one image.

    Args:
        rng: source of the noise.
        truths: true masks, bool (H, W) each; empty ones are skipped.

    Returns:
        At most one mask per object, bool (H, W), none empty.
    """
    found = []
    for truth in truths:
        if not truth.any():
            continue
        mask = _with_noisy_outline(rng, truth, noise.outline)
        if rng.random() < noise.careless:
            kind = rng.integers(3)
            if kind == 0:
                continue
            mask = _loose_box(rng, truth) if kind == 1 else _shifted(rng, mask)
        if mask.any():
            found.append(mask)
    return found


def _with_noisy_outline(rng: np.random.Generator, mask_HW: np.ndarray, share: float) -> np.ndarray:
    """Displace the outline smoothly; the mask itself if nothing would be left of it."""
    radius = float(np.sqrt(np.count_nonzero(mask_HW) / np.pi))
    sigma = max(share * radius, MIN_PIXELS)
    height, width = mask_HW.shape
    x, y, w, h = cv2.boundingRect(mask_HW.view(np.uint8))
    margin = int(4 * sigma) + 2
    window = (
        slice(max(0, y - margin), min(height, y + h + margin)),
        slice(max(0, x - margin), min(width, x + w + margin)),
    )
    part = np.pad(mask_HW[window], 1).view(np.uint8)  # so that something lies outside
    inside = cv2.distanceTransform(part, cv2.DIST_L2, 3)
    outside = cv2.distanceTransform(1 - part, cv2.DIST_L2, 3)
    depth = inside - outside - np.where(part, 0.5, -0.5)  # pixels from the outline
    knots = rng.normal(scale=sigma, size=(KNOTS, KNOTS))
    displacement = cv2.resize(knots, part.shape[::-1], interpolation=cv2.INTER_CUBIC)
    drawn = (depth + displacement > 0)[1:-1, 1:-1]
    if not drawn.any():
        return mask_HW
    found = np.zeros_like(mask_HW)
    found[window] = drawn
    return found


def _loose_box(rng: np.random.Generator, mask_HW: np.ndarray) -> np.ndarray:
    x, y, w, h = cv2.boundingRect(mask_HW.view(np.uint8))
    left, right = (rng.uniform(*LOOSE, size=2) * w).round().astype(int)
    top, bottom = (rng.uniform(*LOOSE, size=2) * h).round().astype(int)
    found = np.zeros_like(mask_HW)
    found[max(0, y - top) : y + h + bottom, max(0, x - left) : x + w + right] = True
    return found


def _shifted(rng: np.random.Generator, mask_HW: np.ndarray) -> np.ndarray:
    """Shift a mask by a share of its size; what leaves the image is lost."""
    x, y, w, h = cv2.boundingRect(mask_HW.view(np.uint8))
    angle = rng.uniform(0, 2 * np.pi)
    far = rng.uniform(*SHIFT)
    to_x = x + round(far * w * float(np.cos(angle)))
    to_y = y + round(far * h * float(np.sin(angle)))
    height, width = mask_HW.shape
    found = np.zeros_like(mask_HW)
    x0, y0 = max(0, to_x), max(0, to_y)
    x1, y1 = min(width, to_x + w), min(height, to_y + h)
    if x0 < x1 and y0 < y1:
        part = mask_HW[y : y + h, x : x + w]
        found[y0:y1, x0:x1] = part[y0 - to_y : y1 - to_y, x0 - to_x : x1 - to_x]
    return found
