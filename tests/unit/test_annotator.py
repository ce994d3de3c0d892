"""The simulated annotator, with models that improve, worsen or stay equal with each click."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from engine.core.metrics import iou
from engine.core.records import Prompt
from engine.sam import Embedding, Prediction, Segmenter
from engine.sam.tiles import TiledPredictor
from engine.simulation.annotator import (
    AnnotatedMask,
    AnnotatorConfig,
    CostModel,
    SimulatedAnnotator,
    apply_stroke,
)
from tests.unit.fake_segmenters import AnswersTogether

torch.set_num_threads(1)
SIZE = (64, 96)
EMBEDDING = Embedding(torch.zeros(1), SIZE, SIZE)


def rectangle(x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    mask = np.zeros(SIZE, bool)
    mask[y0:y1, x0:x1] = True
    return mask


LARGE = rectangle(4, 4, 44, 44)  # 1600 pixels
MIDDLE = rectangle(60, 10, 84, 34)  # 576
SMALL = rectangle(60, 44, 72, 56)  # 144


def shrunk(mask: np.ndarray, share: float) -> np.ndarray:
    """Return the mask's upper rows, about `share` of it, which is their IoU with the mask."""
    rows = np.flatnonzero(mask.any(axis=1))
    kept = mask.copy()
    kept[rows[round(share * len(rows)) :]] = False
    return kept


class Learner(AnswersTogether):
    """Knows the true masks; after n clicks its mask has the IoU `quality(n)`."""

    def __init__(self, truths: Sequence[np.ndarray], quality: Callable[[int], float]) -> None:
        self.truths, self.quality = truths, quality
        self.asked: list[tuple[list[Prompt], bool]] = []

    def predict(
        self, embedding: Embedding, prompts: Sequence[Prompt], *, multimask: bool
    ) -> Prediction:
        self.asked.append((list(prompts), multimask))
        answers, scores = [], []
        for prompt in prompts:
            assert prompt.points_xy is not None
            x, y = prompt.points_xy[0].astype(int)
            truth = next(truth for truth in self.truths if truth[y, x])
            clicks = len(prompt.points_xy)
            answers.append(shrunk(truth, self.share(truth, clicks)) * 2.0 - 1 + 0.01 * clicks)
            scores.append(0.1 * clicks)
        logits = torch.tensor(np.array(answers))[:, None]
        return Prediction(logits, torch.tensor(scores)[:, None])

    def share(self, truth: np.ndarray, clicks: int) -> float:
        return self.quality(clicks)

    def masks(self, embedding: Embedding, logits_BHW: torch.Tensor) -> np.ndarray:
        return np.asarray(logits_BHW.numpy() > 0)


def viewer(model: Segmenter) -> TiledPredictor:
    """Return a predictor that uses no tiles."""
    return TiledPredictor(
        model, lambda: np.zeros((*EMBEDDING.original_size, 3), np.uint8), EMBEDDING, use_tiles=False
    )


def annotate(
    truths: Sequence[np.ndarray],
    quality: Callable[[int], float],
    config: AnnotatorConfig | None = None,
) -> tuple[list[AnnotatedMask], Learner]:
    model = Learner(truths, quality)
    return SimulatedAnnotator(model, config).annotate(viewer(model), truths), model


def slowly(clicks: int) -> float:
    """Return an IoU that rises with every click and never reaches `good_iou`."""
    return 0.5 + 0.025 * clicks


def good_after(needed: int) -> Callable[[int], float]:
    return lambda clicks: 1.0 if clicks >= needed else slowly(clicks)


# clicks


@pytest.mark.parametrize("needed", [1, 3, 8])
def test_an_object_takes_the_clicks_the_model_needs(needed: int) -> None:
    (mask,), model = annotate([LARGE], good_after(needed))
    assert mask.clicks == needed == len(model.asked)
    assert mask.strokes == 0
    assert mask.iou == 1
    assert np.array_equal(mask.mask_HW, LARGE)
    assert mask.seconds == CostModel().seconds_for(needed, 0)
    assert mask.predicted_iou == pytest.approx(0.1 * needed)


def test_each_object_takes_its_own_clicks() -> None:
    class Partial(Learner):
        """Needs more clicks on the small object only."""

        def share(self, truth: np.ndarray, clicks: int) -> float:
            return (0.3, 0.5, 0.75, 1.0)[clicks - 1] if truth is SMALL else 1.0

    model = Partial([LARGE, SMALL], slowly)
    found = SimulatedAnnotator(model).annotate(viewer(model), [LARGE, SMALL])
    assert [mask.clicks for mask in found] == [1, 4]
    assert [len(prompts) for prompts, _ in model.asked] == [2, 1, 1, 1]


