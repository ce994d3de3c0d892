"""Pictures of objects that can be named: colour x texture x shape, with exact masks and captions.

For tests of whatever needs words for masks. A picture is a pure function of its seed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from engine.core import rle as rle_codec
from engine.core.rle import RLE

COLOURS = {
    "red": (205, 45, 40),
    "green": (50, 150, 60),
    "blue": (50, 80, 205),
    "yellow": (235, 205, 50),
    "purple": (140, 60, 165),
    "white": (240, 240, 235),
}
TEXTURES = ("plain", "striped", "dotted")
SIDE = 128
"""Height and width of a picture, in pixels."""


def _corners(radii: np.ndarray, turn: float) -> np.ndarray:
    angles = turn + np.linspace(0, 2 * np.pi, len(radii), endpoint=False)
    return np.asarray(np.stack([np.cos(angles), np.sin(angles)], axis=1) * radii[:, None])


def _cross(turn: float) -> np.ndarray:
    arm, end = 0.33, 1.0
    points = np.array(
        [(arm, end), (arm, arm), (end, arm), (end, -arm), (arm, -arm), (arm, -end)], float
    )
    points = np.concatenate([points, -points])
    turned = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    return np.asarray(points @ turned)


SHAPES: dict[str, Callable[[float], np.ndarray]] = {
    "circle": lambda turn: _corners(np.ones(48), turn),
    "square": lambda turn: _corners(np.full(4, 1.1), turn + np.pi / 4),
    "triangle": lambda turn: _corners(np.full(3, 1.15), turn),
    "star": lambda turn: _corners(np.array([1.2, 0.5] * 5), turn),
    "cross": _cross,
}
"""Outlines, in radii about the centre, turned by an angle."""

CAPTIONS = (
    "a {colour} {shape}.",
    "a {texture} {colour} {shape}.",
    "a photo of a {colour} {shape}.",
    "a photo of the {texture} {colour} {shape}.",
    "a drawing of a {texture} {shape}.",
    "a close-up photo of one {shape}.",
    "it has the shape of a {shape} and is {colour}.",
    "a {colour} thing that looks like a {shape}.",
)
"""True sentences about an object; none says all of it in the same words."""


@dataclass(frozen=True, slots=True)
class Thing:
    """An object of a picture, and the mask of its visible pixels."""

    colour: str
    texture: str
    shape: str
    rle: RLE

    @property
    def name(self) -> str:
        """Colour and shape, such as `red circle`."""
        return f"{self.colour} {self.shape}"

    @property
    def captions(self) -> tuple[str, ...]:
        """CAPTIONS of this object."""
        words = {"colour": self.colour, "texture": self.texture, "shape": self.shape}
        return tuple(caption.format(**words) for caption in CAPTIONS)


@dataclass(frozen=True, slots=True)
class Picture:
    """RGB uint8 (SIDE, SIDE, 3), and its objects."""

    image_HWC: np.ndarray
    things: tuple[Thing, ...]


def draw_picture(seed: int, *, faded: bool = False) -> Picture:
    """Draw four objects, one in each quarter, on a mottled background.

    Args:
        seed: non-negative.
        faded: whether to drop most of the colour, as another camera would.
    """
    rng = np.random.default_rng([seed, 22])
    small = rng.normal(0, 1, (8, 8, 3)).astype(np.float32) * 14
    image = cv2.resize(small, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
    image = image + rng.uniform(30, 190, 3)
    things = []
    for corner in ((32, 32), (96, 32), (32, 96), (96, 96)):
        center = np.array(corner) + rng.uniform(-8, 8, 2)
        shape, texture = str(rng.choice(list(SHAPES))), str(rng.choice(TEXTURES))
        colour = str(rng.choice(list(COLOURS)))
        points = center + SHAPES[shape](rng.uniform(-0.4, 0.4)) * rng.uniform(12, 20)
        mask = np.zeros((SIDE, SIDE), np.uint8)
        cv2.fillPoly(mask, [np.round(points * 16).astype(np.int32)], 1, shift=4)
        painted = _filling(rng, texture, np.array(COLOURS[colour]) + rng.normal(0, 12, 3))
        soft = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), 0.6)[:, :, None]
        image = image * (1 - soft) + painted * soft
        things.append(Thing(colour, texture, shape, rle_codec.encode(mask.astype(bool))))
    if faded:
        image = 0.25 * image + 0.75 * image.mean(axis=2, keepdims=True)
    image = image * rng.uniform(0.8, 1.1) + rng.normal(0, 8, image.shape)
    return Picture(np.clip(image, 0, 255).astype(np.uint8), tuple(things))


def _filling(rng: np.random.Generator, texture: str, colour: np.ndarray) -> np.ndarray:
    """Return a coloured texture, float (SIDE, SIDE, 3)."""
    y, x = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32)
    turn, pitch = rng.uniform(0, np.pi), rng.uniform(6, 9)
    along, across = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
    if texture == "plain":
        dark = np.zeros((SIDE, SIDE), bool)
    elif texture == "striped":
        dark = along % pitch < pitch / 2
    else:
        dark = np.hypot(along % pitch - pitch / 2, across % pitch - pitch / 2) < pitch * 0.3
    return np.asarray(colour * np.where(dark, 0.35, 1.0)[:, :, None])
