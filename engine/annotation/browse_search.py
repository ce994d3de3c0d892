"""Search on the page Browse: masks that fit words, or that are like a mask, the best first."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import pyarrow as pa
from cachetools import TTLCache

from engine.annotation.browse_columns import FoundMasks
from engine.annotation.browse_schemas import Filters
from storage.mask_index import MaskIndex

MAX_FOUND = 500
"""Masks that a search finds at most: as many as one command takes."""
KEPT = 64
KEPT_SECONDS = 30.0
"""How long the result of a search is used again, for its further pages."""


class Found(Protocol):
    """A mask that was found. `score`: cosine, or the probability of a category."""

    @property
    def mask_id(self) -> str:
        """Id of the mask."""

    @property
    def image_id(self) -> int:
        """Id of its image."""

    @property
    def score(self) -> float:
        """How well it fits."""


FindMasks = Callable[[int, str | None, str | None, int], Sequence[Found]]
"""Searches a dataset by its id: for words, or for masks like the one of an id; at most this many.
Raises RefusedError if that cannot be searched for."""


class Search:
    """One per server. Thread-safe."""

    def __init__(self, find: FindMasks) -> None:
        self._find = find
        self._lock = threading.Lock()
        self._kept: TTLCache[tuple[int, str | None, str | None], Sequence[Found]] = TTLCache(
            KEPT, KEPT_SECONDS
        )

    def run(self, dataset_id: int, index: MaskIndex, asked: Filters) -> FoundMasks | None:
        """The masks of the index that fit what is searched for; None without a search.

        Raises:
            RefusedError: it cannot be searched for.
        """
        if asked.words is None and asked.like is None:
            return None
        key = (dataset_id, asked.words, asked.like)
        with self._lock:
            found = self._kept.get(key)
        if found is None:
            found = self._find(dataset_id, asked.words, asked.like, MAX_FOUND)
            with self._lock:
                self._kept[key] = found
        score_N, rank_N = (np.full(len(index), np.nan, np.float32) for _ in range(2))
        rows = index.rows_of(
            np.array([one.image_id for one in found], np.int64),
            pa.array([one.mask_id for one in found], pa.string()),
        )
        scores = np.array([one.score for one in found], np.float32)
        known = rows >= 0
        score_N[rows[known]] = scores[known]
        rank_N[rows[known]] = np.flatnonzero(known)
        return FoundMasks(score_N, rank_N)