def test_no_click_repeats_a_point() -> None:
    """If a click does not change the mask, the annotator takes the brush."""
    (mask,), model = annotate([LARGE], lambda clicks: 0.6)
    points = model.asked[-1][0][0].points_xy
    assert points is not None
    assert mask.clicks == len(points) == len({tuple(point) for point in points}) == 2
    assert mask.strokes >= 1


def test_only_the_first_click_requests_three_masks() -> None:
    _, model = annotate([LARGE], good_after(3))
    assert [multimask for _, multimask in model.asked] == [True, False, False]


def test_the_first_click_is_at_the_centre_and_the_next_in_the_error() -> None:
    (mask,), model = annotate([LARGE], good_after(3))
    points = model.asked[-1][0][0].points_xy
    labels = model.asked[-1][0][0].labels
    assert points is not None
    assert labels is not None
    assert mask.point_xy == tuple(points[0])
    assert abs(points[0] - [23.5, 23.5]).max() <= 0.5
    for clicks in (1, 2):
        x, y = points[clicks].astype(int)
        assert (LARGE & ~shrunk(LARGE, slowly(clicks)))[y, x]
    assert labels.tolist() == [1, 1, 1]


def test_false_positives_get_a_background_click() -> None:
    whole, wanted = rectangle(4, 4, 44, 44), rectangle(4, 4, 44, 30)

    class Greedy(Learner):
        def predict(
            self, embedding: Embedding, prompts: Sequence[Prompt], *, multimask: bool
        ) -> Prediction:
            self.asked.append((list(prompts), multimask))
            labels = prompts[0].labels
            assert labels is not None
            answer = wanted if 0 in labels else whole
            return Prediction(torch.tensor(answer * 2.0 - 1)[None, None], torch.ones(1, 1))

    model = Greedy([wanted], slowly)
    (mask,) = SimulatedAnnotator(model).annotate(viewer(model), [wanted])
    prompt = model.asked[-1][0][0]
    assert mask.clicks == 2
    assert prompt.points_xy is not None
    x, y = prompt.points_xy[1].astype(int)
    assert (whole & ~wanted)[y, x]


def test_the_previous_prediction_is_fed_back() -> None:
    _, model = annotate([LARGE], lambda clicks: 1.0 if clicks >= 3 else 0.3 * clicks)
    assert model.asked[0][0][0].mask_logits is None
    for clicks in (1, 2):
        logits = model.asked[clicks][0][0].mask_logits
        assert logits is not None
        wanted = shrunk(LARGE, 0.3 * clicks) * 2.0 - 1 + 0.01 * clicks
        assert np.allclose(logits, wanted)


# limits


def test_brush_and_eraser_follow_the_last_click() -> None:
    config = AnnotatorConfig(max_clicks=3, max_seconds=1000)
    (mask,), model = annotate([LARGE], lambda clicks: 0.3 + 0.1 * clicks, config)
    assert mask.clicks == len(model.asked) == 3
    assert 1 <= mask.strokes <= 4
    assert mask.iou == iou(mask.mask_HW, LARGE)
    assert mask.iou >= 0.9
    assert mask.seconds == pytest.approx(CostModel().seconds_for(3, mask.strokes))


def test_the_number_of_strokes_is_limited() -> None:
    comb = LARGE.copy()
    comb[:, 4:44:4] = False  # every tooth is a component
    config = AnnotatorConfig(max_clicks=1, max_strokes=2, keep_iou=0.01, max_seconds=1000)
    (mask,), _ = annotate([comb], lambda clicks: 0.2, config)
    assert mask.strokes == 2
    assert mask.iou < 0.9


@pytest.mark.parametrize(("seconds", "clicks"), [(3.9, 1), (4.8, 2), (5.6, 2), (5.75, 3)])
def test_no_click_starts_that_would_exceed_the_time(seconds: float, clicks: int) -> None:
    config = AnnotatorConfig(max_seconds=seconds)
    (mask,), _ = annotate([LARGE], slowly, config)
    assert (mask.clicks, mask.strokes) == (clicks, 0)
    assert mask.seconds <= seconds


@pytest.mark.parametrize(("seconds", "strokes"), [(8.8, 0), (8.95, 1), (13.95, 2)])
def test_no_stroke_starts_that_would_exceed_the_time(seconds: float, strokes: int) -> None:
    comb = LARGE.copy()
    comb[:, 4:44:4] = False
    config = AnnotatorConfig(max_clicks=1, max_seconds=seconds, keep_iou=0.01)
    (mask,), _ = annotate([comb], lambda clicks: 0.2, config)
    assert mask.strokes == strokes
    assert mask.seconds <= seconds


