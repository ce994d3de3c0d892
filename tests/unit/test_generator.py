"""The mask generator: configuration, crops, windows, filters, post-processing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from engine.automatic import GeneratorConfig, MaskGenerator, preset
from engine.automatic.candidates import FilterThresholds, stability_score
from engine.automatic.config import PRESETS
from engine.automatic.crops import Crop, make_crops, touches_crop_edge
from engine.automatic.regions import remove_small_regions
from engine.automatic.windows import Frame, LogitWindow, MaskWindow, finite
from engine.core.rle import decode as decode_rle
from engine.core.rle import encode
from engine.sam import Embedding, Segmenter, Thresholds
from engine.sam.build import build_sam
from engine.sam.torchvision_ops import ensure_torchvision

torch.set_num_threads(1)
WHOLE = (0, 0, 40, 20)


# settings


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("points_per_side", 0),
        ("points_per_batch", 0),
        ("crop_points_divisor", 0),
        ("min_predicted_iou", 1.5),
        ("min_stability", -0.1),
        ("max_box_iou", 2.0),
        ("max_crop_box_iou", -0.1),
        ("max_area", -1.0),
        ("crop_overlap", 1.0),
        ("crop_layers", -1),
        ("min_region", -1),
    ],
)
def test_settings_out_of_range_are_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=name):
        replace(GeneratorConfig(), **{name: value})  # type: ignore[arg-type]


def test_a_preset_can_be_changed_field_by_field() -> None:
    assert preset("sa1b", crop_layers=1) == replace(PRESETS["sa1b"], crop_layers=1)
    with pytest.raises(ValueError, match=r"best.*reference"):
        preset("best")
    with pytest.raises(TypeError):
        preset("sa1b", crops=3)


def test_thresholds_left_open_come_from_the_models_card() -> None:
    model = Striped()
    open_ended = MaskGenerator(model)
    assert open_ended.thresholds == FilterThresholds(0.5, 0.5)
    given = MaskGenerator(model, GeneratorConfig(min_predicted_iou=0.0, min_stability=0.9))
    assert given.thresholds == FilterThresholds(0.0, 0.9)


@pytest.mark.parametrize(
    ("name", "side", "layers"),
    [("default", 384, 1), ("fast", 384, 1), ("default", 1024, 0), ("reference", 384, 0)],
)
def test_a_model_with_a_small_input_gets_crops(name: str, side: int, layers: int) -> None:
    assert preset(name).layers_of_crops(side) == layers
    assert preset(name, crop_layers=2).layers_of_crops(side) == 2


# crops


def test_sa1bs_crops_of_a_photograph_are_those_of_the_paper() -> None:
    found = make_crops((1500, 2250), 2, 512 / 1500)
    assert len(found) == 1 + 4 + 16
    assert [crop.layer for crop in found] == [0] + [1] * 4 + [2] * 16
    assert found[1].size == (1006, 1381)
    assert found[5].size == (567, 755)
    assert found[2].box_xyxy == (0, 1006 - 512, 1381, 1500)


@given(
    size=st.tuples(st.integers(1, 300), st.integers(1, 300)),
    layers=st.integers(0, 3),
    overlap=st.floats(0, 0.9),
)
@settings(max_examples=60, deadline=None)
def test_the_crops_of_each_layer_cover_the_image(
    size: tuple[int, int], layers: int, overlap: float
) -> None:
    found = make_crops(size, layers, overlap)
    for layer in range(layers + 1):
        covered = np.zeros(size, bool)
        for crop in found:
            if crop.layer == layer:
                assert min(crop.size) >= 1
                crop.cut(covered)[:] = True
        assert covered.all()


def test_crops_agree_with_segment_anythings() -> None:
    ensure_torchvision()
    from segment_anything.utils.amg import generate_crop_boxes

    for size in ((480, 640), (333, 1001), (50, 50)):
        boxes, layers = generate_crop_boxes(size, 2, 512 / 1500)
        found = make_crops(size, 2, 512 / 1500)
        assert [list(crop.box_xyxy) for crop in found] == boxes
        assert [crop.layer for crop in found] == layers


def test_a_mask_at_an_inner_edge_of_its_crop_is_cut_off() -> None:
    crop = Crop((0, 100, 200, 300), 1)
    boxes = np.array(
        [
            [50, 150, 100, 200],  # inside
            [0, 150, 100, 200],  # at the image's own edge
            [50, 119, 100, 200],  # near the top edge of the crop
            [50, 150, 180, 200],  # near its right edge
        ]
    )
    assert touches_crop_edge(boxes, crop, (300, 400)).tolist() == [False, False, True, True]


# windows


@pytest.mark.parametrize(
    ("size", "input_size"),
    [((60, 88), (175, 256)), ((300, 200), (256, 171)), ((9, 200), (12, 256)), ((3, 3), (256, 256))],
)
def test_a_window_has_the_pixels_of_the_whole_mask(
    size: tuple[int, int], input_size: tuple[int, int]
) -> None:
    rng = np.random.default_rng(1)
    frame = Frame(Embedding(torch.zeros(1), size, input_size), 256, 64)
    for _ in range(20):
        low = np.full((64, 64), -6, np.float32)
        y, x = rng.integers(0, 50, 2)
        low[y : y + rng.integers(1, 14), x : x + rng.integers(1, 14)] = rng.normal(1, 2)
        low += rng.normal(0, 1, low.shape).astype(np.float32)
        on_input = F.interpolate(torch.from_numpy(low)[None, None], (256, 256), mode="bilinear")
        cut = on_input[..., : input_size[0], : input_size[1]]
        wanted = F.interpolate(cut, size, mode="bilinear")[0, 0].numpy()
        window = frame.window(low, -1.0)
        if window is None:
            assert (wanted <= -1).all()
            continue
        place = slice(*window.frame_rows), slice(*window.frame_columns)
        assert np.allclose(frame.draw(window), wanted[place], atol=1e-4)
        outside = wanted.copy()
        outside[place] = -9
        assert (outside <= -1).all()


def test_logits_that_are_not_finite_give_no_mask() -> None:
    low = finite(torch.tensor([[float("nan"), float("inf")], [-float("inf"), 2.0]]))
    assert low.tolist() == [[-1e4, 1e4], [-1e4, 2.0]]
    frame = Frame(Embedding(torch.zeros(1), (8, 8), (8, 8)), 8, 8)
    assert frame.window(np.full((8, 8), -1e4, np.float32), -1.0) is None


def test_stability_is_the_iou_of_a_tight_and_a_loose_cut() -> None:
    logits = np.array([[3.0, 1.5, 0.5, -0.5, -1.5]], np.float32)
    assert stability_score(logits, 1.0) == 0.5
    assert stability_score(logits, 2.0) == pytest.approx(0.2)
    assert stability_score(np.full((2, 2), -9.0), 1.0) == 0.0


# small regions


def library_clean(mask: np.ndarray, least: int) -> tuple[np.ndarray, bool]:
    ensure_torchvision()
    from segment_anything.utils.amg import remove_small_regions

    filled, holes = remove_small_regions(mask, least, mode="holes")
    found, pieces = remove_small_regions(filled, least, mode="islands")
    return found, holes or pieces


@pytest.mark.parametrize("seed", range(12))
def test_small_regions_are_removed_as_in_segment_anything(seed: int) -> None:
    rng = np.random.default_rng(seed)
    noise = cv2.GaussianBlur(rng.normal(0, 1, (60, 80)).astype(np.float32), (0, 0), 1.5)
    mask = noise > rng.uniform(-0.1, 0.25)
    mask[:, : rng.integers(0, 40)] = False
    if not mask.any():
        mask[3, 3] = True
    drawn = MaskWindow(mask, 0, 0).tight()
    ours, changed = remove_small_regions(drawn, (60, 80), 20, keep_largest=True)
    theirs, theirs_changed = library_clean(mask, 20)
    assert changed == theirs_changed
    assert np.array_equal(decode_rle(ours.rle((60, 80))), theirs)


def test_a_mask_of_specks_is_dropped_or_keeps_its_largest() -> None:
    mask = np.zeros((30, 30), bool)
    mask[2:5, 2:5] = mask[20:22, 20:22] = True
    drawn = MaskWindow(mask, 0, 0).tight()
    largest, _ = remove_small_regions(drawn, (30, 30), 50, keep_largest=True)
    assert largest.box_xyxy == (2, 2, 5, 5)
    nothing, changed = remove_small_regions(drawn, (30, 30), 50, keep_largest=False)
    assert changed
    assert not nothing.mask.any()


# the generator


class Striped(Segmenter):
    """Predicts three masks for a click at column x: a stripe, the whole image, and nothing."""

    def __init__(self, workers: int = 1) -> None:
        self.thresholds = Thresholds(min_predicted_iou=0.5, min_stability=0.5)
        self.version = "striped"
        self.asked = 0
        self.at_once = workers

    side = 64
    low_side = 64
    batch = 5
    images_at_once = 2

    @property
    def workers(self) -> int:
        return self.at_once

    def embed_many(self, images: Sequence[np.ndarray], *, half: bool = False) -> list[Embedding]:
        sizes = [(image.shape[0], image.shape[1]) for image in images]
        return [Embedding(torch.zeros(1), size, size) for size in sizes]

    def candidates(
        self, embedding: Embedding, points_B2: Any, min_iou: float, *, half: bool = False
    ) -> Any:
        height, width = embedding.original_size
        logits = torch.full((len(points_B2), 3, 64, 64), -5.0)
        logits[:, 1, :height, :width] = 5.0
        for row, point in enumerate(points_B2):
            x = int(point[0])
            logits[row, 0, :height, x : x + 5] = 5.0
            logits[row, 2, 3, x] = 50.0
        self.asked += len(points_B2)
        scores = torch.tensor([0.9, 0.8, 0.7]) + 0.001 * torch.arange(len(points_B2))[:, None]
        rows, outputs = torch.nonzero(scores > min_iou, as_tuple=True)
        return logits[rows, outputs], scores[rows, outputs], rows


IMAGE = np.zeros((20, 40, 3), np.uint8)


def test_the_generator_keeps_good_masks_once_and_best_first() -> None:
    model = Striped()
    config = GeneratorConfig(points_per_side=4, crop_layers=0, min_area=16, max_area=0.9)
    found = MaskGenerator(model, config).generate(IMAGE)
    assert model.asked == 16
    columns = [5, 15, 25, 35]  # four points prompt each stripe; the whole image is too large
    assert sorted(mask.box_xyxy for mask in found) == [(x, 0, x + 5, 20) for x in columns]
    assert [mask.predicted_iou for mask in found] == sorted(
        (mask.predicted_iou for mask in found), reverse=True
    )
    for mask in found:
        x, y = mask.point_xy
        assert decode_rle(mask.rle)[int(y), int(x)]
        assert mask.area == decode_rle(mask.rle).sum() == 100
        assert mask.stability_score == 1
        assert mask.crop_xyxy == WHOLE


def test_several_threads_find_the_same_in_the_same_order() -> None:
    config = GeneratorConfig(points_per_side=6)
    alone = MaskGenerator(Striped(), config).generate(IMAGE)
    before = torch.get_num_threads()
    together = MaskGenerator(Striped(workers=3), config).generate(IMAGE)
    torch.set_num_threads(before)
    assert together == alone


def test_the_generators_limits_apply() -> None:
    base = GeneratorConfig(
        points_per_side=2, crop_layers=0, max_area=1.0, min_area=0, max_inside=1.0
    )

    def areas(config: GeneratorConfig) -> set[int]:
        return {mask.area for mask in MaskGenerator(Striped(), config).generate(IMAGE)}

    assert areas(base) == {100, 800, 1}
    assert areas(replace(base, max_area=0.9)) == {100, 1}
    assert areas(replace(base, min_area=2)) == {100, 800}
    assert areas(replace(base, min_region=2)) == {100, 800}
    assert areas(replace(base, min_predicted_iou=0.75)) == {100, 800}
    assert areas(replace(base, min_predicted_iou=0.95)) == set()
    assert areas(replace(base, stability_offset=6.0)) == set()
    assert areas(replace(base, max_box_iou=0.0)) == {100}


class Rough(Striped):
    """Predicts masks 5 wide, in one row of points 6 wide, with nearly equal scores: only full
    precision determines which score is higher, and which is above 0.5."""

    has_half = True

    def __init__(self) -> None:
        super().__init__()
        self.asked_exactly: list[tuple[float, float]] = []

    def candidates(
        self, embedding: Embedding, points_B2: Any, min_iou: float, *, half: bool = False
    ) -> Any:
        height = embedding.original_size[0]
        logits = torch.full((len(points_B2), 64, 64), -5.0)
        scores = torch.zeros(len(points_B2))
        for row, (x, y) in enumerate(points_B2):
            left, wide = int(x) // 10 * 10, y > 10
            logits[row, :height, left : left + (6 if wide else 5)] = 5.0
            # columns 0 and 10: uncertain order; 20: certain; 30: uncertain at the threshold
            exact = {0: 0.904, 10: 0.8, 20: 0.7, 30: 0.502}[left] - (0.003 if wide else 0)
            error = {0: 0.006, 10: 0.004, 20: 0.0, 30: 0.0}[left] * (1 if wide else -1)
            scores[row] = exact + (error if half else 0) - (0.1 if wide and left == 20 else 0)
            if left == 30 and half:
                scores[row] -= 0.005
        if not half:
            self.asked_exactly += [(float(x), float(y)) for x, y in points_B2]
        rows = torch.nonzero(scores > min_iou)[:, 0]
        return logits[rows], scores[rows], rows


def test_in_half_precision_the_same_masks_are_kept() -> None:
    config = GeneratorConfig(points_per_side=4, crop_layers=0)
    exact = MaskGenerator(Rough(), config).generate(IMAGE)
    assert [mask.area for mask in exact] == [100] * 4  # the narrower of each pair
    model = Rough()
    fast = MaskGenerator(model, replace(config, half=True)).generate(IMAGE)
    assert [(m.rle, m.predicted_iou) for m in fast][:2] == [
        (m.rle, m.predicted_iou) for m in exact
    ][:2]
    assert [mask.rle for mask in fast] == [mask.rle for mask in exact]
    assert {x for x, _ in model.asked_exactly} == {5.0, 15.0, 35.0}  # not the certain column


def test_windows_of_one_frame_are_compared_at_their_positions() -> None:
    frame = Frame(Embedding(torch.zeros(1), (64, 64), (64, 64)), 64, 64)

    def window(x: int, width: int) -> LogitWindow:
        logits = np.full((64, 64), -5.0, np.float32)
        logits[10:20, x : x + width] = 5
        found = frame.window(logits, -1.0)
        assert found is not None
        return found

    assert window(4, 10).iou(window(4, 10)) == 1
    assert window(4, 10).iou(window(9, 10)) == pytest.approx(50 / 150)
    assert window(4, 10).iou(window(40, 10)) == 0


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (1, 400), (30_000, 2)])
def test_tiny_images_and_strips_give_masks(size: tuple[int, int]) -> None:
    torch.manual_seed(3)
    model = Segmenter(build_sam("lite"), version="random", thresholds=Thresholds())
    config = GeneratorConfig(
        points_per_side=2, min_predicted_iou=0.0, min_stability=0.0, min_area=0, crop_layers=1
    )
    for mask in MaskGenerator(model, config).generate(np.full((*size, 3), 90, np.uint8)):
        assert mask.rle.size == size
        assert mask.area == decode_rle(mask.rle).sum() > 0
        assert np.isfinite([mask.predicted_iou, mask.stability_score]).all()


@torch.no_grad()
def test_a_model_with_nan_logits_gives_no_masks() -> None:
    torch.manual_seed(3)
    sam = build_sam("lite")
    sam.mask_decoder.output_hypernetworks_mlps[1].layers[-1].bias[:] = float("nan")
    sam.mask_decoder.output_hypernetworks_mlps[2].layers[-1].bias[:] = float("inf")
    model = Segmenter(sam, version="broken", thresholds=Thresholds())
    config = GeneratorConfig(points_per_side=2, min_predicted_iou=0.0, min_stability=0.0)
    for mask in MaskGenerator(model, config).generate(np.full((40, 50, 3), 90, np.uint8)):
        assert np.isfinite([mask.predicted_iou, mask.stability_score]).all()
    sam.mask_decoder.iou_prediction_head.layers[-1].bias[:] = float("nan")
    assert MaskGenerator(model, config).generate(np.full((40, 50, 3), 90, np.uint8)) == []


# run lengths of a window


@given(
    frame=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    seed=st.integers(0, 1000),
    share=st.floats(0, 1),
)
@settings(max_examples=80, deadline=None)
def test_a_windows_run_lengths_are_the_frames(
    frame: tuple[int, int], seed: int, share: float
) -> None:
    rng = np.random.default_rng(seed)
    top, left = rng.integers(0, frame[0]), rng.integers(0, frame[1])
    window = rng.random((rng.integers(1, frame[0] - top + 1), rng.integers(1, frame[1] - left + 1)))
    mask = np.zeros(frame, bool)
    mask[top : top + len(window), left : left + window.shape[1]] = window < share
    drawn = MaskWindow(window < share, int(left), int(top))
    assert drawn.rle(frame) == encode(mask)
    assert drawn.tight().rle(frame) == encode(mask)


# duplicates, fragments, specks


def rectangles(*boxes: tuple[int, int, int, int]) -> np.ndarray:
    found = np.zeros((64, 64), bool)
    for x0, y0, x1, y1 in boxes:
        found[y0:y1, x0:x1] = True
    return found


class Scripted(Striped):
    """Predicts given masks and scores for one point."""

    has_half = True

    def __init__(self, *answers: tuple[np.ndarray, float]) -> None:
        super().__init__()
        self.answers = answers

    def candidates(
        self, embedding: Embedding, points_B2: Any, min_iou: float, *, half: bool = False
    ) -> Any:
        masks = np.stack([mask for mask, _ in self.answers])
        scores = torch.tensor([score for _, score in self.answers])
        logits = torch.from_numpy(np.where(masks, 5.0, -5.0).astype(np.float32))
        rows = torch.nonzero(scores > min_iou)[:, 0]
        return logits[rows], scores[rows], torch.zeros(len(rows), dtype=torch.int64)


def generated(config: GeneratorConfig, *answers: tuple[np.ndarray, float]) -> list[np.ndarray]:
    model = Scripted(*answers)
    found = MaskGenerator(model, replace(config, points_per_side=1)).generate(
        np.zeros((64, 64, 3), np.uint8)
    )
    for mask in found:
        drawn = decode_rle(mask.rle)
        y, x = np.nonzero(drawn)
        assert mask.box_xyxy == (x.min(), y.min(), x.max() + 1, y.max() + 1)
        assert mask.area == drawn.sum()
    return [decode_rle(mask.rle) for mask in found]


WHOLE_THING = rectangles((8, 8, 40, 40))
DUSTY = rectangles((8, 8, 40, 40), (48, 48, 50, 50))
FRAGMENT = rectangles((10, 10, 20, 38))
FRAGMENT_OVER = rectangles((10, 10, 42, 20))  # a little of it outside
OTHER = rectangles((44, 8, 60, 40))
DOTS = np.zeros((64, 64), bool)
DOTS[4:60:6, 4:60:6] = DOTS[5:61:6, 4:60:6] = True
PINPRICKED = WHOLE_THING.copy()
PINPRICKED[12:38:8, 12:38:8] = False
RING = rectangles((8, 8, 40, 40)) & ~rectangles((16, 16, 32, 32))
SPLIT = rectangles((8, 8, 40, 22), (8, 26, 40, 40))


@pytest.mark.parametrize(
    ("answers", "kept"),
    [
        ([(WHOLE_THING, 0.9), (DUSTY, 0.8)], [WHOLE_THING]),  # a duplicate with a speck
        ([(DUSTY, 0.9), (OTHER, 0.8)], [WHOLE_THING, OTHER]),
        ([(PINPRICKED, 0.9)], [WHOLE_THING]),
        ([(WHOLE_THING, 0.9), (FRAGMENT, 0.8)], [WHOLE_THING]),
        ([(WHOLE_THING, 0.9), (FRAGMENT_OVER, 0.8)], [WHOLE_THING]),
        ([(FRAGMENT, 0.9), (WHOLE_THING, 0.8)], [FRAGMENT, WHOLE_THING]),  # a part
        ([(DOTS, 0.9), (OTHER, 0.8)], [OTHER]),
        ([(RING, 0.9)], [RING]),
        ([(SPLIT, 0.9)], [SPLIT]),
    ],
)
@pytest.mark.parametrize("name", ["default", "fast"])
def test_every_object_is_kept_once_and_whole(
    name: str, answers: list[tuple[np.ndarray, float]], kept: list[np.ndarray]
) -> None:
    found = generated(preset(name), *answers)
    assert len(found) == len(kept)
    assert all(np.array_equal(mask, wanted) for mask, wanted in zip(found, kept, strict=True))


def test_similar_candidates_are_averaged_into_one_mask() -> None:
    # each candidate lacks another corner
    bites = [(8, 8, 16, 16), (32, 8, 40, 16), (8, 32, 16, 40)]
    answers = [
        (WHOLE_THING & ~rectangles(bite), score)
        for bite, score in zip(bites, (0.9, 0.8, 0.7), strict=True)
    ]
    (averaged,) = generated(preset("default"), *answers, (FRAGMENT, 0.6))
    assert np.array_equal(averaged, WHOLE_THING)
    (best,) = generated(preset("default", average_iou=1.0), *answers)
    assert np.array_equal(best, answers[0][0])


def test_the_average_covers_what_lies_outside_the_best_candidates_window() -> None:
    wide, narrow = rectangles((8, 8, 60, 40)), rectangles((8, 8, 36, 40))
    answers = [(narrow, 0.9), (wide, 0.8), (wide, 0.8)]
    (averaged,) = generated(preset("default"), *answers)
    assert np.array_equal(averaged, wide)


@pytest.mark.parametrize("name", ["reference", "sa1b"])
def test_published_recipes_keep_specks_fragments_and_dots(name: str) -> None:
    answers = [(WHOLE_THING, 0.9), (DUSTY, 0.85), (FRAGMENT, 0.8), (DOTS, 0.7)]
    config = preset(name, crop_layers=0, min_region=0)
    assert [mask.sum() for mask in generated(config, *answers)] == [
        mask.sum() for mask, _ in answers
    ]
