"""Cuts sequences into batches, and thins them out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TypeVar

import numpy as np

T = TypeVar("T")


def batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield the items in lists of `size`; the last list may be shorter. Reads the items lazily."""
    rest = iter(items)
    while batch := list(islice(rest, size)):
        yield batch


def spread(items: Sequence[T], count: int) -> list[T]:
    """Return up to `count` of the items, spread evenly over their order, the first and the last
    among them."""
    places = np.linspace(0, len(items) - 1, min(len(items), count))
    return [items[place] for place in places.astype(int)]