def test_undo_returns_to_the_best_mask() -> None:
    config = AnnotatorConfig(max_clicks=4, max_strokes=0)
    (mask,), _ = annotate([LARGE], {1: 0.4, 2: 0.8, 3: 0.2, 4: 0.6}.__getitem__, config)
    assert mask.iou == 0.8
    assert np.array_equal(mask.mask_HW, shrunk(LARGE, 0.8))
    assert mask.predicted_iou == pytest.approx(0.2)
    assert mask.clicks == 4  # the later clicks cost time although they are undone


def test_masks_below_keep_iou_are_discarded() -> None:
    config = AnnotatorConfig(max_strokes=0, keep_iou=0.5)
    assert annotate([LARGE], lambda clicks: 0.45, config)[0] == []
    (kept,), _ = annotate([LARGE], lambda clicks: 0.5, config)
    assert kept.iou == 0.5


def test_the_brush_paints_what_the_model_does_not_find() -> None:
    (mask,), _ = annotate([LARGE], lambda clicks: 0.0)
    assert mask.strokes >= 1
    assert mask.iou >= 0.9


# objects


def test_objects_are_annotated_largest_first() -> None:
    found, _ = annotate([SMALL, LARGE, MIDDLE], lambda clicks: 1.0)
    assert [int(mask.mask_HW.sum()) for mask in found] == [1600, 576, 144]


def test_only_the_most_prominent_objects_are_annotated() -> None:
    config = AnnotatorConfig(max_objects=2)
    found, model = annotate([SMALL, LARGE, MIDDLE], lambda clicks: 1.0, config)
    assert [int(mask.mask_HW.sum()) for mask in found] == [1600, 576]
    assert len(model.asked[0][0]) == 2


def test_more_objects_than_one_batch_are_all_annotated() -> None:
    dots = [rectangle(x, y, x + 5, y + 5) for x in range(0, 90, 6) for y in range(0, 60, 6)]
    found, model = annotate(dots, lambda clicks: 1.0, AnnotatorConfig(max_objects=1000))
    assert len(found) == len(dots) == 150
    assert [len(prompts) for prompts, _ in model.asked] == [64, 64, 22]


def test_empty_truths_are_skipped() -> None:
    assert annotate([], slowly)[0] == []
    found, _ = annotate([np.zeros(SIZE, bool), SMALL], lambda clicks: 1.0)
    assert len(found) == 1


# one stroke

CORNERS = st.tuples(*[st.integers(0, 20)] * 4)


def sketch(corners: list[tuple[int, int, int, int]]) -> np.ndarray:
    mask = np.zeros((20, 20), bool)
    for x0, y0, x1, y1 in corners:
        mask[y0:y1, x0:x1] = True
    return mask


@given(st.lists(CORNERS, max_size=5), st.lists(CORNERS, max_size=5))
def test_a_stroke_changes_wrong_pixels_only_and_at_least_one(
    left: list[tuple[int, int, int, int]], right: list[tuple[int, int, int, int]]
) -> None:
    mask, truth = sketch(left), sketch(right)
    before = mask.copy()
    after = apply_stroke(mask, truth)
    assert np.array_equal(mask, before)
    painted = after != mask
    assert not (painted & (mask == truth)).any()
    assert painted.any() == (mask != truth).any()
    assert iou(after, truth) >= iou(mask, truth)


def test_a_stroke_corrects_the_largest_component_of_error() -> None:
    truth, mask = LARGE | SMALL, MIDDLE.copy()
    after = apply_stroke(mask, truth)
    assert after[MIDDLE].all()
    assert not after[SMALL].any()
    assert after[LARGE].mean() > 0.9
    erased = apply_stroke(LARGE | SMALL, SMALL)
    assert erased[SMALL].all()
    assert erased[LARGE].mean() < 0.1


def test_a_stroke_leaves_the_corners() -> None:
    after = apply_stroke(np.zeros(SIZE, bool), LARGE)
    assert not after[4, 4]
    assert not after[43, 43]
    assert after[24, 4]


# cost


@pytest.mark.parametrize(
    ("clicks", "strokes", "seconds"),
    [(0, 0, 1.5), (1, 0, 3.9), (2, 0, 4.8), (8, 0, 10.2), (0, 1, 6.5), (3, 2, 15.7)],
)
def test_clicks_and_strokes_take_the_time_of_the_cost_model(
    clicks: int, strokes: int, seconds: float
) -> None:
    assert CostModel().seconds_for(clicks, strokes) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("good_iou", 0.0),
        ("keep_iou", 1.1),
        ("accept_iou", -0.5),
        ("max_clicks", 0),
        ("max_objects", 0),
    ],
)
def test_an_annotator_config_out_of_range_is_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=name):
        replace(AnnotatorConfig(), **{name: value})  # type: ignore[arg-type]
