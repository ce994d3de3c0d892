"""The statistics of audits: intervals hold, samples go where they tell most, and audits stop."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import hypergeom

from engine.evaluation.audit import (
    Decision,
    Share,
    allocate,
    decide,
    error_at_looks,
    looks,
    share_of,
)
from tests.benchmarks.quality_audit import (
    ALIKE,
    ALPHA,
    DIFFERENT,
    LIKE_SA1B,
    MANY,
    PERFECT,
    counts,
    simple_sample,
    simulated,
)


@pytest.mark.parametrize("strata", [DIFFERENT, LIKE_SA1B, ALIKE, MANY, PERFECT])
@pytest.mark.parametrize("far", [0.0, 0.04])
def test_of_200_audits_95_percent_cover_the_true_share_wherever_they_stop(
    strata: tuple[list[int], list[float]], far: float
) -> None:
    share = float(np.average(strata[1], weights=strata[0]))
    found = [simulated(strata, share - far, 400, seed) for seed in range(200)]
    assert sum(covered for covered, *_ in found) >= 190
    if far:  # early stops are what the division of the error is for
        assert sum(judged < 400 for _, judged, *_ in found) > 50


def test_strata_that_differ_save_two_fifths_of_a_simple_sample_of_equal_width() -> None:
    share = float(np.average(DIFFERENT[1], weights=DIFFERENT[0]))
    found = [simulated(DIFFERENT, share, 400, seed) for seed in range(200)]
    judged, width = (float(np.mean([row[k] for row in found])) for k in (1, 2))
    assert judged <= 0.6 * simple_sample(share, sum(DIFFERENT[0]), width)


@pytest.mark.parametrize("masks", [1, 2, 10, 25])
def test_with_one_stratum_the_interval_covers_every_share_that_exists(masks: int) -> None:
    for judged in range(1, masks + 1):
        shares = [share_of(counts([h], [judged], [masks]), ALPHA) for h in range(judged + 1)]
        for good in range(masks + 1):
            hits = np.arange(max(0, judged - masks + good), min(judged, good) + 1)
            chances = hypergeom.pmf(hits, masks, good, judged)
            truth = good / masks
            covered = [shares[h].low - 1e-12 <= truth <= shares[h].high + 1e-12 for h in hits]
            assert chances[covered].sum() >= 1 - ALPHA


def test_judging_every_mask_leaves_no_doubt_and_judging_none_leaves_all() -> None:
    assert share_of(counts([3, 8], [4, 12], [4, 12]), ALPHA) == Share(11 / 16, 11 / 16, 11 / 16)
    share = share_of(counts([0], [0], [9]), ALPHA)
    assert (share.low, share.high) == (0, 1)


def test_a_stratum_without_a_miss_is_not_certain() -> None:
    share = share_of(counts([30, 30], [30, 30], [500, 500]), ALPHA)
    assert share.estimate == share.high == 1
    assert 0.9 < share.low < 0.97


def test_samples_go_to_large_strata_and_to_those_of_mixed_quality() -> None:
    sizes = [100, 300, 600]
    first = allocate(50, counts([0, 0, 0], [0, 0, 0], sizes))
    assert first.tolist() == [5, 15, 30]
    later = allocate(100, counts([2, 15, 30], [5, 15, 30], sizes))
    assert later.sum() == 100
    assert (later >= first).all()
    assert later[0] / first[0] > later[1] / first[1]
    assert allocate(5000, counts([0, 0, 0], [0, 0, 0], sizes)).tolist() == sizes


def test_looks_double_up_to_the_limit_and_share_the_error() -> None:
    assert looks(400) == [50, 100, 200, 400]
    assert looks(1) == [1]
    assert sum(error_at_looks(looks(400), 0.95)) == pytest.approx(0.05)


@pytest.mark.parametrize(
    ("low", "high", "is_last", "decision"),
    [
        (0.94, 0.99, False, Decision.MET),
        (0.90, 0.9399, False, Decision.MISSED),
        (0.90, 0.94, False, Decision.CONTINUE),
        (0.90, 0.97, True, Decision.LIMIT),
    ],
)
def test_an_audit_stops_when_its_interval_lies_on_one_side_of_the_target(
    low: float, high: float, is_last: bool, decision: Decision
) -> None:
    assert decide(Share(0.93, low, high), 0.94, is_last=is_last) == decision


def test_intervals_of_two_looks_are_both_used() -> None:
    assert Share(0.9, 0.8, 0.95).narrowed(Share(0.8, 0.85, 0.99)) == Share(0.9, 0.85, 0.95)
    assert Share(0.9, 0.8, 0.95).narrowed(Share(0.5, 0.4, 0.6)) == Share(0.9, 0.8, 0.8)


@pytest.mark.parametrize(
    "columns", [([3], [2], [9]), ([1], [5], [4]), ([-1], [2], [4]), ([], [], [])]
)
def test_impossible_counts_are_refused(columns: tuple[list[int], ...]) -> None:
    with pytest.raises(ValueError, match="expected"):
        counts(*columns)
