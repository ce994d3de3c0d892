"""Training samples: an image and its masks, cropped, resized, recoloured and prompted.

numpy and cv2 only, so that it runs in loader processes. H, W = image; S = training side; K = masks
per image. Points are (x, y), boxes half-open XYXY, both in pixels of the training image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from engine.core.clicks import center_point
from engine.core.rle import RLE, decode, encode
from engine.training.config import TrainConfig


@dataclass(frozen=True, slots=True)
class Example:
    """One annotated image, RGB uint8 (H, W, 3), with its masks, and its name for error messages.

    `is_complete`: every object has a mask. Clicks on no object are drawn only then: elsewhere they
    would teach that objects without a mask are none.

    Raises:
        ValueError: a mask is not of the image's size.
    """

    image_HWC: np.ndarray
    rles: list[RLE]
    name: str = "an image"
    is_complete: bool = True

    def __post_init__(self) -> None:
        size = self.image_HWC.shape[:2]
        for rle in self.rles:
            if tuple(rle.size) != size:
                raise ValueError(
                    f"{self.name} has size {size}, but one of its masks has {tuple(rle.size)}"
                )


ExampleSource = Callable[[np.random.Generator], Example]
"""Draws one annotated image at random."""


@dataclass(frozen=True, slots=True)
class View:
    """A crop of an image: resized, flipped, recoloured.

    Attributes:
        image_HWC: RGB uint8.
        masks: uint8 0/1 (H, W) each, without those that are too small or too large.
        background_HW: bool, pixels that are not in or near any mask of the image; all false if its
            annotation is incomplete.
        name: of the image.
    """

    image_HWC: np.ndarray
    masks: Sequence[np.ndarray]
    background_HW: np.ndarray
    name: str

    def compressed(self) -> View:
        """Return the view with its masks as run lengths, which are decoded on access."""
        return View(self.image_HWC, _EncodedMasks(self.masks), self.background_HW, self.name)


class _EncodedMasks(Sequence[np.ndarray]):
    """A sequence of masks, uint8 (H, W) each, stored as run lengths."""

    def __init__(self, masks: Sequence[np.ndarray]) -> None:
        self._rles = [encode(mask.view(bool)) for mask in masks]

    def __len__(self) -> int:
        return len(self._rles)

    def __getitem__(self, index: Any) -> Any:
        return decode(self._rles[index]).view(np.uint8)


@dataclass(frozen=True, slots=True)
class Sample:
    """One image of a training step with its K first prompts.

    Attributes:
        image_SSC: RGB uint8 (S, S, 3), padded right and below with zeros.
        size: (H, W) of the part that is image.
        masks_KSS: uint8 0/1; all zeros for a background click.
        clicks_K2: a first click inside each mask.
        boxes_K4: the mask's box with noise; the image's box for a background click.
        is_background_K: bool.
        name: of the image.
        embedding: of the image, a torch tensor (C, h, w), if it is cached; else None.
    """

    image_SSC: np.ndarray
    size: tuple[int, int]
    masks_KSS: np.ndarray
    clicks_K2: np.ndarray
    boxes_K4: np.ndarray
    is_background_K: np.ndarray
    name: str
    embedding: Any = None


def make_sample(example: Example, config: TrainConfig, rng: np.random.Generator) -> Sample | None:
    """Draw one sample; return None if the crop has no mask to train on."""
    return prompt_view(make_view(example, config, rng), config, rng)


def prompt_view(view: View, config: TrainConfig, rng: np.random.Generator) -> Sample | None:
    """Draw masks of a view and their first prompts; return None if it has no mask to train on."""
    image, masks, background = view.image_HWC, view.masks, view.background_HW
    if not masks and rng.random() > config.background_share:
        return None
    height, width = image.shape[:2]
    side, count = config.image_size, config.masks_per_image
    if not masks and not background.any():
        return None
    out = Sample(
        np.zeros((side, side, 3), np.uint8),
        (height, width),
        np.zeros((count, side, side), np.uint8),
        np.zeros((count, 2), np.float32),
        np.zeros((count, 4), np.float32),
        np.zeros(count, bool),
        view.name,
    )
    out.image_SSC[:height, :width] = image
    for slot in range(count):
        if not masks or (background.any() and rng.random() < config.background_share):
            out.is_background_K[slot] = True
            out.clicks_K2[slot] = _random_point(background, rng)
            out.boxes_K4[slot] = (0, 0, width, height)
            continue
        mask = masks[int(rng.integers(len(masks)))]
        out.masks_KSS[slot, :height, :width] = mask
        central = rng.random() < config.center_share
        out.clicks_K2[slot] = center_point(mask.view(bool)) if central else _random_point(mask, rng)
        out.boxes_K4[slot] = _noisy_box(mask, config, rng)
    return out


def _random_point(mask_HW: np.ndarray, rng: np.random.Generator) -> tuple[float, float]:
    inside = np.flatnonzero(mask_HW)
    y, x = np.unravel_index(int(inside[rng.integers(len(inside))]), mask_HW.shape)
    return float(x), float(y)


def _noisy_box(mask: np.ndarray, config: TrainConfig, rng: np.random.Generator) -> np.ndarray:
    x, y, w, h = cv2.boundingRect(mask)
    sides = np.array([w, h, w, h], np.float32)
    noise = rng.normal(0, 1, 4) * np.minimum(config.box_noise * sides, 20) * (rng.random() < 0.7)
    limit = np.array([mask.shape[1], mask.shape[0]])
    box = np.array([x, y, x + w, y + h]) + noise
    first = np.clip(box[:2], 0, limit - 1)
    return np.concatenate([first, np.clip(box[2:], first + 1, limit)]).astype(np.float32)


def _background(masks: list[np.ndarray], size: tuple[int, int]) -> np.ndarray:
    covered = np.zeros(size, np.uint8)
    for mask in masks:
        covered |= mask
    return np.asarray(cv2.erode(1 - covered, np.ones((5, 5), np.uint8)), dtype=bool)


def make_view(example: Example, config: TrainConfig, rng: np.random.Generator) -> View:
    """Scale, crop, flip and recolour an example at random."""
    height, width = example.image_HWC.shape[:2]
    zoom = float(np.exp(rng.uniform(*np.log(config.jitter))))
    scale = config.image_size / max(height, width) * zoom
    crop_w = min(width, round(config.image_size / scale))
    crop_h = min(height, round(config.image_size / scale))
    x = int(rng.integers(0, width - crop_w + 1))
    y = int(rng.integers(0, height - crop_h + 1))
    out = (
        min(config.image_size, max(8, round(crop_w * scale))),
        min(config.image_size, max(8, round(crop_h * scale))),
    )
    flips = (rng.random() < 0.5, rng.random() < 0.5, rng.random() < 0.5)
    image = example.image_HWC[y : y + crop_h, x : x + crop_w]
    shrink = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    image = _flip(cv2.resize(image, out, interpolation=shrink), flips)
    kept, every = [], []
    for rle in example.rles:
        cut = decode(rle)[y : y + crop_h, x : x + crop_w].view(np.uint8)
        mask = _flip(resize_mask(cut, out).view(np.uint8), flips)
        every.append(mask)
        if config.min_pixels <= mask.sum() <= config.max_area * mask.size:
            kept.append(mask)
    size = (image.shape[0], image.shape[1])
    background = _background(every, size) if example.is_complete else np.zeros(size, bool)
    return View(_recolour(image, rng), kept, background, example.name)


def resize_mask(mask_HW: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize a mask, bool or uint8 0/1 (H, W), to (w, h): bool, true for pixels at least half
    covered. Nearest neighbour would shift the mask by half a pixel against the image."""
    shrinks = size[0] < mask_HW.shape[1]
    covered = cv2.resize(
        mask_HW.view(np.uint8) * 255,
        size,
        interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR,
    )
    return np.asarray(covered > 127)


def _flip(array: np.ndarray, flips: tuple[bool, bool, bool]) -> np.ndarray:
    if flips[0]:
        array = array[:, ::-1]
    if flips[1]:
        array = array[::-1]
    if flips[2]:
        array = array.swapaxes(0, 1)
    return np.ascontiguousarray(array)


def _recolour(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    if rng.random() < 0.3:
        return image
    gain, lift = rng.uniform(0.75, 1.25, 3), rng.uniform(-20, 20)
    if rng.random() < 0.5:
        gain[:] = gain[0]
    table = np.arange(256)[:, None] * gain + lift
    table = np.clip(table, 0, 255).astype(np.uint8)
    channels = [cv2.LUT(image[:, :, channel], table[:, channel]) for channel in range(3)]
    return np.asarray(cv2.merge(channels))
