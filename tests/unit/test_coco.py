"""COCO import and export: round trips, faulty files of other tools, and comparison with
pycocotools."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from engine.core import rle
from engine.core.records import Mask, Source, Stage
from storage.formats.coco import BadAnnotationsError, CocoDataset, read_coco
from storage.formats.coco_writer import CocoWriter
from storage.formats.segmentation import rle_from_json, rle_from_polygons, run_lengths

SIZE = (20, 30)
SQUARE = [5, 4, 15, 4, 15, 12, 5, 12]


def mask_of(pixels_HW: np.ndarray, mask_id: str = "m", **fields: Any) -> Mask:
    coded = rle.encode(pixels_HW)
    return Mask(
        mask_id=mask_id,
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


def rectangle(top: int, left: int, bottom: int, right: int, size: tuple[int, int]) -> np.ndarray:
    pixels = np.zeros(size, bool)
    pixels[top:bottom, left:right] = True
    return pixels


PIXELS = rectangle(4, 5, 12, 15, SIZE)


def dataset_of(*annotations: Any, tmp_path: Path, images: Any = None) -> CocoDataset:
    """Read a file with one 20 x 30 image a.jpg and these annotations."""
    if images is None:
        images = [{"id": 1, "file_name": "a.jpg", "height": SIZE[0], "width": SIZE[1]}]
    numbered = [{"id": n, "image_id": 1, **a} for n, a in enumerate(annotations, start=1)]
    path = tmp_path / "instances.json"
    path.write_text(json.dumps({"images": images, "annotations": numbered}))
    return read_coco(path)


def only_problem(segmentation: Any, tmp_path: Path, **fields: Any) -> str:
    data = dataset_of({"segmentation": segmentation, **fields}, tmp_path=tmp_path)
    masks, problems = data.masks_for("a.jpg", SIZE)
    assert masks == []
    assert len(problems) == 1
    assert problems[0].startswith("annotation 1: ")
    return problems[0]


# --- segmentations of every kind ---


@pytest.mark.parametrize(
    "segmentation",
    [
        [SQUARE],
        SQUARE,  # some tools omit the outer list
        rle.encode(PIXELS).as_json(),
        {"size": list(SIZE), "counts": run_lengths(rle.encode(PIXELS)).tolist()},
    ],
    ids=["polygon", "bare polygon", "compressed RLE", "uncompressed RLE"],
)
def test_every_kind_of_segmentation_gives_the_same_mask(segmentation: Any, tmp_path: Path) -> None:
    data = dataset_of({"segmentation": segmentation}, tmp_path=tmp_path)
    assert data.masks_for("a.jpg", SIZE) == ([rle.encode(PIXELS)], [])


def test_several_polygons_of_one_annotation_are_one_mask(tmp_path: Path) -> None:
    other = [20, 15, 25, 15, 25, 18, 20, 18]
    no_area = [1, 1, 2, 2]  # COCO's own files have such: two corners
    data = dataset_of({"segmentation": [SQUARE, other, no_area]}, tmp_path=tmp_path)
    masks, problems = data.masks_for("a.jpg", SIZE)
    assert problems == []
    expected = PIXELS | rectangle(15, 20, 18, 25, SIZE)
    np.testing.assert_array_equal(rle.decode(masks[0]), expected)


def test_a_crowd_is_no_object(tmp_path: Path) -> None:
    assert "crowd" in only_problem(rle.encode(PIXELS).as_json(), tmp_path, iscrowd=1)


@pytest.mark.parametrize("segmentation", [None, [], {}])
def test_an_annotation_without_segmentation_is_dropped(segmentation: Any, tmp_path: Path) -> None:
    assert "no segmentation" in only_problem(segmentation, tmp_path)


def test_a_mask_of_another_size_is_dropped(tmp_path: Path) -> None:
    wrong = rle.encode(np.ones((30, 20), bool)).as_json()
    problem = only_problem(wrong, tmp_path)
    assert "30 x 20 pixels (H x W), the image file 20 x 30" in problem
    assert "EXIF" in problem


def test_polygons_drawn_on_an_image_of_another_size_are_dropped(tmp_path: Path) -> None:
    data = dataset_of({"segmentation": [SQUARE]}, tmp_path=tmp_path)
    masks, problems = data.masks_for("a.jpg", (40, 60))
    assert masks == []
    assert "20 x 30 pixels (H x W), the image file 40 x 60" in problems[0]


def test_a_file_that_does_not_say_how_large_the_image_is_is_believed(tmp_path: Path) -> None:
    data = dataset_of(
        {"segmentation": [SQUARE]}, tmp_path=tmp_path, images=[{"id": 1, "file_name": "a.jpg"}]
    )
    assert data.masks_for("a.jpg", SIZE) == ([rle.encode(PIXELS)], [])


@pytest.mark.parametrize(
    ("segmentation", "words"),
    [
        ({"size": [20, 30], "counts": [600]}, "empty mask"),
        ({"size": [20, 30], "counts": [0, 700]}, "do not fill"),
        ({"size": [20, 30], "counts": [0, 599]}, "do not fill"),
        ({"size": [20, 30], "counts": [-1, 601]}, "at least 0"),
        ({"size": [20, 30], "counts": [1.5, 598.5]}, "at least 0"),
        ({"size": [20, 30], "counts": []}, "do not fill"),
        ({"size": [20, 30], "counts": ""}, "empty"),
        ({"size": [20, 30], "counts": "ooooo"}, "cut off"),
        ({"size": [20, 30], "counts": "héé"}, "ASCII"),
        ({"size": [20, 30], "counts": "\x01\x02"}, "characters"),
        ({"size": [20, 30], "counts": "oooooooo0"}, "32 bits"),
        ({"size": [20, 30]}, "got a null"),
        ({"counts": "0"}, "size"),
        ({"size": [20, -30], "counts": "0"}, "positive"),
        ({"size": "big", "counts": "0"}, "size"),
        ({"size": [2**31, 2**31], "counts": "0"}, "32-bit"),
        ("a mask", "is a string"),
        ([[1, 2, 3]], "list of x, y"),
        ([[1, 2, 3, 4, "5", 6]], "not a number"),
        ([[1, 2, 3, 4, float("nan"), 6]], "not a pixel coordinate"),
        ([[1, 2, 3, 4, 1e300, 6]], "not a pixel coordinate"),
        ([[1, 2, 3, 4]], "three corners"),
        ([[3, 3, 3, 3, 3, 3]], "empty mask"),
        ([[100, 5, 120, 5, 120, 9]], "empty mask"),
        ([[-40, -40, -9, -40, -9, -4]], "empty mask"),
        ([{"x": 1}], "list of x, y"),
    ],
)
def test_bad_masks_are_dropped_with_their_reason(
    segmentation: Any, words: str, tmp_path: Path
) -> None:
    assert words in only_problem(segmentation, tmp_path)


def test_a_bad_annotation_does_not_cost_the_good_ones(tmp_path: Path) -> None:
    data = dataset_of({"segmentation": "?"}, {"segmentation": [SQUARE]}, tmp_path=tmp_path)
    masks, problems = data.masks_for("a.jpg", SIZE)
    assert masks == [rle.encode(PIXELS)]
    assert len(problems) == 1


def test_a_polygon_that_leaves_the_image_is_clipped(tmp_path: Path) -> None:
    data = dataset_of({"segmentation": [[-8, -6, 10, -6, 10, 5, -8, 5]]}, tmp_path=tmp_path)
    masks, _ = data.masks_for("a.jpg", SIZE)
    np.testing.assert_array_equal(rle.decode(masks[0]), rectangle(0, 0, 5, 10, SIZE))


def test_a_polygon_with_gigantic_corners_takes_no_memory_and_covers_the_image() -> None:
    far = 1e14
    found = rle_from_polygons([[-far, -far, far, -far, far, far, -far, far]], SIZE)
    assert rle.area(found) == SIZE[0] * SIZE[1]


CORNER = st.tuples(st.floats(-60, 90), st.floats(-60, 90))


@settings(max_examples=60, deadline=None)
@given(st.lists(CORNER, min_size=3, max_size=8))
def test_cutting_far_polygons_changes_hardly_any_pixel(corners: list[tuple[float, float]]) -> None:
    ring = [value for corner in corners for value in corner]
    plain = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects([ring], *SIZE)))
    try:
        found = rle.decode(rle_from_polygons([ring], SIZE))
    except ValueError:
        found = np.zeros(SIZE, bool)
    assert (found != plain.astype(bool)).sum() <= 6 * len(corners)


@settings(max_examples=100, deadline=None)
@given(arrays(np.bool_, st.tuples(st.integers(1, 40), st.integers(1, 40))))
def test_run_lengths_are_those_of_the_pixels(pixels_HW: np.ndarray) -> None:
    coded = rle.encode(pixels_HW)
    runs = run_lengths(coded)
    values = np.repeat(np.arange(len(runs)) % 2, runs)
    np.testing.assert_array_equal(values.reshape(pixels_HW.shape[::-1]).T, pixels_HW)
    assert rle_from_json(coded.as_json()) == coded
    assert rle_from_json({"size": list(coded.size), "counts": runs.tolist()}) == coded


def test_long_runs_survive(tmp_path: Path) -> None:
    counts = [3, 2**24, 1, 2**25, 2**26 - 3 - 1 - 2**24 - 2**25]
    found = rle_from_json({"size": [2**13, 2**13], "counts": counts})
    assert run_lengths(found).tolist() == counts
    assert rle.area(found) == 2**24 + 2**25


def test_empty_runs_are_merged_so_that_boxes_are_right() -> None:
    found = rle_from_json({"size": [4, 4], "counts": [5, 1, 0, 2, 3, 0, 5]})
    assert run_lengths(found).tolist() == [5, 3, 8]
    assert rle.box_xyxy(found) == rle.box_xyxy(rle.encode(rle.decode(found)))


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet=[chr(code) for code in range(48, 112)], max_size=12))
def test_made_up_counts_never_reach_pycocotools_unless_they_fit(counts: str) -> None:
    try:
        found = rle_from_json({"size": [4, 5], "counts": counts})
    except ValueError:
        return
    assert rle.decode(found).shape == (4, 5)


# --- matching images ---


def images_named(*names: str) -> list[dict[str, Any]]:
    return [
        {"id": n, "file_name": name, "height": SIZE[0], "width": SIZE[1]}
        for n, name in enumerate(names, start=1)
    ]


def file_with(tmp_path: Path, *names: str) -> Path:
    """One annotation per image: for image n a mask of n pixels."""
    annotations = []
    for n in range(1, len(names) + 1):
        coded = rle.encode(rectangle(0, 0, 1, n, SIZE)).as_json()
        annotations.append({"id": n, "image_id": n, "segmentation": coded})
    path = tmp_path / "instances.json"
    path.write_text(json.dumps({"images": images_named(*names), "annotations": annotations}))
    return path


def areas(data: CocoDataset, name: str) -> list[int]:
    masks, problems = data.masks_for(name, SIZE)
    assert problems == []
    return [rle.area(mask) for mask in masks]


def test_the_full_path_wins_over_the_base_name(tmp_path: Path) -> None:
    data = read_coco(file_with(tmp_path, "x/a.jpg", "a.jpg", "y\\b.jpg", "./c.jpg"))
    assert areas(data, "a.jpg") == [2]
    assert areas(data, "x/a.jpg") == [1]
    assert areas(data, "y/b.jpg") == [3]
    assert areas(data, "c.jpg") == [4]


def test_the_base_name_decides_where_folders_differ(tmp_path: Path) -> None:
    data = read_coco(file_with(tmp_path, "train2017/a.jpg", "b.jpg"))
    assert areas(data, "images/a.jpg") == [1]
    assert areas(data, "deep/down/b.jpg") == [2]


def test_a_base_name_of_several_images_is_a_problem_not_a_guess(tmp_path: Path) -> None:
    data = read_coco(file_with(tmp_path, "x/a.jpg", "y/a.jpg"))
    masks, problems = data.masks_for("z/a.jpg", SIZE)
    assert masks == []
    assert problems == ["2 annotated images are named a.jpg: which is meant?"]


def test_two_files_never_share_one_images_masks_if_the_files_are_known(tmp_path: Path) -> None:
    path = file_with(tmp_path, "x/a.jpg", "b.jpg")
    data = read_coco(path, ["x/a.jpg", "y/a.jpg", "1/b.jpg", "2/b.jpg"])
    assert areas(data, "x/a.jpg") == [1]
    assert areas(data, "y/a.jpg") == []
    assert data.masks_for("1/b.jpg", SIZE) == (
        [],
        ["2 files are named b.jpg, but one image is annotated"],
    )


def test_names_from_a_mac_match(tmp_path: Path) -> None:
    data = read_coco(file_with(tmp_path, "u\u0308ber.jpg"))
    assert areas(data, "\u00fcber.jpg") == [1]


def test_images_without_a_file_are_missing_and_files_without_an_image_have_no_masks(
    tmp_path: Path,
) -> None:
    on_disk = ["a.jpg", "sub/b.jpg", "extra.jpg"]
    data = read_coco(file_with(tmp_path, "x/a.jpg", "b.jpg", "gone.jpg"), on_disk)
    assert data.missing() == ["gone.jpg"]
    assert data.masks_for("extra.jpg", SIZE) == ([], [])


# --- invalid files, and annotations without an image ---


def test_annotations_of_unknown_images_are_problems_of_the_file(tmp_path: Path) -> None:
    data = dataset_of(
        {"segmentation": [SQUARE], "image_id": 99}, {"image_id": [1]}, {}, tmp_path=tmp_path
    )
    assert data.problems == [
        "annotation 1: its image id 99 is not in 'images'",
        "annotation 2: its image id [1] is not in 'images'",
    ]


def test_ids_that_went_through_a_table_program_still_match(tmp_path: Path) -> None:
    data = dataset_of({"segmentation": [SQUARE], "image_id": 1.0}, tmp_path=tmp_path)
    assert len(data.masks_for("a.jpg", SIZE)[0]) == 1


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "the file is empty"),
        (b"  \n", "the file is empty"),
        (b'{"images": [', "malformed JSON: Expecting value: line 1 column 13"),
        (b"\xff\xd8\xff\xe0 a picture", "UTF-8"),
        (b"[" * 100_000, "nested too deeply"),
        (b"[]", "expected a JSON object, got a list"),
        (b'{"annotations": []}', "a list 'images', but there is no 'images'"),
        (b'{"images": []}', "a list 'annotations', but there is no 'annotations'"),
        (b'{"images": {}, "annotations": []}', "'images' is a object"),
        (b'{"shapes": [], "imagePath": "a.jpg"}', "it looks like labelme's own JSON"),
        (b'{"a.jpg123": {"filename": "a.jpg", "regions": []}}', "looks like VIA's own JSON"),
        (b'{"_via_settings": {}, "_via_img_metadata": {}}', "looks like VIA's own JSON"),
        (b'{"image": {"image_id": 1}, "annotations": []}', "looks like SA-1B's JSON"),
        (b'{"images": [7], "annotations": []}', "image number 0 is not"),
        (b'{"images": [{"file_name": "a"}], "annotations": []}', "no usable 'id'"),
        (b'{"images": [{"id": 1}], "annotations": []}', "image 1 has no 'file_name'"),
        (
            b'{"images": [{"id": 1, "file_name": "a"}, {"id": 1, "file_name": "b"}],'
            b' "annotations": []}',
            "several images have the id 1",
        ),
    ],
)
def test_a_file_that_cannot_be_understood_says_what_is_wrong_and_where(
    content: bytes, words: str, tmp_path: Path
) -> None:
    path = tmp_path / "broken.json"
    path.write_bytes(content)
    with pytest.raises(BadAnnotationsError) as caught:
        read_coco(path)
    assert str(path) in str(caught.value)
    assert words in str(caught.value)


def test_a_byte_order_mark_is_no_fault(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b'\xef\xbb\xbf{"images": [], "annotations": [7]}')
    assert read_coco(path).problems == ["annotation number 0: not a JSON object"]


# --- writing ---

MASK_PIXELS = arrays(np.bool_, SIZE).filter(lambda pixels: bool(pixels.any()))


@settings(max_examples=40, deadline=None)
@given(images=st.lists(st.lists(MASK_PIXELS, max_size=4), max_size=4))
def test_what_the_writer_wrote_the_reader_reads(
    images: list[list[np.ndarray]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("coco") / "out.json"
    with CocoWriter(path) as writer:
        for number, masks in enumerate(images):
            writer.add_image(number, f"{number}.jpg", *SIZE, [mask_of(m) for m in masks])
    data = read_coco(path)
    assert [image.file_name for image in data.images] == [f"{n}.jpg" for n in range(len(images))]
    for number, masks in enumerate(images):
        expected = [rle.encode(pixels) for pixels in masks]
        assert data.masks_for(f"{number}.jpg", SIZE) == (expected, [])


def test_an_annotation_has_cocos_fields_and_ours_where_known(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "out.json"
    scored = mask_of(PIXELS, "first", predicted_iou=0.9, stability_score=np.float32(0.5))
    with CocoWriter(path, description="release 1") as writer:
        writer.add_image(7, "a.jpg", *SIZE, [scored, mask_of(PIXELS, "second")])
    content = json.loads(path.read_text())
    assert content["info"]["description"] == "release 1"
    assert [c["name"] for c in content["categories"]] == ["object"]
    assert content["images"] == [{"id": 7, "file_name": "a.jpg", "height": 20, "width": 30}]
    first, second = content["annotations"]
    assert first == {
        "id": 1,
        "image_id": 7,
        "category_id": 1,
        "segmentation": rle.encode(PIXELS).as_json(),
        "bbox": [5, 4, 10, 8],
        "area": 80,
        "iscrowd": 0,
        "predicted_iou": 0.9,
        "stability_score": 0.5,
        "stage": "fully_automatic",
        "source": "automatic",
        "mask_id": "first",
    }
    assert second["id"] == 2
    assert "predicted_iou" not in second
    assert "stability_score" not in second


def test_an_export_without_images_or_masks_is_valid(tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    with CocoWriter(path):
        pass
    assert json.loads(path.read_text())["annotations"] == []
    with CocoWriter(path) as writer:
        writer.add_image(1, "a.jpg", *SIZE, [])
        writer.add_image(2, "b.jpg", *SIZE, [])
    assert len(COCO(str(path)).imgs) == 2


def test_a_failed_export_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    path.write_text("old")

    def masks() -> Iterator[Mask]:
        yield mask_of(PIXELS)
        raise KeyError("the database went away")

    with pytest.raises(KeyError), CocoWriter(path) as writer:
        writer.add_image(1, "a.jpg", *SIZE, masks())
    assert [file.name for file in tmp_path.iterdir()] == ["out.json"]
    assert path.read_text() == "old"


def test_an_image_that_does_not_fit_is_refused_whole_and_the_export_can_go_on(
    tmp_path: Path,
) -> None:
    path = tmp_path / "out.json"
    with CocoWriter(path) as writer:
        with pytest.raises(ValueError, match="mask b has size"):
            writer.add_image(
                1, "a.jpg", *SIZE, [mask_of(PIXELS), mask_of(np.ones((3, 3), bool), "b")]
            )
        with pytest.raises(ValueError, match="JSON"):
            writer.add_image(1, "a.jpg", *SIZE, [mask_of(PIXELS, predicted_iou=float("nan"))])
        writer.add_image(1, "a.jpg", *SIZE, [mask_of(PIXELS)])
        with pytest.raises(ValueError, match="image id 1 was written before"):
            writer.add_image(1, "b.jpg", *SIZE, [])
    content = json.loads(path.read_text())
    assert [annotation["id"] for annotation in content["annotations"]] == [1]
    assert [image["file_name"] for image in content["images"]] == ["a.jpg"]


def test_writing_outside_the_with_block_is_an_error(tmp_path: Path) -> None:
    writer = CocoWriter(tmp_path / "out.json")
    with pytest.raises(RuntimeError, match="with"):
        writer.add_image(1, "a.jpg", *SIZE, [])


def test_memory_does_not_grow_with_the_export(tmp_path: Path) -> None:
    mask = mask_of(np.random.default_rng(0).random(SIZE) > 0.5)

    def masks() -> Iterator[Mask]:
        for _ in range(20):
            yield mask

    path = tmp_path / "out.json"
    tracemalloc.start()
    with CocoWriter(path) as writer:
        for number in range(300):
            writer.add_image(number, f"{number}.jpg", *SIZE, masks())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert path.stat().st_size > 2_000_000
    assert peak < 700_000


def test_pycocotools_loads_an_export_and_scores_it_1_against_itself(tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    rng = np.random.default_rng(0)
    size = (200, 300)
    with CocoWriter(path) as writer:
        for number in range(3):
            boxes = [
                (y, x, y + rng.integers(8, 60), x + rng.integers(8, 60))
                for y, x in rng.integers(0, 140, (12, 2))
            ]
            masks = [mask_of(rectangle(*box, size)) for box in boxes]
            writer.add_image(number, f"{number}.jpg", *size, masks)
    truth = COCO(str(path))
    found = [
        {**{key: a[key] for key in ("image_id", "category_id", "segmentation")}, "score": 1.0}
        for a in truth.dataset["annotations"]
    ]
    judge = COCOeval(truth, truth.loadRes(found), "segm")
    judge.evaluate()
    judge.accumulate()
    judge.summarize()
    assert judge.stats[0] == pytest.approx(1.0)
    for annotation in truth.dataset["annotations"]:
        np.testing.assert_array_equal(
            coco_mask.toBbox(annotation["segmentation"]), annotation["bbox"]
        )
        assert truth.annToMask(annotation).sum() == annotation["area"]
