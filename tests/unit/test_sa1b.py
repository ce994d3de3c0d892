"""SA-1B's JSON: its exact fields, round trips, and error messages for invalid files."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as coco_mask

from engine.core import rle
from engine.core.records import Mask, Source, Stage
from storage.formats.coco import BadAnnotationsError
from storage.formats.pages import page_of
from storage.formats.sa1b import read_sa1b, sa1b_texts, write_sa1b

SIZE = (20, 30)
PIXELS = np.zeros(SIZE, bool)
PIXELS[4:12, 5:15] = True


def mask_of(pixels_HW: np.ndarray, **fields: Any) -> Mask:
    coded = rle.encode(pixels_HW)
    return Mask(
        mask_id="m",
        image_id=1,
        dataset="d",
        stage=Stage.FULLY_AUTOMATIC,
        round=0,
        run_id="r",
        shard=0,
        model=None,
        source=Source.AUTOMATIC,
        rle=coded,
        area=rle.area(coded),
        box_xyxy=rle.box_xyxy(coded),
        created_at=datetime(2024, 1, 1, tzinfo=UTC),
        **fields,
    )


def scored() -> Mask:
    return mask_of(
        PIXELS,
        predicted_iou=0.98,
        stability_score=0.96,
        point_xy=(7.5, 6.0),
        crop_xyxy=(2, 3, 22, 18),
    )


def sa1b_record(
    image_id: int,
    file_name: str,
    height: int,
    width: int,
    masks: list[Mask],
    missing_score: float | None = None,
) -> dict[str, Any]:
    image = {"image_id": image_id, "file_name": file_name, "height": height, "width": width}
    (text,) = sa1b_texts(page_of(image, masks), missing_score=missing_score).to_pylist()
    found: dict[str, Any] = json.loads(text)
    return found


def test_a_record_has_sa1bs_fields_and_no_others() -> None:
    record = sa1b_record(7, "sa_7.jpg", *SIZE, [scored()])
    assert record == {
        "image": {"image_id": 7, "width": 30, "height": 20, "file_name": "sa_7.jpg"},
        "annotations": [
            {
                "id": 1,
                "segmentation": rle.encode(PIXELS).as_json(),
                "bbox": [5, 4, 10, 8],
                "area": 80,
                "predicted_iou": 0.98,
                "stability_score": 0.96,
                "crop_box": [2, 3, 20, 15],
                "point_coords": [[7.5, 6.0]],
            }
        ],
    }


def test_a_persons_mask_has_every_field_with_null_for_scores_nobody_computed() -> None:
    (annotation,) = sa1b_record(7, "sa_7.jpg", *SIZE, [mask_of(PIXELS)])["annotations"]
    assert annotation["predicted_iou"] is None
    assert annotation["stability_score"] is None
    assert annotation["crop_box"] == [0, 0, 30, 20]
    ((x, y),) = annotation["point_coords"]
    assert PIXELS[int(y), int(x)]


def test_a_reader_that_needs_numbers_can_be_given_some() -> None:
    masks = [mask_of(PIXELS), scored()]
    first, second = sa1b_record(7, "a.jpg", *SIZE, masks, missing_score=1.0)["annotations"]
    assert (first["predicted_iou"], first["stability_score"]) == (1.0, 1.0)
    assert (second["predicted_iou"], second["stability_score"]) == (0.98, 0.96)


def test_numbers_from_numpy_become_json_numbers() -> None:
    mask = mask_of(
        PIXELS,
        predicted_iou=np.float32(0.5),
        point_xy=(np.float64(3), np.int64(4)),
        crop_xyxy=tuple(np.array([0, 0, 30, 20])),
    )
    record = sa1b_record(7, "a.jpg", *SIZE, [mask])
    assert json.loads(json.dumps(record)) == record


@settings(max_examples=60, deadline=None)
@given(arrays(np.bool_, st.tuples(st.integers(1, 12), st.integers(1, 12))).filter(np.any))
def test_the_point_of_a_mask_without_one_is_always_inside_it(pixels_HW: np.ndarray) -> None:
    height, width = pixels_HW.shape
    record = sa1b_record(1, "a.jpg", height, width, [mask_of(pixels_HW)])
    ((x, y),) = record["annotations"][0]["point_coords"]
    assert pixels_HW[int(y), int(x)]


def test_a_mask_of_another_size_or_a_score_that_is_no_number_is_refused() -> None:
    with pytest.raises(ValueError, match="mask m has size"):
        sa1b_record(1, "a.jpg", 30, 20, [mask_of(PIXELS)])
    with pytest.raises(ValueError, match="finite"):
        sa1b_record(1, "a.jpg", *SIZE, [mask_of(PIXELS, predicted_iou=float("nan"))])


SCORES = st.none() | st.floats(0, 1)
MASKS = st.builds(
    mask_of,
    arrays(np.bool_, SIZE).filter(np.any),
    predicted_iou=SCORES,
    stability_score=SCORES,
    point_xy=st.tuples(st.floats(0, 30), st.floats(0, 20)),
    crop_xyxy=st.just((0, 0, 30, 20)) | st.just((3, 4, 20, 18)),
)


@settings(max_examples=40, deadline=None)
@given(masks=st.lists(MASKS, max_size=4))
def test_what_was_written_is_read_back(
    masks: list[Mask], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("sa1b") / "sa_7.json"
    write_sa1b(path, 7, "sa_7.jpg", *SIZE, masks)
    image = read_sa1b(path)
    assert (image.image_id, image.file_name) == (7, "sa_7.jpg")
    assert (image.height, image.width) == SIZE
    assert [mask.annotation_id for mask in image.masks] == list(range(1, len(masks) + 1))
    for found, mask in zip(image.masks, masks, strict=True):
        assert (found.rle, found.area, found.box_xyxy) == (mask.rle, mask.area, mask.box_xyxy)
        assert found.predicted_iou == mask.predicted_iou
        assert found.stability_score == mask.stability_score
        assert found.points_xy == (mask.point_xy,)
        assert found.crop_xyxy == mask.crop_xyxy
    assert read_sa1b(path.read_bytes()) == read_sa1b(str(path)) == image


def test_pycocotools_reads_the_masks() -> None:
    record = json.loads(json.dumps(sa1b_record(7, "sa_7.jpg", *SIZE, [scored()])))
    annotation = record["annotations"][0]
    assert coco_mask.area(annotation["segmentation"]) == annotation["area"]
    assert coco_mask.toBbox(annotation["segmentation"]).tolist() == annotation["bbox"]


def test_a_file_as_meta_released_them_is_read() -> None:
    record = sa1b_record(7, "sa_7.jpg", *SIZE, [scored()])
    annotation = record["annotations"][0]
    annotation["id"] = 523353737
    annotation["bbox"] = [5.0, 4.0, 9.0, 7.0]  # inclusive edges
    annotation["crop_box"] = [0.0, 0.0, 30.0, 20.0]
    (mask,) = read_sa1b(json.dumps(record).encode()).masks
    assert mask.annotation_id == 523353737
    assert mask.box_xyxy == (5, 4, 15, 12)
    assert mask.crop_xyxy == (0, 0, 30, 20)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "sa_1.json"
    path.write_text("old")
    with pytest.raises(ValueError, match="size"):
        write_sa1b(path, 1, "a.jpg", 9, 9, [scored()])
    assert [file.name for file in tmp_path.iterdir()] == ["sa_1.json"]
    assert path.read_text() == "old"


def set_to(*keys: Any, value: Any) -> Callable[[Any], None]:
    def change(record: Any) -> None:
        for key in keys[:-1]:
            record = record[key]
        record[keys[-1]] = value

    return change


FIRST = ("annotations", 0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (set_to("image", value=None), "an object 'image'"),
        (set_to("annotations", value={}), "a list 'annotations'"),
        (set_to("image", "width", value="30"), "'width' must be an integer"),
        (set_to("image", "height", value=0), "at least 1"),
        (set_to("image", "image_id", value=None), "'image_id' must be an integer"),
        (set_to("image", "file_name", value=""), "no 'file_name'"),
        (set_to("image", "height", value=21), "its mask is (20, 30) pixels (H, W)"),
        (set_to(*FIRST, value=[]), "annotation number 0: expected an object, got a list"),
        (set_to(*FIRST, "id", value=None), "annotation number 0: 'id' must be"),
        (set_to(*FIRST, "segmentation", value=[[1, 2, 3, 4, 5, 6]]), "expected an RLE object"),
        (set_to(*FIRST, "segmentation", "counts", value="0"), "do not fill"),
        (set_to(*FIRST, "predicted_iou", value="high"), "predicted_iou must hold numbers"),
        (set_to(*FIRST, "stability_score", value=float("nan")), "finite"),
        (set_to(*FIRST, "crop_box", value=[1, 2]), "crop_box must hold 4 numbers"),
        (set_to(*FIRST, "point_coords", value=[[1]]), "point_coords must hold 2 numbers"),
        (set_to(*FIRST, "point_coords", value="x"), "must be a list of points"),
    ],
)
def test_a_bad_file_is_named_with_what_is_wrong(
    change: Callable[[Any], None], words: str, tmp_path: Path
) -> None:
    record = copy.deepcopy(sa1b_record(7, "sa_7.jpg", *SIZE, [scored()]))
    change(record)
    path = tmp_path / "sa_7.json"
    path.write_text(json.dumps(record))
    with pytest.raises(BadAnnotationsError) as caught:
        read_sa1b(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert words in str(caught.value)


def test_missing_scores_points_and_crops_are_no_fault() -> None:
    record = sa1b_record(7, "sa_7.jpg", *SIZE, [scored()])
    for key in ("predicted_iou", "stability_score", "crop_box", "point_coords", "bbox", "area"):
        del record["annotations"][0][key]
    (mask,) = read_sa1b(json.dumps(record).encode()).masks
    assert (mask.predicted_iou, mask.stability_score, mask.points_xy) == (None, None, ())
    assert (mask.crop_xyxy, mask.area) == ((0, 0, 30, 20), 80)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"\xff\xfe"])
def test_bytes_that_are_no_json_object_are_refused(data: bytes) -> None:
    with pytest.raises(BadAnnotationsError, match="SA-1B file: "):
        read_sa1b(data)
