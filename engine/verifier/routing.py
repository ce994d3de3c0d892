"""Routes masks by their probability: sure accepts, sure rejects, and the rest for people.

A threshold is sure if, among the judged masks beyond it, the share that agrees is at least the
stated precision, by the lower end of a one-sided interval (Clopper and Pearson's) with the number
of independent masks that the correlation within images leaves (Kish's design effect).

N = judged masks.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

CONFIDENCE = 0.95
"""Of the one-sided intervals."""

PARTS = 16
"""Thresholds that are tried on each side: those that take 1/PARTS, 2/PARTS ... of the masks."""

MOST_VERDICTS = 100_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Side:
    """A threshold and what is known about it; one side of a route.

    Attributes:
        threshold: on the probability; None: no threshold is sure.
        share: of the judged masks beyond it that agree with it: accepted ones, or others; of the
            best threshold if none is sure.
        low: the lower end of its interval.
        judged: the number of judged masks beyond it.
        needed: if none is sure, about how many verdicts would make the best one sure; None if no
            number would.
    """

    threshold: float | None
    share: float
    low: float
    judged: int
    needed: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Route:
    """Thresholds for a stated precision; masks with probabilities from `accept.threshold` pass,
    those up to `reject.threshold` are dropped."""

    precision: float
    accept: Side
    reject: Side

    def sorted(self, probability_N: np.ndarray) -> np.ndarray:
        """Return 1 for sure accepts, -1 for sure rejects and 0 for the rest, int (N,)."""
        found = np.zeros(len(probability_N), np.int64)
        if self.reject.threshold is not None:
            found[probability_N <= self.reject.threshold] = -1
        if self.accept.threshold is not None:
            found[probability_N >= self.accept.threshold] = 1
        return found

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


def choose_route(
    probability_N: np.ndarray, accepted_N: np.ndarray, image_N: np.ndarray, precision: float
) -> Route:
    """Choose the thresholds that take the most masks at a precision.

    Args:
        probability_N: by models that never saw the mask's image.
        accepted_N: bool.
        image_N: int, images of the masks.
        precision: in (0, 1).

    Raises:
        ValueError: there are no masks, or the precision is out of range.
    """
    if not len(probability_N) or not 0 < precision < 1:
        raise ValueError(f"expected masks and 0 < precision < 1, got {precision}")
    likeness = _likeness(accepted_N - probability_N, image_N)
    accept = _side(probability_N, accepted_N, image_N, precision, likeness)
    reject = _side(1 - probability_N, ~accepted_N, image_N, precision, likeness)
    if reject.threshold is not None:
        reject = Side(**{**asdict(reject), "threshold": 1 - reject.threshold})
    return Route(precision=precision, accept=accept, reject=reject)


def _side(
    sureness_N: np.ndarray,
    agrees_N: np.ndarray,
    image_N: np.ndarray,
    precision: float,
    likeness: float,
) -> Side:
    order = np.argsort(-sureness_N, kind="stable")
    found: list[Side] = []
    for part in range(1, PARTS + 1):
        count = max(1, len(order) * part // PARTS)
        threshold = float(sureness_N[order[count - 1]])
        if threshold <= 0.5 and found:
            break  # the other side is more likely
        rows = order[sureness_N[order] >= threshold]
        share = float(agrees_N[rows].mean())
        independent = len(rows) / _design_effect(image_N[rows], likeness)
        low = lower_end(share, independent)
        found.append(Side(threshold=threshold, share=share, low=low, judged=len(rows)))
    sure = [side for side in found if side.low >= precision]
    if sure:
        return max(sure, key=lambda side: side.judged)
    best = max(found, key=lambda side: side.share - precision if side.judged > 1 else -1.0)
    factor = _times(best, precision)
    needed = None if factor is None else int(np.ceil(factor * len(order)))
    return Side(threshold=None, share=best.share, low=best.low, judged=best.judged, needed=needed)


def lower_end(share: float, count: float, confidence: float = CONFIDENCE) -> float:
    """Return the lower end of a share's one-sided interval, from `count` independent masks."""
    from scipy.special import betaincinv  # slow to import

    hits = share * count
    return float(betaincinv(hits, count - hits + 1, 1 - confidence)) if hits > 0 else 0.0


def _times(best: Side, precision: float) -> int | None:
    """Return how many times the verdicts would make a threshold sure whose share stays."""
    factor = 1
    while lower_end(best.share, factor * best.judged) < precision:
        factor *= 2
        if best.share <= precision or factor * best.judged > MOST_VERDICTS:
            return None
    return max(factor, 2)


def _likeness(residual_N: np.ndarray, image_N: np.ndarray) -> float:
    """Return how alike the residuals of one image's masks are, in [0, 1]: the correlation of two
    masks of one image."""
    _, index = np.unique(image_N, return_inverse=True)
    total = np.bincount(index, weights=residual_N)
    squares = np.bincount(index, weights=residual_N**2)
    counts = np.bincount(index)
    pairs = float((counts * (counts - 1.0)).sum())
    variance = float((residual_N**2).mean())
    if not pairs or not variance:
        return 0.0
    return float(np.clip((total**2 - squares).sum() / pairs / variance, 0, 1))


def _design_effect(image_N: np.ndarray, likeness: float) -> float:
    """Return by how much the correlation within images makes N masks count less."""
    counts = np.unique(image_N, return_counts=True)[1].astype(np.float64)
    return float(1 + ((counts**2).sum() / counts.sum() - 1) * likeness)
