"""Run lengths, boxes, grids, clicks and metrics, compared with slow and simple versions."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from pycocotools import mask as coco_mask

from engine.core import boxes, rle
from engine.core.clicks import center_point, depth, next_click
from engine.core.grids import point_grid
from engine.core.metrics import batch_iou, boundary_f, boundary_tolerance, iou, match
from engine.core.records import Prompt, Provenance, Source, Stage

MASKS = arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=16))
PAIRS = array_shapes(min_dims=2, max_dims=2, max_side=9).flatmap(
    lambda shape: st.tuples(arrays(bool, shape), arrays(bool, shape))
)
BOXES = st.lists(st.tuples(*[st.integers(0, 8)] * 4), min_size=0, max_size=8).map(
    lambda rows: np.array(rows, np.float64).reshape(-1, 4)
)


# run lengths


@given(MASKS)
def test_a_mask_survives_encoding_and_decoding(mask: np.ndarray) -> None:
    coded = rle.encode(mask)
    back = rle.decode(coded)
    assert coded.size == mask.shape
    assert back.dtype == np.bool_
    assert np.array_equal(back, mask)


@given(MASKS)
def test_area_and_box_are_those_of_the_set_pixels(mask: np.ndarray) -> None:
    coded = rle.encode(mask)
    assert rle.area(coded) == mask.sum()
    y, x = np.nonzero(mask)
    tight = (x.min(), y.min(), x.max() + 1, y.max() + 1) if len(x) else (0, 0, 0, 0)
    assert rle.box_xyxy(coded) == tight


def test_runs_go_down_the_columns_and_start_with_an_unset_run() -> None:
    mask = np.array([[0, 1, 0], [0, 1, 1]], bool)
    by_hand = coco_mask.frPyObjects({"size": [2, 3], "counts": [2, 2, 1, 1]}, 2, 3)
    assert rle.encode(mask).counts == by_hand["counts"]


@given(st.integers(0, 3), st.integers(1, 6), st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_a_batch_is_encoded_as_its_masks_one_by_one(n: int, h: int, w: int, seed: int) -> None:
    masks = np.random.default_rng(seed).random((n, h, w)) < 0.5
    assert rle.encode_batch(masks) == [rle.encode(mask) for mask in masks]


@pytest.mark.parametrize(
    "array", [np.zeros((3, 4), np.uint8), np.zeros(5, bool), np.zeros((1, 3, 4), bool)]
)
def test_only_a_bool_array_of_two_dimensions_is_encoded(array: np.ndarray) -> None:
    with pytest.raises(ValueError, match="2-D bool"):
        rle.encode(array)


@pytest.mark.parametrize("array", [np.zeros((2, 3, 4), np.uint8), np.zeros((3, 4), bool)])
def test_only_a_bool_array_of_three_dimensions_is_encoded_as_a_batch(array: np.ndarray) -> None:
    with pytest.raises(ValueError, match="3-D bool"):
        rle.encode_batch(array)


def test_counts_are_a_string_in_json_and_bytes_for_pycocotools() -> None:
    coded = rle.encode(np.eye(4, dtype=bool))
    assert coded.as_json() == {"size": [4, 4], "counts": coded.counts.decode()}
    assert coded.as_coco() == {"size": [4, 4], "counts": coded.counts}


@given(PAIRS)
def test_iou_of_run_lengths_is_iou_of_pixels(pair: tuple[np.ndarray, np.ndarray]) -> None:
    left, right = pair
    found = rle.iou_matrix([rle.encode(left), rle.encode(right)], [rle.encode(right)])
    assert found.shape == (2, 1)
    if left.any() or right.any():
        assert found[0, 0] == pytest.approx(iou(left, right))
    if right.any():
        assert found[1, 0] == 1


def test_iou_of_no_run_lengths_is_an_empty_matrix() -> None:
    one = [rle.encode(np.ones((2, 2), bool))]
    assert rle.iou_matrix([], one).shape == (0, 1)
    assert rle.iou_matrix(one, []).shape == (1, 0)


# boxes


def filled(box: np.ndarray) -> np.ndarray:
    canvas = np.zeros((8, 8), bool)
    x0, y0, x1, y1 = box.astype(int)
    canvas[y0:y1, x0:x1] = True
    return canvas


@given(BOXES, BOXES)
def test_iou_of_boxes_is_iou_of_their_pixels(left: np.ndarray, right: np.ndarray) -> None:
    found = boxes.iou_matrix(left, right)
    assert found.shape == (len(left), len(right))
    for i, a in enumerate(left):
        for j, b in enumerate(right):
            one, other = filled(a), filled(b)
            wanted = iou(one, other) if (one | other).any() else 0.0
            assert found[i, j] == pytest.approx(wanted)


@given(BOXES, st.data(), st.sampled_from([0.0, 0.3, 0.5, 0.7, 1.0]))
def test_suppression_keeps_what_a_plain_loop_keeps(
    found: np.ndarray, data: st.DataObject, max_iou: float
) -> None:
    scores = np.array(
        data.draw(st.lists(st.integers(0, 4), min_size=len(found), max_size=len(found)))
    )
    ratio = boxes.iou_matrix(found, found)
    kept: list[int] = []
    for index in sorted(range(len(found)), key=lambda i: -scores[i]):
        if all(ratio[index, other] <= max_iou for other in kept):
            kept.append(index)
    assert boxes.nms(found, scores, max_iou).tolist() == kept


def test_of_equal_scores_the_first_box_stays() -> None:
    same = np.array([[0, 0, 4, 4], [0, 0, 4, 4], [0, 0, 4, 4]])
    assert boxes.nms(same, np.array([0.5, 0.9, 0.9]), 0.5).tolist() == [1]


def test_a_box_at_the_limit_stays() -> None:
    half = np.array([[0, 0, 2, 2], [0, 0, 2, 1]])
    assert boxes.nms(half, np.array([1.0, 0.5]), 0.5).tolist() == [0, 1]
    assert boxes.nms(half, np.array([1.0, 0.5]), 0.49).tolist() == [0]


# grids


def test_grid_points_are_cell_centres_row_by_row() -> None:
    wanted = [[5, 2.5], [15, 2.5], [5, 7.5], [15, 7.5]]
    assert point_grid(2, (10, 20)).tolist() == wanted


def test_a_grid_of_no_points_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        point_grid(0, (10, 20))


# clicks


@given(MASKS)
@settings(max_examples=50)
def test_depth_is_the_distance_to_the_nearest_unset_pixel(mask: np.ndarray) -> None:
    unset = np.argwhere(~np.pad(mask, 1)) - 1
    found = depth(mask)
    for y, x in np.ndindex(mask.shape):
        wanted = min(math.hypot(y - v, x - u) for v, u in unset)
        assert found[y, x] == pytest.approx(wanted, abs=1e-4)


def test_the_frame_counts_as_an_edge() -> None:
    assert center_point(np.ones((5, 9), bool))[1] == 2
    assert depth(np.ones((5, 9), bool))[0].max() == 1


@given(MASKS)
def test_the_centre_is_the_deepest_pixel_inside(mask: np.ndarray) -> None:
    if not mask.any():
        with pytest.raises(ValueError, match="empty mask"):
            center_point(mask)
        return
    x, y = center_point(mask)
    assert mask[y, x]
    assert depth(mask)[y, x] == depth(mask).max()


@given(PAIRS)
def test_a_corrective_click_is_in_the_error_with_its_label(
    pair: tuple[np.ndarray, np.ndarray],
) -> None:
    found, wanted = pair
    click = next_click(found, wanted)
    if click is None:
        assert np.array_equal(found, wanted)
        return
    (x, y), label = click
    assert found[y, x] != wanted[y, x]
    assert label == wanted[y, x]
    deepest = max(depth(wanted & ~found).max(), depth(found & ~wanted).max())
    assert depth(wanted & ~found if label else found & ~wanted)[y, x] == deepest


def test_of_equally_deep_errors_the_false_negative_is_clicked() -> None:
    found, wanted = np.zeros((3, 9), bool), np.zeros((3, 9), bool)
    found[:, :3] = True
    wanted[:, 6:] = True
    assert next_click(found, wanted) == ((7, 1), 1)


# metrics


@given(PAIRS)
def test_iou_counts_pixels(pair: tuple[np.ndarray, np.ndarray]) -> None:
    left, right = pair
    shared = sum(a and b for a, b in zip(left.flat, right.flat, strict=True))
    either = sum(a or b for a, b in zip(left.flat, right.flat, strict=True))
    assert iou(left, right) == (shared / either if either else 1.0)
    assert batch_iou(np.stack([left, left]), np.stack([right, left])).tolist() == [
        iou(left, right),
        1.0,
    ]


def test_matching_takes_the_best_pair_first_and_each_mask_once() -> None:
    table = np.array([[0.8, 0.9, 0.0], [0.6, 0.85, 0.5]])
    before = table.copy()
    assert match(table, 0.5) == [(0, 1), (1, 0)]
    assert np.array_equal(table, before)


def test_a_pair_at_the_limit_is_matched_and_one_below_is_not() -> None:
    assert match(np.array([[0.5]]), 0.5) == [(0, 0)]
    assert match(np.array([[0.49]]), 0.5) == []


def test_disjoint_masks_are_never_matched() -> None:
    assert match(np.zeros((2, 2)), 0.0) == []
    assert match(np.zeros((0, 2)), 0.0) == []


# prompts


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({}, "needs points or a box"),
        ({"labels": np.ones(1)}, "needs points or a box"),
        ({"points_xy": np.zeros((1, 2))}, "both points and labels"),
        ({"box_xyxy": np.zeros(4), "labels": np.ones(1)}, "both points and labels"),
        ({"points_xy": np.zeros(2), "labels": np.ones(1)}, r"shape \(N, 2\)"),
        ({"points_xy": np.zeros((1, 3)), "labels": np.ones(1)}, r"shape \(N, 2\)"),
        ({"points_xy": np.zeros((2, 2)), "labels": np.ones(1)}, r"shape \(2,\)"),
        ({"box_xyxy": np.zeros((1, 4))}, r"shape \(4,\)"),
    ],
)
def test_a_prompt_of_the_wrong_form_is_refused(fields: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Prompt(**fields)


# outlines


def square(size: int, shift: int = 0) -> np.ndarray:
    mask = np.zeros((30, 30), bool)
    mask[4 : 4 + size, 4 + shift : 4 + shift + size] = True
    return mask


def test_outlines_within_the_tolerance_are_equal() -> None:
    assert boundary_f(square(20), square(20, 2), 2) == 1
    assert boundary_f(square(20), square(20), 0) == 1
    # moved by 3: two sides match nothing except near the corners
    assert boundary_f(square(20), square(20, 3), 2) == pytest.approx((76 - 20 - 14) / 76)


def test_boundary_f_balances_precision_and_recall() -> None:
    half = square(20)
    half[4:24, 14:] = False  # its outline is the left half, and a cut that is not in the truth
    found = boundary_f(half, square(20), 0)
    shared = 10 + 10 + 18
    precision, recall = shared / 56, shared / 76
    assert found == pytest.approx(2 * precision * recall / (precision + recall))


def test_an_empty_mask_has_no_outline() -> None:
    empty = np.zeros((5, 5), bool)
    assert boundary_f(empty, empty, 2) == 1
    assert boundary_f(empty, np.ones((5, 5), bool), 9) == 0


def test_the_frame_is_an_outline() -> None:
    full, hole = np.ones((9, 9), bool), np.ones((9, 9), bool)
    assert boundary_f(full, full, 0) == 1
    hole[4, 4] = False  # eight more outline pixels
    assert boundary_f(full, hole, 0) == pytest.approx(2 * (32 / 40) / (1 + 32 / 40))


@given(PAIRS, st.floats(0, 4))
def test_boundary_f_is_that_of_all_pairs_of_outline_pixels(
    pair: tuple[np.ndarray, np.ndarray], tolerance: float
) -> None:
    edges = []
    for mask in pair:
        around = np.pad(mask, 1)
        inside = [
            around[1 + dy : 1 + dy + mask.shape[0], 1 + dx : 1 + dx + mask.shape[1]]
            for dy in (-1, 0, 1)
            for dx in (-1, 0, 1)
        ]
        edges.append(np.argwhere(mask & ~np.all(inside, axis=0)))
    found = boundary_f(*pair, tolerance)
    assert found == boundary_f(*pair[::-1], tolerance)
    if len(edges[0]) and len(edges[1]):
        apart = np.linalg.norm(edges[0][:, None] - edges[1][None], axis=2)
        near = apart <= tolerance + 1e-6
        shares = near.any(axis=1).mean(), near.any(axis=0).mean()
        wanted = 2 * shares[0] * shares[1] / max(sum(shares), 1e-9)
        assert found == pytest.approx(wanted) or math.isclose(
            np.abs(apart - tolerance).min(), 0, abs_tol=1e-4
        )


def test_the_tolerance_is_a_share_of_the_diagonal_and_at_least_two_pixels() -> None:
    assert boundary_tolerance((300, 400)) == pytest.approx(4)
    assert boundary_tolerance((30, 40)) == 2


def test_a_new_mask_says_where_it_comes_from_and_has_the_area_and_box_of_its_pixels() -> None:
    pixels = np.zeros((8, 10), bool)
    pixels[2:5, 3:9] = True
    origin = Provenance(
        dataset="d", stage=Stage.SEMI_AUTOMATIC, run_id="r", model="lite", source=Source.PREFILL
    )
    mask = origin.mask(7, "first", rle.encode(pixels), supersedes="old/7/0")
    assert (mask.mask_id, mask.image_id, mask.run_id) == ("r/7/first", 7, "r")
    assert (mask.source, mask.stage, mask.model) == (Source.PREFILL, Stage.SEMI_AUTOMATIC, "lite")
    assert (mask.area, mask.box_xyxy, mask.supersedes) == (18, (3, 2, 9, 5), "old/7/0")
    assert mask.created_at.utcoffset() is not None
