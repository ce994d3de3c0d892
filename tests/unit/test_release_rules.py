"""Which masks a release accepts."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from engine.core import rle as rle_codec
from engine.core.boxes import masks_may_overlap
from flows.release.rules import in_order, without_repeats
from storage.release_files import MASKS_SCHEMA
from tests.unit.test_release_diff import mask_row

MASKS = st.lists(
    hnp.arrays(bool, (5, 6), fill=st.just(True)).filter(lambda mask: bool(mask.any())), max_size=7
)
IOUS = st.sampled_from([0.3, 0.5, 0.7, 1.0])


def rows_of(masks: list[np.ndarray], sources: list[str], images: list[int]) -> pa.Table:
    """Rows of these masks, with falling scores."""
    rows = []
    for n, (mask, source, image) in enumerate(zip(masks, sources, images, strict=False)):
        rle = rle_codec.encode(mask)
        x0, y0, x1, y1 = rle_codec.box_xyxy(rle)
        rows.append(
            mask_row(str(n), image, source=source)
            | {"height": 5, "width": 6, "counts": rle.counts, "area": int(mask.sum())}
            | {"bbox_x": x0, "bbox_y": y0, "bbox_w": x1 - x0, "bbox_h": y1 - y0}
            | {"predicted_iou": 1 - n / 100}
        )
    return pa.Table.from_pylist(rows, MASKS_SCHEMA)


def iou(left: np.ndarray, right: np.ndarray) -> float:
    return float((left & right).sum() / (left | right).sum())


@settings(deadline=None)
@given(MASKS, st.data(), IOUS)
def test_an_automatic_mask_that_repeats_a_kept_one_is_left_out(
    masks: list[np.ndarray], data: st.DataObject, least: float
) -> None:
    kinds = st.tuples(st.sampled_from(["automatic", "annotator"]), st.integers(1, 2))
    drawn = data.draw(st.lists(kinds, min_size=len(masks), max_size=len(masks)))
    sources, images = [source for source, _ in drawn], [image for _, image in drawn]
    rows = rows_of(masks, sources, images)
    expected: list[int] = []
    for row in in_order(rows).select(["mask_id", "image_id", "source"]).to_pylist():
        mine = int(row["mask_id"])
        earlier = [n for n in expected if images[n] == row["image_id"]]
        repeats = any(iou(masks[n], masks[mine]) >= least for n in earlier)
        if row["source"] != "automatic" or not repeats:
            expected.append(mine)
    found = without_repeats(rows, least).column("mask_id").to_pylist()
    assert found == list(map(str, expected))


@settings(deadline=None)
@given(MASKS, IOUS)
def test_no_pair_that_overlaps_enough_is_missed(masks: list[np.ndarray], least: float) -> None:
    coded = [rle_codec.encode(mask) for mask in masks]
    boxes = np.array([rle_codec.box_xyxy(one) for one in coded], np.int64).reshape(-1, 4)
    areas = np.array([mask.sum() for mask in masks], np.int64)
    may = masks_may_overlap(boxes, areas, boxes, areas, least)
    for n, left in enumerate(masks):
        for m, right in enumerate(masks):
            assert may[n, m] or iou(left, right) < least
