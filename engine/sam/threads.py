"""Work on several threads with one core each.

A model's operations are small: two cores that share one operation lose more time to synchronisation
than two cores with an operation each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

from engine.core.batches import batches

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def map_on_threads(
    work: Callable[[_Item], _Result], items: Sequence[_Item], workers: int
) -> list[_Result]:
    """Return `work` of all items, in order, done by `workers` threads."""
    if workers < 2 or len(items) < 2:
        return [work(item) for item in items]

    def work_on_one_core(item: _Item) -> _Result:
        torch.set_num_threads(1)
        return work(item)

    try:
        with ThreadPoolExecutor(workers) as pool:
            return list(pool.map(work_on_one_core, items))
    finally:
        torch.set_num_threads(workers)


def each_on_threads(
    work: Callable[[_Item], _Result], items: Iterable[_Item], workers: int
) -> Iterator[_Result]:
    """Yield `work` of each item, in order, done by `workers` threads; reads as many items at
    once."""
    for batch in batches(items, workers):
        yield from map_on_threads(work, batch, workers)
