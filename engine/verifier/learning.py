"""Learns a verifier from verdicts, and scores its probabilities.

Each head is fitted without the images of its fold. The log-odds of the masks by the head that never
saw their image then give the calibration (Platt 1999, with his smoothed targets).

N = masks, F = features, K = heads.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from engine.core.errors import DataEngineError
from engine.evaluation.bootstrap import ByImage, Gain, paired_gain
from engine.evaluation.reliability import reliability
from engine.verifier.features import NAMES
from engine.verifier.model import (
    FOLDS,
    WHOLE,
    Heads,
    LearnedVerifier,
    VerifierCard,
    sigmoid,
    standardised,
)

PENALTY = 30.0
"""Of the squared weights, against the sum of the masks' log losses."""
SCORES_PENALTY = 3.0
"""The same for the model's own scores: what is known about a mask without verdicts."""

LEAST_VERDICTS = 40
LEAST_OF_A_KIND = 8
"""Accepted, and other, masks that a training needs at least."""
LEAST_IMAGES = FOLDS

SCORES = tuple(NAMES.index(name) for name in ("predicted_iou", "stability_score"))


class TooFewVerdictsError(DataEngineError):
    """The verdicts are not enough to learn from; the message says which are missing."""


@dataclass(frozen=True, slots=True)
class Judged:
    """N judged masks.

    Attributes:
        features_NF: float32.
        accepted_N: bool; a mask that was rejected or fixed is not accepted.
        image_N: int, their images; those of one group, such as near-duplicates, have one number.
        held_out_N: bool, of images that are never trained on.
    """

    features_NF: np.ndarray
    accepted_N: np.ndarray
    image_N: np.ndarray
    held_out_N: np.ndarray

    def __len__(self) -> int:
        return len(self.accepted_N)

    def heads(self) -> np.ndarray:
        """Return for each mask the head that never saw its image, int (N,)."""
        return np.where(self.held_out_N, WHOLE, self.image_N % FOLDS)

    def part(self, chosen_N: np.ndarray) -> Judged:
        """Return some of the masks."""
        columns = (self.features_NF, self.accepted_N, self.image_N, self.held_out_N)
        return Judged(*(column[chosen_N] for column in columns))


def learn(judged: Judged, card: VerifierCard) -> LearnedVerifier:
    """Learn from the masks that are not held out.

    Raises:
        TooFewVerdictsError: there are too few, all are alike, or they are of too few images.
    """
    known = judged.part(~judged.held_out_N)
    check_enough(known)
    heads = _fitted(known)
    log_odds = heads.log_odds(known.features_NF, known.heads())
    slope, offset = platt(log_odds, known.accepted_N)
    calibration = np.array([max(slope, 0.0), offset])
    return LearnedVerifier(replace(heads, calibration_2=calibration), card)


def check_enough(known: Judged) -> None:
    """Check that a training can learn from these masks, and each fold's head from the other folds.

    Raises:
        TooFewVerdictsError: it cannot.
    """
    accepted, total = int(known.accepted_N.sum()), len(known)
    images = len(np.unique(known.image_N))
    have = (
        f"there are {total} on {images} training images: {accepted} masks accepted, "
        f"{total - accepted} rejected or fixed"
    )
    if min(accepted, total - accepted) < LEAST_OF_A_KIND or total < LEAST_VERDICTS:
        raise TooFewVerdictsError(
            f"a verifier needs {LEAST_VERDICTS} verdicts by people on automatic masks, with "
            f"{LEAST_OF_A_KIND} masks accepted and {LEAST_OF_A_KIND} rejected or fixed; {have}"
        )
    for fold in range(FOLDS):
        others = known.accepted_N[known.image_N % FOLDS != fold]
        if images < LEAST_IMAGES or others.all() or not others.any():
            raise TooFewVerdictsError(
                f"a verifier needs accepted masks, and rejected or fixed ones, on several of "
                f"{LEAST_IMAGES} images or more; {have}"
            )


def _fitted(known: Judged) -> Heads:
    """Fit all heads; the calibration is still 1 and 0."""
    values_NF = known.features_NF.astype(np.float64)
    is_known = ~np.isnan(values_NF)
    count_F = np.maximum(is_known.sum(axis=0), 1)
    mean_F = np.where(is_known, values_NF, 0).sum(axis=0) / count_F
    spread_F = (np.where(is_known, values_NF - mean_F, 0) ** 2).sum(axis=0) / count_F
    scale_F = np.maximum(np.sqrt(spread_F), 1e-4)
    given_NF = standardised(values_NF, mean_F, scale_F)
    penalty_F = np.full(len(mean_F), PENALTY)
    penalty_F[list(SCORES)] = SCORES_PENALTY
    rows = []
    for head in range(FOLDS + 1):
        seen = known.image_N % FOLDS != head
        accepted = known.accepted_N[seen]
        rate = accepted.mean()
        weight = np.where(accepted, 0.5 / rate, 0.5 / (1 - rate))  # both kinds weigh the same
        rows.append(_logistic(given_NF[seen], accepted.astype(np.float64), weight, penalty_F))
    found_KF = np.stack(rows)
    return Heads(mean_F, scale_F, found_KF[:, :-1], found_KF[:, -1], np.array([1.0, 0.0]))


