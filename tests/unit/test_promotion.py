"""The rule of promotion, on scores with a known gain."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from engine.evaluation.bootstrap import ByImage
from flows.training.promotion import COMPARED, PromotionRecord, verdict
from flows.training.scores import HeldOut

MASKS = 2
"""On every image."""


def held_out(means: Sequence[float]) -> HeldOut:
    """Scores with these mean IoUs by image, the same for each compared figure."""
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
def test_a_candidate_is_promoted_when_its_gain_is_significant(
    means: list[float], min_gain: float, confidence: float, promoted: bool
) -> None:
    found, reason = verdict(OLD, held_out(means), min_gain=min_gain, confidence=confidence)
    assert found == promoted, reason
    assert reason.startswith("better" if promoted else "not better")


def test_the_reason_tells_gain_and_interval() -> None:
    _, reason = verdict(OLD, held_out([0.6, 0.4, 0.6, 0.78]), min_gain=0, confidence=0.95)
    assert reason.startswith("not better by more than 0 (not statistically significant): ")
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


OLD_CARD = {
    "version": "d-2",
    "note": "Against lite: better: mean held-out IoU 0.751 against 0.700, gain +0.051 "
    "(95 %: +0.011 to +0.090). | thresholds as before",
}
"""As cards were written before they had a record of the promotion."""


def test_a_card_of_before_the_record_is_read() -> None:
    assert PromotionRecord.from_card(OLD_CARD) == PromotionRecord(
        against="lite",
        promoted=True,
        reason="better: mean held-out IoU 0.751 against 0.700, gain +0.051 "
        "(95 %: +0.011 to +0.090)",
        note="thresholds as before",
    )
    assert PromotionRecord.from_card({"note": "as before"}) == PromotionRecord(note="as before")


def test_a_record_is_read_back_and_its_note_is_the_one_that_people_know() -> None:
    record = PromotionRecord.from_card(OLD_CARD)
    assert record.to_card()["note"] == OLD_CARD["note"]
    assert PromotionRecord.from_card(record.to_card()) == record
