"""Metrics on predictions with known scores."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from engine.core.records import Prompt
from engine.core.rle import RLE, encode
from engine.evaluation.bootstrap import ByImage, interval, mean_of_sets, paired_gain
from engine.evaluation.clicks import EvaluationImage, clicks_to_reach, evaluate_clicks
from engine.evaluation.proposals import evaluate_proposals, score_proposals
from engine.evaluation.reliability import reliability
from engine.sam import Embedding, Prediction
from tests.unit.fake_segmenters import AnswersTogether

torch.set_num_threads(1)
SIZE = (40, 60)
MEASURES = ["ap", "ap_50", "ap_75", "ar_10", "ar_100", "ar_1000"]


def rectangle(x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    mask = np.zeros(SIZE, bool)
    mask[y0:y1, x0:x1] = True
    return mask


def tiles(count: int) -> list[RLE]:
    """Return masks of 4 x 4 pixels that do not touch."""
    corners = [(x, y) for y in range(0, 36, 6) for x in range(0, 56, 6)]
    return [encode(rectangle(x, y, x + 4, y + 4)) for x, y in corners[:count]]


def scored(rles: list[RLE], score: float = 0.5) -> list[tuple[RLE, float]]:
    return [(rle, score) for rle in rles]


# proposals


def test_perfect_proposals_score_one() -> None:
    truths = [tiles(4), tiles(7)]
    found = score_proposals(truths, [scored(rles) for rles in truths])
    masks = found.pop("masks_per_image")
    assert masks == 5.5
    assert found == pytest.approx(dict.fromkeys(MEASURES, 1.0))


def test_no_proposals_score_zero() -> None:
    found = score_proposals([tiles(3), tiles(2)], [[], []])
    assert set(found.values()) == {0.0}
    assert set(found) == {*MEASURES, "masks_per_image"}


def test_without_truth_all_scores_but_the_count_are_zero() -> None:
    found = score_proposals([[], []], [scored(tiles(3)), []])
    assert found.pop("masks_per_image") == 1.5
    assert set(found.values()) == {0.0}
    assert set(score_proposals([], []).values()) == {0.0}


def test_finding_half_of_the_masks_is_a_recall_of_half() -> None:
    found = score_proposals([tiles(8)], [scored(tiles(4))])
    assert found["ar_100"] == pytest.approx(0.5)
    assert found["ap"] == pytest.approx(51 / 101)  # recall up to 0.50 of 101 steps is reached


def test_a_mask_of_another_image_does_not_count() -> None:
    rles = tiles(4)
    found = score_proposals([rles[:2], rles[2:]], [scored(rles[2:]), scored(rles[:2])])
    assert found["ar_1000"] == found["ap"] == 0


def test_recall_at_k_uses_the_k_best_masks_of_each_image() -> None:
    truths = tiles(20)
    found = score_proposals([truths], [scored(truths)])
    assert found["ar_10"] == pytest.approx(0.5)
    assert found["ar_100"] == found["ar_1000"] == 1
    assert found["ap"] == pytest.approx(1)  # of all masks, not of ten
    wrong = [(encode(rectangle(x, 36, x + 3, 40)), 0.9) for x in range(10)]
    crowded = score_proposals([truths], [wrong + scored(truths)])
    assert crowded["ar_10"] == 0
    assert crowded["ar_100"] == 1


def test_recall_is_averaged_over_ten_iou_thresholds() -> None:
    truth, near = rectangle(0, 0, 50, 10), rectangle(0, 0, 41, 10)  # IoU 0.82
    found = score_proposals([[encode(truth)]], [[(encode(near), 0.9)]])
    assert found["ar_10"] == pytest.approx(0.7)  # 0.50, 0.55 ... 0.80
    assert found["ap"] == pytest.approx(0.7)
    assert (found["ap_50"], found["ap_75"]) == pytest.approx((1, 1))
    nearly = score_proposals([[encode(truth)]], [[(encode(rectangle(0, 0, 36, 10)), 0.9)]])
    assert (nearly["ap_50"], nearly["ap_75"]) == pytest.approx((1, 0))  # IoU 0.72
    loose = score_proposals([[encode(truth)]], [[(encode(rectangle(0, 0, 30, 10)), 0.9)]])
    assert (loose["ap_50"], loose["ap_75"]) == pytest.approx((1, 0))


def test_a_confident_mistake_lowers_precision_and_an_unconfident_one_does_not() -> None:
    truths = tiles(2)
    mistake = encode(rectangle(0, 36, 9, 40))
    doubtful = score_proposals([truths], [[*scored(truths, 0.5), (mistake, 0.1)]])
    confident = score_proposals([truths], [[*scored(truths, 0.5), (mistake, 0.9)]])
    assert doubtful["ap"] == pytest.approx(1)
    assert confident["ap"] == pytest.approx(2 / 3)
    assert confident["ar_10"] == 1


def test_a_mask_found_twice_counts_once() -> None:
    truths = tiles(1)
    found = score_proposals([truths], [[*scored(truths, 0.9), *scored(truths, 0.8)]])
    assert (found["ar_10"], found["ap"]) == pytest.approx((1, 1))
    assert found["masks_per_image"] == 2


def test_lists_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="expected 2 lists of automatic masks, got 1"):
        score_proposals([[], []], [[]])


def test_scoring_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    score_proposals([tiles(2)], [scored(tiles(2))])
    assert capsys.readouterr().out == ""


# clicks


class Oracle(AnswersTogether):
    """Predicts the true mask under a prompt's first point or box.

    Of three masks, the true one has the index `right`, and the first has the highest score.
    """

    def __init__(self, truths: Sequence[np.ndarray], right: int = 0) -> None:
        self.truths, self.right = truths, right
        self.asked: list[tuple[list[Prompt], bool]] = []

    def embed(self, image_HWC: np.ndarray) -> Embedding:
        size = (image_HWC.shape[0], image_HWC.shape[1])
        return Embedding(torch.zeros(1), size, size)

    def truth(self, prompt: Prompt) -> np.ndarray:
        if prompt.points_xy is not None:
            x, y = prompt.points_xy[0].astype(int)
            return next(truth for truth in self.truths if truth[y, x])
        assert prompt.box_xyxy is not None
        x0, y0, x1, y1 = prompt.box_xyxy.astype(int)
        inside = np.zeros_like(self.truths[0])
        inside[y0:y1, x0:x1] = True
        return max(self.truths, key=lambda truth: (truth & inside).sum() / truth.sum())

    def predict(
        self, embedding: Embedding, prompts: Sequence[Prompt], *, multimask: bool
    ) -> Prediction:
        self.asked.append((list(prompts), multimask))
        outputs = 3 if multimask else 1
        logits = torch.full((len(prompts), outputs, *embedding.original_size), -1.0)
        for row, prompt in enumerate(prompts):
            answer = torch.from_numpy(self.truth(prompt)) * 2.0 - 1
            logits[row, self.right if multimask else 0] = answer
        return Prediction(logits, torch.tensor([[0.9, 0.5, 0.4][:outputs]] * len(prompts)))

    def masks(self, embedding: Embedding, logits_BHW: torch.Tensor) -> np.ndarray:
        return np.asarray(logits_BHW.numpy() > 0)


ELL = rectangle(2, 2, 12, 22) | rectangle(2, 12, 22, 22)  # 300 of its box's 400 pixels
BAR = rectangle(30, 4, 50, 10)
NAMES = ["miou_1_click", "miou_2_clicks", "miou_3_clicks", "miou_5_clicks", "miou_9_clicks"]


def image(*truths: np.ndarray) -> EvaluationImage:
    return EvaluationImage(np.zeros((*SIZE, 3), np.uint8), [encode(truth) for truth in truths])


def test_a_perfect_model_scores_one_everywhere() -> None:
    found = evaluate_clicks(Oracle([ELL, BAR]), [image(ELL, BAR)]).summary()
    assert found["masks"] == 2
    for name in [*NAMES, "miou_1_click_oracle", "miou_box"]:
        assert found[name] == 1, name


def test_box_fill_is_the_share_of_the_box_that_the_mask_fills() -> None:
    scores = evaluate_clicks(Oracle([ELL, BAR]), [image(ELL, BAR)])
    assert scores.box_fill == [0.75, 1.0]
    assert scores.summary()["miou_box_fill"] == 0.875


def test_the_most_confident_of_three_counts_and_the_oracle_takes_the_best() -> None:
    found = evaluate_clicks(Oracle([ELL], right=2), [image(ELL)], clicks=(1, 2)).summary()
    assert found["miou_1_click"] == 0
    assert found["miou_1_click_oracle"] == 1
    assert found["miou_2_clicks"] == 1


def test_only_the_first_click_requests_three_masks() -> None:
    model = Oracle([ELL])
    evaluate_clicks(model, [image(ELL)], clicks=(1, 3))
    points = [multimask for prompts, multimask in model.asked if prompts[0].box_xyxy is None]
    boxes = [
        (prompts, multimask)
        for prompts, multimask in model.asked
        if prompts[0].box_xyxy is not None
    ]
    assert points == [True, False, False]
    assert [multimask for _, multimask in boxes] == [False]
    box = boxes[0][0][0].box_xyxy
    assert box is not None
    assert box.tolist() == [2, 2, 22, 22]


def test_each_click_is_added_to_the_previous_clicks_and_prediction() -> None:
    model = Oracle([ELL], right=2)  # finds nothing at first
    evaluate_clicks(model, [image(ELL)], clicks=(1, 3))
    asked = [prompts[0] for prompts, _ in model.asked if prompts[0].box_xyxy is None]
    assert [0 if p.points_xy is None else len(p.points_xy) for p in asked] == [1, 2, 3]
    assert asked[0].mask_logits is None
    assert asked[1].mask_logits is not None
    assert (asked[1].mask_logits == -1).all()
    assert asked[2].mask_logits is not None
    assert np.array_equal(asked[2].mask_logits > 0, ELL)
    for prompt in asked:
        assert prompt.points_xy is not None
        assert all(ELL[int(y), int(x)] for x, y in prompt.points_xy)
        assert prompt.labels is not None
        assert (prompt.labels == 1).all()


def test_one_click_is_always_reported() -> None:
    assert evaluate_clicks(Oracle([ELL]), [image(ELL)], clicks=(2,)).clicks == (1, 2)
    assert evaluate_clicks(Oracle([ELL]), [image(ELL)], clicks=()).clicks == (1,)


def test_empty_masks_and_images_without_masks_are_skipped() -> None:
    empty = np.zeros(SIZE, bool)
    scores = evaluate_clicks(Oracle([ELL]), [image(), image(empty), image(empty, ELL)])
    assert len(scores.box) == 1
    assert scores.box_fill == [0.75]
    assert scores.summary()["masks"] == 1


def test_nothing_to_evaluate_gives_zeros() -> None:
    found = evaluate_clicks(Oracle([ELL]), []).summary()
    assert found.pop("noc_cap") == 9
    assert {row["masks"] for row in found.pop("predicted_iou_bins")} == {0}
    assert {value for name, value in found.items() if not name.endswith("_ci")} == {0}
    assert {value for name, value in found.items() if name.endswith("_ci")} == {None}
    assert set(NAMES) <= set(found)


def test_max_masks_per_image_takes_the_first_masks() -> None:
    images = [image(BAR, ELL), image(BAR, ELL)]
    scores = evaluate_clicks(Oracle([ELL, BAR]), images, max_masks_per_image=1)
    assert scores.box_fill == [1.0, 1.0]


def test_more_masks_than_one_batch_are_all_scored() -> None:
    dots = [rectangle(x, y, x + 2, y + 2) for x in range(0, 60, 4) for y in range(0, 40, 4)]
    model = Oracle(dots)
    scores = evaluate_clicks(model, [image(*dots)], clicks=(1,))
    assert len(scores.box) == len(scores.oracle) == len(scores.iou_after[0]) == len(dots) == 150
    assert scores.summary()["miou_1_click"] == 1
    assert max(len(prompts) for prompts, _ in model.asked) == 64


def test_iou_is_known_after_every_click_up_to_the_cap() -> None:
    scores = evaluate_clicks(Oracle([ELL], right=2), [image(ELL)], clicks=(1, 4))
    assert scores.ious().tolist() == [[0], [1], [1], [1]]
    found = scores.summary()
    assert (found["noc_85"], found["noc_90"], found["noc_cap"]) == (2, 2, 4)
    assert "miou_2_clicks" not in found


def test_clicks_are_counted_to_the_first_mask_above_the_target_iou() -> None:
    ious = np.array([[0.90, 0.2, 0.2], [0.1, 0.84, 0.3], [0.1, 0.85, 0.4]])
    needed, missed = clicks_to_reach(ious, 0.85)
    assert needed.tolist() == [1, 3, 3]  # the last one never reaches it
    assert missed.tolist() == [False, False, True]


def test_masks_are_counted_on_the_image_they_are_on() -> None:
    empty = np.zeros(SIZE, bool)
    model = Oracle([ELL, BAR])
    scores = evaluate_clicks(model, [image(ELL, BAR), image(empty), image(BAR)], clicks=(1,))
    assert scores.image == [0, 0, 2]
    assert scores.by_image().counts_IF[:, 0].tolist() == [2, 1]


def test_the_outline_of_a_perfect_mask_scores_one_and_of_a_missing_one_zero() -> None:
    found = evaluate_clicks(Oracle([ELL], right=2), [image(ELL)], clicks=(1,)).summary()
    assert (found["boundary_f_1_click"], found["boundary_f_box"]) == (0, 1)


# predicted IoU


def test_predicted_and_true_iou_are_correlated_over_masks() -> None:
    true = np.array([0.1, 0.5, 0.9])
    for predicted, wanted in (([0.2, 0.4, 0.6], 1), ([0.6, 0.4, 0.2], -1), ([0.3, 0.3, 0.3], 0)):
        found = reliability(np.array(predicted), true)
        assert found["predicted_iou_correlation"] == pytest.approx(wanted)


def test_the_calibration_error_is_the_mean_distance_of_the_bins() -> None:
    found = reliability(np.array([0.71, 0.79, 0.05, 1.02]), np.array([0.5, 0.6, 0.05, 0.82]))
    # [.7, .8): two masks, .75 predicted, .55 true; [0, .1): right; [.9, 1]: .2 too much
    assert found["predicted_iou_error"] == pytest.approx((2 * 0.2 + 0 + 0.2) / 4)
    bins = found["predicted_iou_bins"]
    assert [row["masks"] for row in bins] == [1, 0, 0, 0, 0, 0, 0, 2, 0, 1]
    assert bins[7] == pytest.approx(
        {"low": 0.7, "high": 0.8, "masks": 2, "predicted": 0.75, "iou": 0.55}
    )
    assert bins[1]["predicted"] is bins[1]["iou"] is None


# intervals


def sums(totals: list[float], counts: list[int]) -> ByImage:
    return ByImage(("score",), np.array([totals]).T, np.array([counts], np.float64).T)


def test_sums_by_image_give_the_mean_over_masks() -> None:
    found = ByImage.of({"score": np.array([0.0, 1.0, 0.5])}, [7, 7, 3])
    assert found.totals_IF.tolist() == [[0.5], [1.0]]
    assert found.counts_IF.tolist() == [[1], [2]]
    assert found.means() == {"score": 0.5}
    again = ByImage.from_dict(json.loads(json.dumps(found.as_dict())))
    assert again.means() == found.means()
    assert again.draws().tolist() == found.draws().tolist()


def test_whole_images_are_resampled() -> None:
    """100 masks on two images, all right on one and all wrong on the other."""
    found = sums([50, 0], [50, 50])
    assert set(found.draws().ravel().tolist()) == {0, 0.5, 1}
    assert found.summary() == {"score": 0.5, "score_ci": [0, 1]}


def test_equal_images_have_an_interval_of_width_zero_and_one_image_has_none() -> None:
    assert sums([0.6] * 5, [2] * 5).summary()["score_ci"] == pytest.approx([0.3, 0.3])
    assert sums([0.6], [2]).summary() == {"score": 0.3, "score_ci": None}


def test_the_interval_is_that_of_theory_for_many_images() -> None:
    values = np.random.default_rng(3).normal(0.5, 0.1, 400)
    low, high = sums(values.tolist(), [1] * 400).summary()["score_ci"]
    reach = 1.96 * values.std() / 20
    assert (low, high) == pytest.approx((values.mean() - reach, values.mean() + reach), abs=0.002)


@given(
    st.lists(st.tuples(st.floats(0, 1), st.integers(1, 9)), min_size=2, max_size=30),
    st.floats(0, 0.9),
)
def test_an_interval_lies_within_the_images_and_grows_with_confidence(
    rows: list[tuple[float, int]], confidence: float
) -> None:
    found = sums([mean * count for mean, count in rows], [count for _, count in rows])
    draws = found.draws()
    assert np.array_equal(draws, found.draws())  # the same in every run
    low, high = interval(draws[:, 0], confidence)
    wide_low, wide_high = interval(draws[:, 0], (1 + confidence) / 2)
    means = [mean for mean, _ in rows]
    assert min(means) - 1e-9 <= wide_low <= low <= high <= wide_high <= max(means) + 1e-9
    assert min(means) - 1e-9 <= found.means()["score"] <= max(means) + 1e-9


def test_a_confidence_of_one_is_refused() -> None:
    with pytest.raises(ValueError, match="got 1"):
        interval(np.zeros(3), 1)


def test_sets_have_equal_weights_whatever_their_size() -> None:
    small, large = sums([1, 1], [1, 1]), sums([0] * 50, [9] * 50)
    assert mean_of_sets([small, large]) == {"score": 0.5, "score_ci": [0.5, 0.5]}
    assert mean_of_sets([small, sums([0], [1])])["score_ci"] is None
    with pytest.raises(ValueError, match="different metrics"):
        mean_of_sets([small, ByImage(("other",), *[np.ones((2, 1))] * 2)])


def test_a_paired_gain_is_significant_where_the_scores_overlap() -> None:
    before = np.linspace(0.1, 0.9, 10)
    old, new = (sums(list(values), [1] * 10) for values in (before, before + 0.05))
    low, high = old.summary()["score_ci"]
    assert high - low > 0.2
    gain = paired_gain(old, new, ["score"])
    assert (gain.mean, gain.low, gain.high) == pytest.approx((0.05, 0.05, 0.05))
    assert paired_gain(sums([1], [2]), sums([2], [2]), ["score"]).low is None
    with pytest.raises(ValueError, match="same masks"):
        paired_gain(old, sums([1] * 10, [2] * 10), ["score"])


def test_recall_has_an_interval_over_images() -> None:
    truths = [tiles(4)] * 2
    found = evaluate_proposals(truths, [scored(tiles(4)), []]).summary()
    assert (found["ar_10"], found["ar_10_ci"]) == (0.5, [0, 1])
    assert (found["masks_per_image"], found["masks_per_image_ci"]) == (2, [0, 4])
    assert "ap_ci" not in found
