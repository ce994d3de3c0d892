"""Scores of answers to gold tasks, and what they say about an annotator.

An annotator's score is the share of true objects that have a mask of IoU GOOD_IOU or more. It
counts bad and missing masks: a mean IoU would hide a tenth of careless masks behind good outlines.

Objects of one image are alike, so the interval of the score is Clopper and Pearson's with fewer
objects than were asked for: their number divided by the design effect, the ratio of the variance
between images to that of independent objects (Kish, 1965; Korn and Graubard, 1998). One looks after
each of LOOKS tasks, and the error is divided among the looks, so it holds at all of them together.

T = tasks; shares in [0, 1].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from engine.core.metrics import boundary_f, boundary_tolerance, match
from engine.core.rle import RLE, decode, iou_matrix

GOOD_IOU = 0.5
"""IoU with the true mask from which an object counts as found. Careful people are rarely below it
(docs/quality.md)."""

STRICT_IOU = 0.75

CONFIDENCE = 0.95
"""Confidence of an interval, over all looks; its two ends share the error."""

LOOKS = (5, 8, 12, 18, 27, 40, 60, 90)
"""Numbers of tasks after which the interval is made anew; afterwards it is made of the latest
LOOKS[-1], every FURTHER tasks."""

FURTHER = 30
TINY = 1e-9


@dataclass(frozen=True, kw_only=True, slots=True)
class GoldScore:
    """How well an answer's masks match the true ones."""

    truths: int
    """True masks of the image."""
    found_50: int
    """Of these, those with a mask of IoU .5 or more; `found_75`: of .75 or more."""
    found_75: int
    extra: int
    """Masks that match no true one."""
    iou: float | None
    """Mean IoU of matched pairs, as `boundary_f`; None without pairs."""
    boundary_f: float | None

    @property
    def share(self) -> float:
        """The share of the objects that were found, [0, 1]."""
        return self.found_50 / self.truths


def score_answer(given: Sequence[RLE], truths: Sequence[RLE]) -> GoldScore:
    """Score an answer's masks against the true ones, matched one to one from GOOD_IOU on.

    Args:
        given: masks of the answer.
        truths: true masks of the same (H, W), at least one.

    Raises:
        ValueError: there are no true masks.
    """
    if not truths:
        raise ValueError("a gold task needs true masks, got none")
    overlap = iou_matrix(list(given), list(truths))
    pairs = match(overlap, GOOD_IOU)
    overlaps = [float(overlap[pair]) for pair in pairs]
    tolerance = boundary_tolerance(truths[0].size)
    outlines = [
        boundary_f(decode(given[row]), decode(truths[column]), tolerance) for row, column in pairs
    ]
    return GoldScore(
        truths=len(truths),
        found_50=len(pairs),
        found_75=sum(value >= STRICT_IOU for value in overlaps),
        extra=len(given) - len(pairs),
        iou=float(np.mean(overlaps)) if pairs else None,
        boundary_f=float(np.mean(outlines)) if pairs else None,
    )


class Judgement(StrEnum):
    """What the interval of an annotator's score says about the threshold."""

    BELOW = "below"
    ABOVE = "above"
    UNDECIDED = "undecided"


@dataclass(frozen=True, slots=True)
class Standing:
    """An annotator's score at the last look, with the ends of its interval; from 0 to 1 before the
    first look. `tasks`: those that the score is made of."""

    tasks: int
    score: float
    low: float
    high: float

    def judge(self, threshold: float) -> Judgement:
        """Whether the whole interval lies below the threshold, or at it or above."""
        if self.high < threshold:
            return Judgement.BELOW
        return Judgement.ABOVE if self.low >= threshold else Judgement.UNDECIDED


def standing(answers: Sequence[tuple[int, int]]) -> Standing | None:
    """Return what an annotator's answers say; None without answers.

    Args:
        answers: found and true objects of each gold task, oldest first.
    """
    if not answers:
        return None
    end = _last_look(len(answers))
    table = np.asarray(answers[max(0, end - LOOKS[-1]) : end] or answers, np.float64)
    found, objects = table.sum(axis=0).tolist()
    if not end:
        return Standing(len(table), found / objects, 0.0, 1.0)
    alpha = (1 - CONFIDENCE) / 2 / len(LOOKS)
    alike = objects / _design_effect(table[:, 0], table[:, 1])
    good = alike * found / objects
    bad = alike - good
    from scipy.special import betaincinv  # slow to import

    return Standing(
        len(table),
        found / objects,
        float(betaincinv(good, bad + 1, alpha)) if good > TINY else 0.0,
        float(betaincinv(good + 1, bad, 1 - alpha)) if bad > TINY else 1.0,
    )


def _last_look(tasks: int) -> int:
    """The number of tasks at the last look; 0 before the first one."""
    if tasks > LOOKS[-1]:
        return tasks - (tasks - LOOKS[-1]) % FURTHER
    return max((look for look in LOOKS if look <= tasks), default=0)


def _design_effect(found_T: np.ndarray, objects_T: np.ndarray) -> float:
    """How much larger the variance of the share of found objects is than that of independent ones,
    at least 1. Half a found and half a lost object are added."""
    tasks, objects = len(objects_T), float(objects_T.sum())
    rate = (float(found_T.sum()) + 0.5) / (objects + 1)
    between = float(np.sum((found_T - rate * objects_T) ** 2)) * tasks / (tasks - 1)
    return max(1.0, between / (objects * rate * (1 - rate)))
