"""Search on the page Browse: masks that fit words, or that are like a mask, the best first; and
what runs of programs selected."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import pyarrow as pa
from cachetools import TTLCache, cached

from engine.annotation.browse_columns import FoundMasks, SelectedPlaces
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


@dataclass(frozen=True, slots=True)
class Selected:
    """What a run of a program selected.

    Attributes:
        image_ids: the images.
        mask_ids: the objects by image id; an image that is missing was selected as a whole.
    """

    image_ids: Collection[int] = ()
    mask_ids: Mapping[int, Collection[str]] = field(default_factory=dict)


SelectedBy = Callable[[int, str], Selected]
"""Returns what a run selected in a dataset, from the dataset's id and the run's id, tag or program.
Raises RefusedError if there is no such run."""


class Selections:
    """One per server. Thread-safe."""

    def __init__(self, selected_by: SelectedBy) -> None:
        self._read = cached(
            TTLCache[tuple[int, str], Selected](KEPT, KEPT_SECONDS), lock=threading.Lock()
        )(selected_by)

    def run(
        self, dataset_id: int, index: MaskIndex, image_ids_I: np.ndarray, asked: Filters
    ) -> SelectedPlaces | None:
        """Which masks of the index and which images, (I,), a run selected; None: nothing is asked.

        Raises:
            RefusedError: there is no such run.
        """
        if asked.program is None:
            return None
        found = self._read(dataset_id, asked.program)
        objects = np.array(sorted(found.mask_ids), np.int64)
        images = np.array(sorted(found.image_ids), np.int64)
        mask_N = np.isin(index.image_N, np.setdiff1d(images, objects))
        pairs = [(image, name) for image, names in found.mask_ids.items() for name in names]
        rows = index.rows_of(
            np.array([image for image, _ in pairs], np.int64),
            pa.array([name for _, name in pairs], pa.string()),
        )
        mask_N[rows[rows >= 0]] = True
        return SelectedPlaces(mask_N, np.isin(image_ids_I, images))


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
