"""What Browse keeps in memory of a dataset, and which masks and images its filters let through.

N = masks of a dataset at one version of the mask table, by image id; I = its images, by id;
M = masks or images that pass.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np

from engine.annotation.browse_schemas import Filters, PageOf
from engine.core.categories import NONE_OF_THESE, UNLABELLED
from storage.mask_index import NUMBERS, SCORES, WORDS, MaskIndex

VERDICTS = ("none", "accept", "reject", "fix")
"""By code."""
BINS = 40
LAST = np.uint32(2**32 - 1)
"""The key of what is sorted last."""


@dataclass(frozen=True, slots=True)
class Bins:
    """A number's histogram over all masks.

    Attributes:
        edges: ascending, one more than there are bins.
        codes_N: uint8, each mask's bin; the number of bins where its number is unknown.
    """

    edges: list[float]
    codes_N: np.ndarray

    def counts(self, passing: np.ndarray | None) -> np.ndarray:
        """Masks in each bin, and last those without the number; of the masks that pass, or all."""
        codes = self.codes_N if passing is None else self.codes_N[passing]
        return np.bincount(codes, minlength=len(self.edges))


@dataclass(frozen=True, slots=True)
class DatasetImages:
    """A dataset's images.

    Attributes:
        ids_I: int64, ascending.
        is_near_I: bool, the image nearly repeats another.
    """

    ids_I: np.ndarray
    is_near_I: np.ndarray


@dataclass(frozen=True, slots=True)
class MaskNames:
    """The labels of a dataset's masks, and the categories suggested for them.

    Attributes:
        values: UNLABELLED, NONE_OF_THESE and the categories' names, in the list's order.
        label_N: int32, places in `values`.
        suggested_N: int32, places in `values`; UNLABELLED: no suggestion.
        probability_N: float32, of the suggestion; NaN: none.
    """

    values: list[str]
    label_N: np.ndarray
    suggested_N: np.ndarray
    probability_N: np.ndarray

    @staticmethod
    def of_none(count: int) -> MaskNames:
        """The names of masks of a dataset without categories."""
        empty = np.zeros(count, np.int32)
        unknown = np.full(count, np.nan, np.float32)
        return MaskNames([UNLABELLED, NONE_OF_THESE], empty, empty, unknown)


@dataclass(frozen=True, slots=True)
class FoundMasks:
    """What a search found.

    Attributes:
        score_N: float32, cosine or probability; NaN: not found.
        rank_N: float32, places in the order of the search; NaN: not found.
    """

    score_N: np.ndarray
    rank_N: np.ndarray


@dataclass(frozen=True, slots=True)
class SelectedPlaces:
    """What a run of a program selected.

    Attributes:
        mask_N: bool, its objects, and all masks of images that were selected as a whole.
        image_I: bool.
    """

    mask_N: np.ndarray
    image_I: np.ndarray


@dataclass(frozen=True, slots=True)
class Columns:
    """A dataset at one version of the mask table, ready to be filtered.

    Attributes:
        verdict_N: uint8, places in VERDICTS.
        place_N: int32, the place of each mask's image; -1: it is gone.
        names: labels and suggestions.
        found: what was searched for; None: no search.
        selected: by the run of a program that is asked for; None: none is.
        released_N: bool, in the release that is asked for; None: none is.
    """

    index: MaskIndex
    bins: dict[str, Bins]
    images: DatasetImages
    verdict_N: np.ndarray
    place_N: np.ndarray
    names: MaskNames
    found: FoundMasks | None = None
    selected: SelectedPlaces | None = None
    released_N: np.ndarray | None = None

    def number(self, name: str) -> np.ndarray:
        """A column of numbers, (N,); NaN where unknown."""
        return self.names.probability_N if name == "probability" else self.index.numbers[name]


def places(index: MaskIndex, images: DatasetImages) -> np.ndarray:
    """The place of each mask's image, int32 (N,); -1: the dataset has no such image."""
    found = np.searchsorted(images.ids_I, index.image_N)
    ids = np.append(images.ids_I, 0)
    return np.where(ids[found] == index.image_N, found, -1).astype(np.int32)


