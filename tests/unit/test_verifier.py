"""A verifier's features, what it learns from verdicts, and how it routes masks."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from engine.automatic.generator import GeneratedMask
from engine.core.rle import area, box_xyxy, encode
from engine.sam import Embedding
from engine.verifier.features import NAMES, Picture, features
from engine.verifier.learning import (
    Judged,
    TooFewVerdictsError,
    by_rate_alone,
    by_scores_alone,
    cross_fitted,
    gain,
    learn,
    quality,
)
from engine.verifier.model import (
    FOLDS,
    WHOLE,
    LearnedVerifier,
    VerifierCard,
    VerifierFileError,
    load_verifier,
    save_verifier,
)
from engine.verifier.routing import choose_route, lower_end
from flows.review.verifier_training import verdict

CARD = VerifierCard(version="v", segmenter="lite")
SCORE, SHAPE = NAMES.index("predicted_iou"), NAMES.index("fill")


def made(images: int, masks: int = 10, seed: int = 0, held_out: int = 0) -> Judged:
    """Masks whose shape decides on acceptance, mostly, and whose score tells a little."""
    rng = np.random.default_rng(seed)
    total = images * masks
    values = rng.normal(size=(total, len(NAMES))).astype(np.float32)
    log_odds = 3.0 * values[:, SHAPE] + 0.7 * values[:, SCORE]
    accepted = rng.random(total) < 1 / (1 + np.exp(-log_odds))
    image = np.repeat(np.arange(images), masks)
    return Judged(values, accepted, image, image >= images - held_out)


def test_it_learns_what_decides_and_its_probabilities_are_calibrated() -> None:
    known, fresh = made(40), made(200, seed=1)
    verifier = learn(known, CARD)
    found = verifier.of_features(fresh.features_NF, np.full(len(fresh), WHOLE))
    scores = quality(found, fresh.accepted_N)
    assert scores["auc"] is not None
    assert scores["auc"] > 0.85
    assert scores["calibration_error"] is not None
    assert scores["calibration_error"] < 0.05
    crossed = quality(cross_fitted(verifier, known), known.accepted_N)
    assert crossed["log_loss"] == pytest.approx(scores["log_loss"], abs=0.06)
    alone = quality(by_scores_alone(known), known.accepted_N)
    rate = quality(by_rate_alone(known), known.accepted_N)
    assert crossed["log_loss"] < alone["log_loss"] < rate["log_loss"]  # type: ignore[operator]


def test_a_head_never_sees_the_images_of_its_fold_nor_held_out_ones() -> None:
    known = made(30, held_out=5)
    fold = 2
    hidden = (known.image_N % FOLDS == fold) | known.held_out_N
    other = replace(known, accepted_N=np.where(hidden, ~known.accepted_N, known.accepted_N))
    heads = [learn(judged, CARD).heads.weights_KF for judged in (known, other)]
    assert np.array_equal(heads[0][fold], heads[1][fold])
    assert not np.array_equal(heads[0][WHOLE], heads[1][WHOLE])
    unseen = replace(
        known, accepted_N=np.where(known.held_out_N, ~known.accepted_N, known.accepted_N)
    )
    same = learn(unseen, CARD).heads
    assert np.array_equal(same.weights_KF, learn(known, CARD).heads.weights_KF)
    assert set(known.heads()[known.held_out_N]) == {WHOLE}
    assert (known.heads() == known.image_N % FOLDS)[~known.held_out_N].all()


def test_missing_values_do_not_matter_more_than_average_ones() -> None:
    known = made(30)
    known.features_NF[::7, SCORE] = np.nan
    known.features_NF[:, 0] = np.nan
    verifier = learn(known, CARD)
    assert np.isfinite(cross_fitted(verifier, known)).all()
    assert np.isfinite(by_scores_alone(known)).all()


@pytest.mark.parametrize(
    ("images", "accepted", "told"),
    [
        (20, True, "0 rejected or fixed"),
        (20, False, "0 masks accepted"),
        (2, None, "on 2 training images"),
        (3, None, "there are 30 on 3 training images"),
    ],
)
def test_too_few_verdicts_are_an_error_that_counts_them(
    images: int, accepted: bool | None, told: str
) -> None:
    known = made(images, masks=20 if images == 2 else 10)
    if accepted is not None:
        known = replace(known, accepted_N=np.full(len(known), accepted))
    with pytest.raises(TooFewVerdictsError, match=told):
        learn(known, CARD)


def test_a_candidate_is_promoted_only_if_it_is_significantly_better() -> None:
    known = made(40)
    found, alone = cross_fitted(learn(known, CARD), known), by_scores_alone(known)
    assert verdict(known, alone, found, "scores")[0]
    promoted, reason = verdict(known, found, alone, "v")
    assert not promoted
    assert reason.startswith("not better than v: log loss lower by -")
    assert not verdict(known, found, found, "v")[0]
    rounded = np.where(known.accepted_N, found + 1e-9, found - 1e-9)
    assert not verdict(known, found, rounded, "v")[0]
    few = known.part(known.image_N < 1)
    promoted, reason = verdict(few, alone[:10], found[:10], "scores")
    assert not promoted
    assert "one image is too few" in reason
    assert gain(known, alone, found, 0.95).mean > 0


def test_the_file_is_safetensors_with_the_card_and_reads_back_equal(tmp_path: Path) -> None:
    known = made(20)
    verifier = LearnedVerifier(learn(known, CARD).heads, replace(CARD, note="a note"))
    path = tmp_path / "v.safetensors"
    save_verifier(verifier, path)
    assert set(load_file(str(path))) == set(type(verifier.heads).__slots__)
    read = load_verifier(path)
    assert read.card == verifier.card
    assert np.array_equal(cross_fitted(read, known), cross_fitted(verifier, known))
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(pickle.dumps("no"))
    with pytest.raises(VerifierFileError, match="is not a verifier"):
        load_verifier(broken)
    save_verifier(LearnedVerifier(verifier.heads, replace(CARD, features=("other",))), broken)
    with pytest.raises(VerifierFileError, match="dataengine verifier train"):
        load_verifier(broken)


def test_thresholds_hold_the_precision_on_other_masks_and_route_the_surest() -> None:
    held = []
    for seed in range(12):
        known, fresh = made(120, seed=seed), made(200, seed=100 + seed)
        verifier = learn(known, CARD)
        route = choose_route(cross_fitted(verifier, known), known.accepted_N, known.image_N, 0.9)
        found = verifier.of_features(fresh.features_NF, np.full(len(fresh), WHOLE))
        ways = route.sorted(found)
        assert (ways == 1).any()
        assert (ways == -1).any()
        assert found[ways == -1].max() < found[ways == 0].min()
        assert found[ways == 0].max() < found[ways == 1].min()
        held.append(fresh.accepted_N[ways == 1].mean() >= 0.9)
        held.append(1 - fresh.accepted_N[ways == -1].mean() >= 0.9)
    assert np.mean(held) >= 0.9


def test_a_precision_that_nothing_reaches_gives_no_threshold_but_the_number_of_verdicts() -> None:
    known = made(20)
    probability = cross_fitted(learn(known, CARD), known)
    route = choose_route(probability, known.accepted_N, known.image_N, 0.999)
    assert route.accept.threshold is route.reject.threshold is None
    assert not route.sorted(probability).any()
    sure = choose_route(np.full(60, 0.9), np.ones(60, bool), np.arange(60), 0.99).accept
    assert sure.threshold is None
    assert sure.needed is not None
    assert lower_end(1.0, sure.needed) >= 0.99
    noise = np.random.default_rng(0).random(200)
    chance = choose_route(noise, noise > 2, np.arange(200), 0.9).accept
    assert (chance.threshold, chance.needed) == (None, None)


def test_masks_that_are_right_or_wrong_image_by_image_count_less() -> None:
    rng = np.random.default_rng(3)
    image = np.repeat(np.arange(30), 20)
    by_image = (np.arange(30) % 10 > 0)[image]
    alone = rng.permutation(by_image)
    low = [
        choose_route(np.full(600, 0.9), accepted, image, 0.5).accept.low
        for accepted in (by_image, alone)
    ]
    assert low[0] < low[1] < 0.9


def shown(mask_HW: np.ndarray, score: float = 0.8) -> GeneratedMask:
    rle = encode(mask_HW)
    return GeneratedMask(rle, area(rle), box_xyxy(rle), score, 0.9, (20.0, 20.0), (0, 0, 64, 48))


def test_features_describe_shape_outline_and_the_other_masks() -> None:
    image = np.full((48, 64, 3), 40, np.uint8)
    image[10:30, 10:40] = 200
    whole, part, two = (np.zeros((48, 64), bool) for _ in range(3))
    whole[10:30, 10:40] = True
    part[14:24, 10:20] = True
    two[0:6, 0:6] = two[40:46, 50:60] = True
    cells = torch.zeros(1, 2, 8, 8)
    cells[0, :, 2:4, 2:5] = torch.tensor([3.0, 1.0])[:, None, None]
    masks = [shown(whole), shown(part), shown(two)]
    found = features(Picture(image, Embedding(cells, (48, 64), (96, 128)), masks))
    assert found.shape == (3, len(NAMES))
    named = dict(zip(NAMES, found.T, strict=True))
    assert named["fill"][0] == 1
    assert named["pieces"].tolist() == pytest.approx([0, 0, np.log(2)])
    assert named["touches_border"].tolist() == [0, 0, 2]
    assert named["edge"][0] > named["edge"][1] > named["edge"][2]
    assert named["inside_other"].tolist() == pytest.approx([0, 1, 0])
    assert named["covered"][0] == pytest.approx(1 / 6, abs=0.01)
    assert named["grid_apart"][0] > named["grid_apart"][2]
    assert named["depth"][0] > 0.5
    assert named["depth"][2] == 0
    assert features(Picture(image, Embedding(cells, (48, 64), (96, 128)), [])).shape[0] == 0


def test_a_mask_of_one_pixel_and_one_of_the_whole_image_have_features() -> None:
    image = np.zeros((48, 64, 3), np.uint8)
    dot = np.zeros((48, 64), bool)
    dot[5, 6] = True
    masks = [shown(dot), shown(np.ones((48, 64), bool))]
    embedding = Embedding(torch.ones(1, 2, 8, 8), (48, 64), (96, 128))
    found = features(Picture(image, embedding, masks))
    verifier = learn(made(20), CARD)
    assert np.isfinite(verifier.of_features(found, np.full(2, WHOLE))).all()
    assert np.isfinite(verifier.probabilities(Picture(image, embedding, masks))).all()
