"""Cuts sequences into batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

T = TypeVar("T")


def batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield the items in lists of `size`; the last list may be shorter. Reads the items lazily."""
    rest = iter(items)
    while batch := list(islice(rest, size)):
        yield batch
