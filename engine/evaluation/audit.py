"""Statistics of an audit: the share of masks that are good enough, with an interval.

The masks are a finite population in strata. Samples are drawn at random without replacement within
each stratum, in a few planned looks; after each look the audit may stop. The error probability of
the interval is divided among the looks in proportion to their samples (Bonferroni), so the
interval holds at whichever look the audit stops.

The interval is Korn and Graubard's for stratified samples (Survey Methodology 24, 1998): the exact
one of Clopper and Pearson, with the number of masks that a simple random sample of the same
variance would have. The variance has the finite-population correction; half a hit and half a miss
are added to each stratum, so that a stratum without a miss counts as uncertain. The ends are
rounded outwards to shares that a population of this size can have.

H = strata; a hit is a mask that is good enough.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise

import numpy as np

LOOKS = 4
"""Largest number of looks of an audit; each doubles the sample."""

EVEN_SHARE = 0.3
"""Part of a sample that is allocated by the strata's sizes alone, as the estimates of their
standard deviations may be wrong."""

PAPER = {0.9: 0.94, 0.75: 0.97}
"""IoU -> share of SA-1B's automatic masks that reached it against professional annotators' repairs
(SAM paper, section 5: all masks of 500 images)."""

TINY = 1e-9


class Decision(StrEnum):
    """Whether an audit continues after a look, or why it stops."""

    CONTINUE = "continue"
    MET = "met"
    """The whole interval is at or above the target."""
    MISSED = "missed"
    """The whole interval is below the target."""
    LIMIT = "limit"
    """All planned masks are judged, and the interval contains the target."""


@dataclass(frozen=True, slots=True)
class Share:
    """The estimate of a share, and the ends of its interval, all in [0, 1]."""

    estimate: float
    low: float
    high: float

    def narrowed(self, earlier: Share) -> Share:
        """This share with the part of its interval that an earlier look's interval also contains;
        where the two are disjoint, the end nearest to the earlier one."""
        low, high = max(self.low, earlier.low), min(self.high, earlier.high)
        if low > high:
            low = high = self.low if earlier.high < self.low else self.high
        return Share(self.estimate, low, high)


@dataclass(frozen=True, slots=True)
class Counts:
    """Counts by stratum, int (H,) each.

    Raises:
        ValueError: not 0 <= hits <= judged <= sizes, or no masks.
    """

    hits_H: np.ndarray
    judged_H: np.ndarray
    sizes_H: np.ndarray
    """All masks of the stratum."""

    def __post_init__(self) -> None:
        ordered = (0 * self.hits_H, self.hits_H, self.judged_H, self.sizes_H)
        if any((a > b).any() for a, b in pairwise(ordered)):
            raise ValueError(f"expected 0 <= hits <= judged <= sizes, got {self}")
        if not self.sizes_H.sum():
            raise ValueError("expected at least one mask, got none")

    def strata(self) -> list[Counts]:
        """The counts of each stratum alone."""
        columns = (self.hits_H, self.judged_H, self.sizes_H)
        return [Counts(*(c[h : h + 1] for c in columns)) for h in range(len(self.sizes_H))]

    def smoothed_rates(self) -> np.ndarray:
        """The share of hits in each stratum with half a hit and half a miss added, (H,)."""
        return np.asarray((self.hits_H + 0.5) / (self.judged_H + 1))


def looks(limit: int) -> list[int]:
    """The total numbers of judged masks at the looks of an audit of at most `limit` masks."""
    return sorted({-(-limit // 2**k) for k in range(LOOKS)})


def error_at_looks(planned: Sequence[int], confidence: float) -> list[float]:
    """The part of the error probability 1 - confidence that each planned look spends."""
    return [(1 - confidence) * count / sum(planned) for count in planned]


def share_of(counts: Counts, alpha: float) -> Share:
    """The share of hits in the population, with a two-sided interval of error probability `alpha`.

    A stratum without a judged mask counts as half hits, with the variance of one judged mask.
    """
    hits, judged, sizes = (
        column.astype(np.float64) for column in (counts.hits_H, counts.judged_H, counts.sizes_H)
    )
    total, weights = sizes.sum(), sizes / sizes.sum()
    rates = counts.smoothed_rates()
    unseen = (sizes - judged) / np.maximum(sizes - 1, 1) / np.maximum(judged, 1)
    variance = float(np.sum(weights**2 * rates * (1 - rates) * unseen))
    estimate = float(weights @ np.where(judged > 0, hits / np.maximum(judged, 1), 0.5))
    if variance <= 0:  # every mask is judged
        return Share(estimate, estimate, estimate)
    from scipy.special import betaincinv  # slow to import

    rate = float(weights @ rates)
    alike = rate * (1 - rate) / variance  # masks of a simple random sample
    good, bad = estimate * alike, (1 - estimate) * alike
    low = float(betaincinv(good, bad + 1, alpha / 2)) if good > TINY else 0.0
    high = float(betaincinv(good + 1, bad, 1 - alpha / 2)) if bad > TINY else 1.0
    least, most = hits.sum(), total - (judged - hits).sum()
    return Share(
        estimate,
        float(max(np.floor(low * total + TINY), least) / total),
        float(min(np.ceil(high * total - TINY), most) / total),
    )


def allocate(total: int, counts: Counts) -> np.ndarray:
    """How many masks of each stratum the next look is to have, with those judged so far; int (H,).

    Mostly Neyman's allocation: in proportion to a stratum's size and to the standard deviation of
    a hit in it, as far as it is known.

    Args:
        total: masks of all strata together; those judged so far at least, all masks at most.
        counts: of the looks so far.
    """
    asked, sizes = counts.judged_H, counts.sizes_H
    rates = counts.smoothed_rates()
    neyman = sizes * np.sqrt(rates * (1 - rates))
    wanted = (1 - EVEN_SHARE) * neyman / neyman.sum() + EVEN_SHARE * sizes / sizes.sum()
    total = min(max(total, int(asked.sum())), int(sizes.sum()))
    low, high = 0.0, float((sizes[sizes > 0] / wanted[sizes > 0]).max())
    for _ in range(60):  # to the factor at which the wishes, within bounds, add up to the total
        factor = (low + high) / 2
        if np.clip(factor * wanted, asked, sizes).sum() < total:
            low = factor
        else:
            high = factor
    exact = np.clip(high * wanted, asked, sizes)
    found = np.floor(exact + TINY).astype(np.int64)
    order = [h for h in np.argsort(found - exact, kind="stable") if found[h] < sizes[h]]
    found[order[: total - int(found.sum())]] += 1
    return np.asarray(found)


def decide(share: Share, target: float, *, is_last: bool) -> Decision:
    """Whether the audit stops after a look that gives this share."""
    if share.low >= target:
        return Decision.MET
    if share.high < target:
        return Decision.MISSED
    return Decision.LIMIT if is_last else Decision.CONTINUE
