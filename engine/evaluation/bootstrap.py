"""How sure a mean is: confidence intervals by drawing the images again, with replacement.

Masks of one image are alike, so what is drawn is whole images (the cluster bootstrap; Efron and
Tibshirani, 1993), and a mean is known by its sum and its count in every image. Intervals are
percentiles of the means of RESAMPLES draws. With few images, below about ten, they are too narrow.

I = images, F = figures, N = masks, R = draws.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

RESAMPLES = 1000
CONFIDENCE = 0.95
"""Of intervals that are told: two-sided."""

_AT_ONCE = 1 << 22
"""Numbers that may be drawn at once (32 MiB)."""


@dataclass(frozen=True, slots=True)
class ByImage:
    """What means are made of: `totals_IF` the sum of each figure's values in each image,
    `counts_IF` how many values there are."""

    names: tuple[str, ...]
    totals_IF: np.ndarray
    counts_IF: np.ndarray

    @staticmethod
    def of(values: Mapping[str, np.ndarray], image_N: Sequence[int]) -> ByImage:
        """Add up values of masks, (N,) a figure, by the number of the image each mask is on; the
        images come in the order of their numbers, those without masks are left out."""
        _, rows = np.unique(np.asarray(image_N, np.int64), return_inverse=True)
        totals = [np.bincount(rows, weights=column) for column in values.values()]
        counts = np.repeat(np.bincount(rows)[:, None], len(totals), axis=1)
        return ByImage(tuple(values), np.stack(totals, axis=1), counts.astype(np.float64))

    def means(self) -> dict[str, float]:
        """Each figure's mean over everything; 0 where there is nothing."""
        found = _mean(self.totals_IF.sum(axis=0), self.counts_IF.sum(axis=0))
        return dict(zip(self.names, found.tolist(), strict=True))

    def draws(self, seed: int = 0) -> np.ndarray:
        """Means of RESAMPLES draws of I images, float64 (R, F)."""
        images = len(self.totals_IF)
        rng = np.random.default_rng(seed)
        found = np.zeros((RESAMPLES, len(self.names)))
        step = max(1, _AT_ONCE // max(images, 1))
        for start in range(0, RESAMPLES if images else 0, step):
            rows = min(step, RESAMPLES - start)
            picks = rng.integers(images, size=(rows, images)) + images * np.arange(rows)[:, None]
            drawn = np.bincount(picks.ravel(), minlength=rows * images).reshape(rows, images)
            weights = drawn.astype(np.float64)
            found[start : start + rows] = _mean(weights @ self.totals_IF, weights @ self.counts_IF)
        return found

    def summary(self) -> dict[str, Any]:
        """Each mean under its name, and its interval [low, high] under the name with `_ci`; None
        where there are fewer than two images."""
        return _told(self.means(), self.draws() if len(self.totals_IF) > 1 else None)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "names": list(self.names),
            "totals": self.totals_IF.tolist(),
            "counts": self.counts_IF.tolist(),
        }

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> ByImage:
        """The inverse of `as_dict`."""
        shape = (-1, len(values["names"]))
        totals, counts = (
            np.array(values[key], np.float64).reshape(shape) for key in ("totals", "counts")
        )
        return ByImage(tuple(values["names"]), totals, counts)


@dataclass(frozen=True, slots=True)
class Gain:
    """By how much one model is better than another; `low` and `high` are the interval's ends, None
    where there are fewer than two images."""

    mean: float
    low: float | None
    high: float | None


def mean_of_sets(sets: Sequence[ByImage]) -> dict[str, Any]:
    """Means over sets of images, each set counting the same whatever its size, with intervals as
    `ByImage.summary` tells them: images are drawn again within each set.

    Raises:
        ValueError: the sets do not have the same figures.
    """
    names = sets[0].names
    if any(item.names != names for item in sets):
        raise ValueError(f"sets of different figures: {[item.names for item in sets]}")
    means = {name: float(np.mean([item.means()[name] for item in sets])) for name in names}
    if min(len(item.totals_IF) for item in sets) < 2:
        return _told(means, None)
    draws = [item.draws(seed) for seed, item in enumerate(sets)]
    return _told(means, np.mean(draws, axis=0))


def paired_gain(
    before: ByImage, after: ByImage, names: Sequence[str], confidence: float = CONFIDENCE
) -> Gain:
    """The gain in the mean of several figures, with its two-sided interval. Both models answered
    for the same masks, so an image is drawn for both at once and what is hard about it cancels.

    Raises:
        ValueError: the figures were not taken of the same masks.
    """
    columns = [[item.names.index(name) for name in names] for item in (before, after)]
    counts = before.counts_IF[:, columns[0]]
    if not np.array_equal(counts, after.counts_IF[:, columns[1]]):
        raise ValueError("the scores compared were not taken of the same masks")
    differences = after.totals_IF[:, columns[1]] - before.totals_IF[:, columns[0]]
    gains = ByImage(tuple(names), differences, counts)
    mean = float(np.mean(list(gains.means().values())))
    if len(counts) < 2:
        return Gain(mean, None, None)
    low, high = interval(gains.draws().mean(axis=1), confidence)
    return Gain(mean, float(low), float(high))


def interval(draws_R: np.ndarray, confidence: float = CONFIDENCE) -> np.ndarray:
    """The two ends between which the middle `confidence` of the draws lie: (2, ...), over the
    first axis of `draws_R`.

    Raises:
        ValueError: `confidence` is not in [0, 1).
    """
    if not 0 <= confidence < 1:
        raise ValueError(f"confidence must be in [0, 1), got {confidence}")
    ends = [(1 - confidence) / 2, (1 + confidence) / 2]
    return np.asarray(np.quantile(draws_R, ends, axis=0))


def _mean(totals: np.ndarray, counts: np.ndarray) -> np.ndarray:
    return np.asarray(totals / np.maximum(counts, 1))  # no count, no total


def _told(means: Mapping[str, float], draws_RF: np.ndarray | None) -> dict[str, Any]:
    ends = None if draws_RF is None else interval(draws_RF).T.tolist()
    found: dict[str, Any] = {}
    for index, (name, value) in enumerate(means.items()):
        found[name] = value
        found[f"{name}_ci"] = None if ends is None else ends[index]
    return found
