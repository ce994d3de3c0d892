"""Confidence intervals of means by a cluster bootstrap over images.

Masks of one image are correlated, so whole images are resampled with replacement (Efron and
Tibshirani, 1993), from each metric's sum and count per image. Intervals are percentiles of the
means of RESAMPLES resamples. They are too narrow for fewer than about ten images.

I = images, F = metrics, N = masks, R = resamples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

RESAMPLES = 1000
CONFIDENCE = 0.95
"""Confidence level of reported two-sided intervals."""

_MAX_NUMBERS = 1 << 22
"""Random numbers drawn at once (32 MiB)."""


@dataclass(frozen=True, slots=True)
class ByImage:
    """Sums per image from which means are computed.

    Attributes:
        names: the F metrics.
        totals_IF: float64, sum of each metric's values in each image.
        counts_IF: float64, number of each metric's values in each image.
    """

    names: tuple[str, ...]
    totals_IF: np.ndarray
    counts_IF: np.ndarray

    @staticmethod
    def of(values: Mapping[str, np.ndarray], image_N: Sequence[int]) -> ByImage:
        """Sum the values of masks by image.

        Args:
            values: metric -> float (N,).
            image_N: number of each mask's image; images are sorted by it.
        """
        _, rows = np.unique(np.asarray(image_N, np.int64), return_inverse=True)
        totals = [np.bincount(rows, weights=column) for column in values.values()]
        counts = np.repeat(np.bincount(rows)[:, None], len(totals), axis=1)
        return ByImage(tuple(values), np.stack(totals, axis=1), counts.astype(np.float64))

    def means(self) -> dict[str, float]:
        """Return each metric's mean over all images; 0 if there are no values."""
        found = _mean(self.totals_IF.sum(axis=0), self.counts_IF.sum(axis=0))
        return dict(zip(self.names, found.tolist(), strict=True))

    def draws(self, seed: int = 0) -> np.ndarray:
        """Return the means of RESAMPLES resamples of the images, float64 (R, F)."""
        images = len(self.totals_IF)
        rng = np.random.default_rng(seed)
        found = np.zeros((RESAMPLES, len(self.names)))
        step = max(1, _MAX_NUMBERS // max(images, 1))
        for start in range(0, RESAMPLES if images else 0, step):
            rows = min(step, RESAMPLES - start)
            picks = rng.integers(images, size=(rows, images)) + images * np.arange(rows)[:, None]
            drawn = np.bincount(picks.ravel(), minlength=rows * images).reshape(rows, images)
            weights = drawn.astype(np.float64)
            found[start : start + rows] = _mean(weights @ self.totals_IF, weights @ self.counts_IF)
        return found

    def summary(self) -> dict[str, Any]:
        """Return each mean by name, and its interval [low, high] by name with `_ci`; the interval
        is None for fewer than two images."""
        return _summarize(self.means(), self.draws() if len(self.totals_IF) > 1 else None)

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "names": list(self.names),
            "totals": self.totals_IF.tolist(),
            "counts": self.counts_IF.tolist(),
        }

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> ByImage:
        """Inverse of `as_dict`."""
        shape = (-1, len(values["names"]))
        totals, counts = (
            np.array(values[key], np.float64).reshape(shape) for key in ("totals", "counts")
        )
        return ByImage(tuple(values["names"]), totals, counts)


@dataclass(frozen=True, slots=True)
class Gain:
    """Difference of a mean between two models, and the ends of its interval, which are None for
    fewer than two images."""

    mean: float
    low: float | None
    high: float | None


def mean_of_sets(sets: Sequence[ByImage]) -> dict[str, Any]:
    """Return means over sets of images with equal weights, and their intervals, in the form of
    `ByImage.summary`. Images are resampled within each set.

    Raises:
        ValueError: the sets have different metrics.
    """
    names = sets[0].names
    if any(item.names != names for item in sets):
        raise ValueError(f"sets have different metrics: {[item.names for item in sets]}")
    means = {name: float(np.mean([item.means()[name] for item in sets])) for name in names}
    if min(len(item.totals_IF) for item in sets) < 2:
        return _summarize(means, None)
    draws = [item.draws(seed) for seed, item in enumerate(sets)]
    return _summarize(means, np.mean(draws, axis=0))


def paired_gain(
    before: ByImage, after: ByImage, names: Sequence[str], confidence: float = CONFIDENCE
) -> Gain:
    """Return the gain in the mean of several metrics, with its two-sided interval.

    The bootstrap is paired: both models were scored on the same masks, so each resample takes the
    same images for both, and the difficulty of an image cancels.

    Args:
        before, after: scores of both models.
        names: metrics whose mean is compared.
        confidence: confidence level, [0, 1).

    Raises:
        ValueError: the scores are not of the same masks, or `confidence` is out of range.
    """
    columns = [[item.names.index(name) for name in names] for item in (before, after)]
    counts = before.counts_IF[:, columns[0]]
    if not np.array_equal(counts, after.counts_IF[:, columns[1]]):
        raise ValueError("expected scores of the same masks, got different counts per image")
    differences = after.totals_IF[:, columns[1]] - before.totals_IF[:, columns[0]]
    gains = ByImage(tuple(names), differences, counts)
    mean = float(np.mean(list(gains.means().values())))
    if len(counts) < 2:
        return Gain(mean, None, None)
    low, high = interval(gains.draws().mean(axis=1), confidence)
    return Gain(mean, float(low), float(high))


def interval(draws_R: np.ndarray, confidence: float = CONFIDENCE) -> np.ndarray:
    """Return the percentile interval of draws, float64 (2, ...), over the first axis of `draws_R`.

    Raises:
        ValueError: `confidence` is not in [0, 1).
    """
    if not 0 <= confidence < 1:
        raise ValueError(f"confidence must be in [0, 1), got {confidence}")
    ends = [(1 - confidence) / 2, (1 + confidence) / 2]
    return np.asarray(np.quantile(draws_R, ends, axis=0))


def _mean(totals: np.ndarray, counts: np.ndarray) -> np.ndarray:
    return np.asarray(totals / np.maximum(counts, 1))  # the total is 0 where the count is


def _summarize(means: Mapping[str, float], draws_RF: np.ndarray | None) -> dict[str, Any]:
    ends = None if draws_RF is None else interval(draws_RF).T.tolist()
    found: dict[str, Any] = {}
    for index, (name, value) in enumerate(means.items()):
        found[name] = value
        found[f"{name}_ci"] = None if ends is None else ends[index]
    return found
