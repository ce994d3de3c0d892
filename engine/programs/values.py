"""The values of programs, and what a program can ask about an image.

Boxes are half-open pixel XYXY in the frame of the whole image, masks RLE of its size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from engine.core.rle import RLE
from engine.programs.expression import Answer

Box = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Thing:
    """An object of an image.

    Attributes:
        box_xyxy: around it.
        rle: its mask; None: the box is all that is known, as of a face.
        mask_id: of the mask, if it is stored.
        names: its label, then the labels above it in the category list; empty without a label.
        shown: what is written beside it.
    """

    box_xyxy: tuple[int, int, int, int]
    rle: RLE | None = None
    mask_id: str | None = None
    names: tuple[str, ...] = ()
    shown: str = ""

    @property
    def center_xy(self) -> tuple[float, float]:
        """The centre of its box."""
        x0, y0, x1, y1 = self.box_xyxy
        return (x0 + x1) / 2, (y0 + y1) / 2


@dataclass(frozen=True, slots=True)
class Objects:
    """Objects of one image; `slot` is its input: IMAGE, LEFT or RIGHT."""

    slot: str
    things: tuple[Thing, ...]


@dataclass(frozen=True, slots=True)
class Picture:
    """An image, or a part of one that was cut out or edited.

    Attributes:
        pixels_HWC: RGB uint8 (H, W, 3); H or W is 0 if nothing is left of it.
        slot: the input that it is from.
        region: what it shows of that image; an object belongs to it if its centre lies within.
    """

    pixels_HWC: np.ndarray
    slot: str
    region: Box

    @staticmethod
    def whole(pixels_HWC: np.ndarray, slot: str) -> Picture:
        """An input."""
        height, width = pixels_HWC.shape[:2]
        return Picture(pixels_HWC, slot, (0.0, 0.0, float(width), float(height)))

    @property
    def origin_xy(self) -> tuple[int, int]:
        """Its first pixel in the frame of the image."""
        return math.floor(self.region[0]), math.floor(self.region[1])

    @property
    def is_empty(self) -> bool:
        """Whether it has no pixel."""
        return 0 in self.pixels_HWC.shape

    def holds(self, thing: Thing) -> bool:
        """Whether an object's centre lies within."""
        (x, y), (x0, y0, x1, y1) = thing.center_xy, self.region
        return x0 <= x < x1 and y0 <= y < y1

    def cut(self, region: Box) -> Picture:
        """The part within a region of the image; its pixels are shared."""
        x0, y0 = max(self.region[0], region[0]), max(self.region[1], region[1])
        x1, y1 = min(self.region[2], region[2]), min(self.region[3], region[3])
        x1, y1 = max(x0, x1), max(y0, y1)
        left, top = self.origin_xy
        rows = slice(math.floor(y0) - top, math.ceil(y1) - top)
        columns = slice(math.floor(x0) - left, math.ceil(x1) - left)
        return Picture(self.pixels_HWC[rows, columns], self.slot, (x0, y0, x1, y1))


Value = Picture | Objects | tuple[str, ...] | Answer
"""Of a variable."""


class Matcher(Protocol):
    """Compares objects with words, for those that have no label."""

    def scores(self, slot: str, things: Sequence[Thing], texts: Sequence[str]) -> np.ndarray:
        """How well each object fits each text, float (N, T); the highest of a row fits best."""
        ...

    def are(self, slot: str, things: Sequence[Thing], text: str) -> np.ndarray:
        """Whether each object is what the text says, bool (N,)."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Tools:
    """What the modules work with; without a tool, the modules that need it say so.

    Attributes:
        things: the objects of each input.
        known_names: the categories that labels are from; None: unknown.
        matcher: compares objects without a label with words.
        answer: a question about a picture, RGB uint8 (H, W, 3).
        list_names: at most so many names for a query.
        repaint: picture, bool mask (H, W) and prompt to a picture of the same size.
    """

    things: Mapping[str, Sequence[Thing]] = field(default_factory=dict)
    known_names: tuple[str, ...] | None = None
    matcher: Matcher | None = None
    answer: Callable[[np.ndarray, str], str] | None = None
    list_names: Callable[[str, int], list[str]] | None = None
    repaint: Callable[[np.ndarray, np.ndarray, str], np.ndarray] | None = None


def same_name(one: str, other: str) -> bool:
    """Whether two names are the same, without regard to case, article and the plural's ending."""
    one, other = _plain(one), _plain(other)
    return one == other or one in _plurals(other) or other in _plurals(one)


def _plain(name: str) -> str:
    words = name.casefold().split()
    return " ".join(words[1:] if len(words) > 1 and words[0] in ("a", "an", "the") else words)


def _plurals(name: str) -> tuple[str, ...]:
    return (f"{name}s", f"{name}es", *([f"{name[:-1]}ies"] if name.endswith("y") else []))


def is_named(thing: Thing, name: str) -> bool:
    """Whether an object's label, or one above it, is that name."""
    return any(same_name(name, one) for one in thing.names)
