"""Scores of gold answers, what they say about an annotator, and the benchmark of both."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from engine.core.metrics import iou
from engine.core.rle import encode
from engine.evaluation.gold import FURTHER, LOOKS, Judgement, score_answer, standing
from engine.simulation.noise import CAREFUL, Noise, noisy_masks
from engine.simulation.scenes import generate_scene
from tests.benchmarks import quality_gold


def square(x: int, y: int, side: int = 10) -> np.ndarray:
    mask = np.zeros((60, 60), bool)
    mask[y : y + side, x : x + side] = True
    return mask


def test_a_score_counts_found_missed_and_extra_masks() -> None:
    truths = [encode(square(x, 0)) for x in (0, 20, 40)] + [encode(square(0, 20))]
    given = [square(0, 0), square(22, 0), square(45, 0), square(30, 40)]  # IoU 1, .67, .33, 0
    score = score_answer([encode(mask) for mask in given], truths)
    assert (score.truths, score.found_50, score.found_75, score.extra) == (4, 2, 1, 2)
    assert score.share == 0.5
    assert score.iou == pytest.approx((1 + 80 / 120) / 2)
    assert score.boundary_f is not None
    assert 0.5 < score.boundary_f <= 1
    nothing = score_answer([], truths)
    assert (nothing.found_50, nothing.iou, nothing.boundary_f) == (0, None, None)
    with pytest.raises(ValueError, match="needs true masks"):
        score_answer([], [])


def test_nobody_is_judged_before_the_first_look() -> None:
    assert standing([]) is None
    early = standing([(0, 10)] * (LOOKS[0] - 1))
    assert early is not None
    assert (early.score, early.low, early.high) == (0, 0, 1)
    assert early.judge(0.95) == Judgement.UNDECIDED


def test_the_interval_tells_careless_from_careful_annotators() -> None:
    careless, careful = standing([(17, 20)] * 12), standing([(20, 20)] * 12)
    assert careless is not None
    assert careful is not None
    assert careless.judge(0.95) == Judgement.BELOW
    assert careful.judge(0.95) == Judgement.ABOVE
    assert careful.low <= careful.score <= careful.high


def test_one_hard_image_blames_nobody() -> None:
    """The same masks are lost as by a careless annotator, but in one image."""
    found = standing([(20, 20)] * 11 + [(0, 36)])
    assert found is not None
    assert found.score < 0.9
    assert found.judge(0.95) == Judgement.UNDECIDED


def test_an_annotator_who_improves_is_judged_anew() -> None:
    bad, good = [(8, 10)] * LOOKS[-1], [(10, 10)] * (LOOKS[-1] + FURTHER)
    before, after = standing(bad), standing(bad + good)
    assert before is not None
    assert after is not None
    assert (before.judge(0.95), after.judge(0.95)) == (Judgement.BELOW, Judgement.ABOVE)


def test_an_annotator_at_the_threshold_is_rarely_blamed_although_images_differ() -> None:
    rng, blamed = np.random.default_rng(0), 0
    for _ in range(200):
        objects = 1 + rng.poisson(10, size=LOOKS[-1])
        hard = rng.random(LOOKS[-1]) < 0.05
        lost = rng.binomial(objects, np.where(hard, 0.5, 0.05 * 0.5 / 0.95))
        given = list(zip((objects - lost).tolist(), objects.tolist(), strict=True))
        looks = (standing(given[:look]) for look in LOOKS)
        blamed += any(one is not None and one.judge(0.95) == Judgement.BELOW for one in looks)
    assert blamed / 200 <= 0.05


def test_careful_people_draw_about_as_well_as_people_agree() -> None:
    rng, overlaps = np.random.default_rng(1), []
    for number in range(6):
        masks = generate_scene(60_000_000 + number, (160, 200), "objects").masks
        drawn = noisy_masks(rng, masks, Noise(careless=0))
        assert len(drawn) == len(masks)
        overlaps += [iou(one, other) for one, other in zip(drawn, masks, strict=True)]
    assert 0.8 < np.mean(overlaps) < 0.93


def test_careless_masks_are_missing_or_bad() -> None:
    truth = square(20, 20, 16)
    rng = np.random.default_rng(2)
    answers = [noisy_masks(rng, [truth], Noise(careless=1)) for _ in range(60)]
    assert 10 < sum(not masks for masks in answers) < 30
    assert all(iou(masks[0], truth) < 0.85 for masks in answers if masks)
    assert noisy_masks(rng, [np.zeros((5, 5), bool)], CAREFUL) == []
    with pytest.raises(ValueError, match="careless"):
        Noise(careless=2)


def test_the_benchmark_finds_careless_people_and_prints_its_figures(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    few = ["--images", "8", "--people", "30", "--answers", "2", "--json"]
    monkeypatch.setattr("sys.argv", ["quality_gold", *few])
    assert quality_gold.main() == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert found["gold_tasks_to_find"]["median"] <= 30
    assert found["gold_false_alarms"] <= 0.05
