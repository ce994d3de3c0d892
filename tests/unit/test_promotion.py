"""The rule of promotion, on scores whose gain is known beforehand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from engine.evaluation.bootstrap import ByImage
from flows.training.retrain import COMPARED, verdict
from flows.training.scores import HeldOut

MASKS = 2
"""On every image."""


def held_out(means: Sequence[float]) -> HeldOut:
    """Scores with these mean IoU by image, the same for each figure that is compared."""
    totals = np.repeat(np.array([means]).T * MASKS, len(COMPARED), axis=1)
    by_image = ByImage(COMPARED, totals, np.full_like(totals, MASKS))
    return HeldOut({**by_image.means(), "masks": MASKS * len(means)}, by_image)


OLD = held_out([0.2, 0.4, 0.6, 0.8])


@pytest.mark.parametrize(
    ("means", "min_gain", "confidence", "promoted"),
    [
        ([0.21, 0.42, 0.61, 0.82], 0.0, 0.95, True),  # a little better on every image
        ([0.60, 0.40, 0.60, 0.78], 0.0, 0.95, False),  # much better on one
        ([0.60, 0.40, 0.60, 0.78], 0.0, 0.0, True),  # any gain counts
        ([0.20, 0.40, 0.60, 0.80], 0.0, 0.0, False),
        ([0.21, 0.42, 0.61, 0.82], 0.015, 0.95, False),
        ([0.21, 0.42, 0.61, 0.82], 0.014, 0.0, True),
        ([0.10, 0.30, 0.50, 0.70], 0.0, 0.95, False),
        ([0.10, 0.30, 0.50, 0.70], -0.2, 0.95, True),
    ],
)
def test_a_candidate_is_promoted_when_its_gain_is_beyond_doubt(
    means: list[float], min_gain: float, confidence: float, promoted: bool
) -> None:
    found, reason = verdict(OLD, held_out(means), min_gain=min_gain, confidence=confidence)
    assert found == promoted, reason
    assert reason.startswith("better" if promoted else "not better")


def test_the_reason_tells_gain_and_interval() -> None:
    _, reason = verdict(OLD, held_out([0.6, 0.4, 0.6, 0.78]), min_gain=0, confidence=0.95)
    assert reason.startswith("not better by more than 0 beyond doubt: ")
    assert "0.595 against 0.500, gain +0.095 (95 %: -0.015 to +0.300)" in reason
    _, worse = verdict(OLD, held_out([0.1, 0.3, 0.5, 0.7]), min_gain=0, confidence=0.9)
    assert worse.startswith("not better by more than 0: ")
    assert "gain -0.100 (90 %: -0.100 to -0.100)" in worse


def test_without_two_images_nothing_is_beyond_doubt() -> None:
    none = HeldOut({"masks": 0}, ByImage(COMPARED, *[np.zeros((0, len(COMPARED)))] * 2))
    assert verdict(none, none, min_gain=0, confidence=0.95)[0] is False
    one, better = held_out([0.2]), held_out([0.9])
    promoted, reason = verdict(one, better, min_gain=0, confidence=0.95)
    assert not promoted
    assert "too few" in reason
    assert verdict(one, better, min_gain=0, confidence=0)[0]