def score_bins(scores_N: np.ndarray) -> Bins:
    """The histogram of scores in [0, 1], NaN where unknown."""
    unknown = np.isnan(scores_N)
    codes = np.clip(np.where(unknown, 0, scores_N) * BINS, 0, BINS - 1).astype(np.uint8)
    codes[unknown] = BINS
    return Bins(np.linspace(0, 1, BINS + 1).tolist(), codes)


def bins_of(index: MaskIndex) -> dict[str, Bins]:
    """The histograms of all numbers."""
    found = {name: score_bins(index.numbers[name]) for name in SCORES}
    return found | {
        "area": _area_bins(index.numbers["area"]),
        "created_at": _time_bins(index.numbers["created_at"]),
    }


def _area_bins(areas_N: np.ndarray) -> Bins:
    """Bins whose edges are powers of the square root of 2."""
    steps = np.floor(2 * np.log2(np.maximum(areas_N, 1), dtype=np.float32)).astype(np.uint8)
    first, last = (int(steps.min()), int(steps.max())) if len(steps) else (0, 0)
    return Bins([2 ** (step / 2) for step in range(first, last + 2)], steps - np.uint8(first))


def _time_bins(seconds_N: np.ndarray) -> Bins:
    first, last = (int(seconds_N.min()), int(seconds_N.max())) if len(seconds_N) else (0, 0)
    span = last + 1 - first
    codes = ((seconds_N - np.uint32(first)) * (BINS / span)).astype(np.uint8)
    return Bins(np.linspace(first, last + 1, BINS + 1).tolist(), np.minimum(codes, BINS - 1))