def _logistic(
    given_NF: np.ndarray, target_N: np.ndarray, weight_N: np.ndarray, penalty_F: np.ndarray
) -> np.ndarray:
    """Return weights and offset, float64 (F + 1,), of a logistic regression to targets in [0, 1],
    by Newton's method."""
    columns = np.concatenate([given_NF, np.ones((len(given_NF), 1))], axis=1)
    ridge = np.append(penalty_F, 1e-6)
    found = np.zeros(len(ridge))
    for _ in range(50):
        rate = sigmoid(columns @ found)
        slope = columns.T @ (weight_N * (rate - target_N)) + ridge * found
        bend = (columns * (weight_N * rate * (1 - rate))[:, None]).T @ columns + np.diag(ridge)
        step = np.linalg.solve(bend, slope)
        found -= step / max(1.0, float(np.abs(step).max()) / 2)
        if np.abs(step).max() < 1e-8:
            break
    return found


def platt(score_N: np.ndarray, accepted_N: np.ndarray) -> tuple[float, float]:
    """Return slope and offset of the log-odds of acceptance as a function of a score, by logistic
    regression to Platt's smoothed targets."""
    good, bad = int(accepted_N.sum()), int((~accepted_N).sum())
    target = np.where(accepted_N, (good + 1) / (good + 2), 1 / (bad + 2))
    found = _logistic(score_N[:, None], target, np.ones(len(target)), np.array([1e-6]))
    return float(found[0]), float(found[1])


def cross_fitted(verifier: LearnedVerifier, judged: Judged) -> np.ndarray:
    """Return each mask's probability by a head that never saw its image, float64 (N,)."""
    return verifier.of_features(judged.features_NF, judged.heads())


def by_scores_alone(judged: Judged) -> np.ndarray:
    """Return probabilities by predicted IoU x stability alone, float64 (N,), cross-fitted on the
    same folds: what a verifier has to beat."""
    scores = sigmoid(np.nan_to_num(judged.features_NF[:, SCORES].astype(np.float64)))
    product = scores.prod(axis=1)
    log_odds = np.log(product / (1 - product))
    return _by_fold(judged, lambda seen: platt(log_odds[seen], judged.accepted_N[seen]), log_odds)


def by_rate_alone(judged: Judged) -> np.ndarray:
    """Return the share of accepted masks in the other folds for each mask, float64 (N,)."""
    flat = np.zeros(len(judged))
    return _by_fold(judged, lambda seen: platt(flat[seen], judged.accepted_N[seen]), flat)


def _by_fold(
    judged: Judged, fit: Callable[[np.ndarray], tuple[float, float]], score_N: np.ndarray
) -> np.ndarray:
    """Return probabilities of each fold's masks by a fit to the others that are not held out."""
    head_N, found = judged.heads(), np.zeros(len(judged))
    for head in np.unique(head_N):
        slope, offset = fit((head_N != head) & ~judged.held_out_N)
        rows = head_N == head
        found[rows] = sigmoid(slope * score_N[rows] + offset)
    return found


def log_losses(probability_N: np.ndarray, accepted_N: np.ndarray) -> np.ndarray:
    """Return the negative log-likelihood of each verdict in nats, float64 (N,)."""
    kept = np.clip(probability_N, 1e-4, 1 - 1e-4)
    return np.asarray(-np.log(np.where(accepted_N, kept, 1 - kept)))


def quality(probability_N: np.ndarray, accepted_N: np.ndarray) -> dict[str, float | None]:
    """Return `log_loss`, `auc` (None if all verdicts are alike) and `calibration_error` (expected
    calibration error over ten bins)."""
    good = int(accepted_N.sum())
    bad = len(accepted_N) - good
    from scipy.stats import rankdata  # slow to import

    ranks = rankdata(probability_N)[accepted_N].sum()
    area = (ranks - good * (good + 1) / 2) / (good * bad) if good and bad else None
    error = reliability(probability_N, accepted_N.astype(np.float64))["predicted_iou_error"]
    return {
        "log_loss": float(log_losses(probability_N, accepted_N).mean()),
        "auc": None if area is None else float(area),
        "calibration_error": float(error),
    }


def gain(judged: Judged, before_N: np.ndarray, after_N: np.ndarray, confidence: float) -> Gain:
    """Return how much log loss falls between two sets of probabilities of the same masks, with its
    interval by the paired bootstrap over images."""
    found = [
        ByImage.of({"gain": -log_losses(probability, judged.accepted_N)}, judged.image_N.tolist())
        for probability in (before_N, after_N)
    ]
    return paired_gain(found[0], found[1], ["gain"], confidence)