class Passing:
    """The masks of a dataset that filters let through."""

    def __init__(self, columns: Columns, filters: Filters) -> None:
        self.columns, self._filters = columns, filters
        self._refused: dict[str, np.ndarray] = {}
        for name in WORDS:
            self._one_of(name, columns.index.words[name].codes_N, columns.index.words[name].values)
        self._one_of("verdict", columns.verdict_N, VERDICTS)
        self._one_of("label", columns.names.label_N, columns.names.values)
        self._one_of("suggested", columns.names.suggested_N, columns.names.values)
        for name in (*NUMBERS, "probability"):
            self._in_range(name, columns.number(name))
        if columns.found is not None:
            self._refused["found"] = np.isnan(columns.found.rank_N)
        if columns.released_N is not None:
            self._refused["release"] = ~columns.released_N
        self.has_filter = bool(self._refused) or filters.superseded == "only"
        self._which("superseded", columns.index.is_superseded_N)
        if columns.selected is not None:
            self._refused["program"] = ~columns.selected.mask_N
        if filters.near_duplicates != "with":
            is_near = np.append(columns.images.is_near_I, False)  # the last one is for -1
            self._which("near_duplicates", is_near[columns.place_N])
        if (gone := columns.place_N < 0).any():
            self._refused["gone"] = gone
        self._refusals_N = np.zeros(len(columns.index), np.uint8)
        for refused in self._refused.values():
            self._refusals_N += refused

    def _one_of(self, name: str, codes_N: np.ndarray, values: object) -> None:
        """A filter by words."""
        if wanted := {str(value) for value in getattr(self._filters, name)}:
            known = [str(value) in wanted for value in values]  # type: ignore[attr-defined]
            self._refused[name] = ~np.array([*known, False])[codes_N]  # the last one is for -1

    def _in_range(self, name: str, values_N: np.ndarray) -> None:
        """A filter by a number."""
        least, most = (getattr(self._filters, f"{name}_{end}") for end in ("min", "max"))
        if least is None and most is None:
            return
        is_score = values_N.dtype == np.float32
        passes = ~np.isnan(values_N) if is_score else np.ones(len(values_N), bool)
        if least is not None:
            passes &= values_N >= _number(least)
        if most is not None:
            passes &= values_N <= _number(most)
        self._refused[name] = ~passes

    def _which(self, name: str, are_N: np.ndarray) -> None:
        """A filter by yes or no."""
        which = getattr(self._filters, name)
        if which != "with":
            self._refused[name] = are_N if which == "without" else ~are_N

    def but_for(self, name: str) -> np.ndarray:
        """Which masks all filters except this one let through, bool (N,)."""
        if name not in self._refused:
            return np.asarray(self._refusals_N == 0)
        return np.asarray(self._refusals_N == self._refused[name])

    def rows(self) -> np.ndarray:
        """The masks that all filters let through, int64 (M,), ascending."""
        return np.flatnonzero(self._refusals_N == 0)

    def page(self, asked: PageOf) -> tuple[int, np.ndarray]:
        """How many masks pass, and the rows of those on the page, int64, in its order."""
        rows = self.rows()
        keys = self._keys(rows, asked) if self._is_sorted(asked) else None
        return len(rows), _page(rows, keys, asked)

    def image_page(self, asked: PageOf) -> tuple[int, np.ndarray, np.ndarray]:
        """How many images have masks that pass, or all images without a filter; the places of those
        on the page in its order, and the number of their masks that pass."""
        rows, images = self.rows(), self.columns.images
        place_M = self.columns.place_N[rows]
        masks_I = np.bincount(place_M, minlength=len(images.ids_I))
        shown = masks_I > 0 if self.has_filter else np.ones(len(masks_I), bool)
        if asked.near_duplicates != "with":
            shown &= images.is_near_I == (asked.near_duplicates == "only")
        if self.columns.selected is not None:
            shown &= self.columns.selected.image_I
        found = np.flatnonzero(shown)
        keys = None
        if self._is_sorted(asked):
            keys_I = np.full(len(masks_I), LAST)
            starts = np.flatnonzero(np.diff(place_M, prepend=-1))
            if len(rows):
                keys_I[place_M[starts]] = np.minimum.reduceat(self._keys(rows, asked), starts)
            keys = keys_I[found]
        chosen = _page(found, keys, asked)
        return len(found), chosen, masks_I[chosen]

    def _is_sorted(self, asked: PageOf) -> bool:
        """Whether the order is another one than that of images."""
        return asked.sort != "image" or self.columns.found is not None

    def _keys(self, rows: np.ndarray, asked: PageOf) -> np.ndarray:
        """Keys that sort these masks, uint32 (M,); unknown numbers come last. What was searched for
        is in the order of the search."""
        if self.columns.found is not None:
            return np.asarray(self.columns.found.rank_N[rows], np.uint32)
        values = self.columns.number(asked.sort)[rows]
        if values.dtype != np.float32:
            return np.asarray(~values if asked.descending else values)
        bits = values.view(np.uint32)
        keys = np.where(bits >> 31, ~bits, bits | np.uint32(2**31))
        if asked.descending:
            keys = ~keys
        keys[np.isnan(values)] = LAST
        return np.asarray(keys)


def _number(bound: float | datetime) -> float:
    if not isinstance(bound, datetime):
        return bound
    aware = bound if bound.tzinfo is not None else bound.replace(tzinfo=UTC)
    return math.floor(aware.timestamp())


def _page(items_M: np.ndarray, keys_M: np.ndarray | None, asked: PageOf) -> np.ndarray:
    """The items of the page by key, equal ones in their order; only these are sorted."""
    start, end = asked.offset, min(asked.offset + asked.limit, len(items_M))
    if start >= end:
        return items_M[:0]
    if keys_M is None:
        return np.asarray((items_M[::-1] if asked.descending else items_M)[start:end])
    both = keys_M.astype(np.uint64) << np.uint64(32)
    both |= items_M.astype(np.uint64)
    found = np.sort(np.partition(both, (start, end - 1))[start:end])
    return (found & np.uint64(LAST)).astype(np.int64)
