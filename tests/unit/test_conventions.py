"""Conventions of tools that COCO leaves open: crowds, numbers as text, rotated images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from engine.core import rle
from storage.formats.coco import CocoDataset, read_coco
from storage.formats.coco_annotations import Conventions, Crowds, Picture
from storage.formats.frames import Frame
from storage.formats.images import inspect_image, read_image

SIZE = (40, 30)
BOX = (4, 6, 16, 38)  # below row 30, which distinguishes upright and rotated images
SMALL = (4, 6, 16, 18)
CVAT = {"iscrowd": 1, "attributes": {"occluded": False}}


def ring(box: tuple[int, int, int, int]) -> list[list[int]]:
    x0, y0, x1, y1 = box
    return [[x0, y0, x1, y0, x1, y1, x0, y1]]


def filled(box: tuple[int, int, int, int], size: tuple[int, int] = SIZE) -> np.ndarray:
    mask = np.zeros(size, bool)
    mask[box[1] : box[3], box[0] : box[2]] = True
    return mask


def read(tmp_path: Path, *annotations: Any, image: Any = None, **conventions: Any) -> CocoDataset:
    entry = {"id": 1, "file_name": "a.jpg", "height": SIZE[0], "width": SIZE[1]} | (image or {})
    rows = [{"id": n, "image_id": 1, **a} for n, a in enumerate(annotations, start=1)]
    path = tmp_path / "instances.json"
    path.write_text(json.dumps({"images": [entry], "annotations": rows}))
    return read_coco(path, ["a.jpg"], conventions=Conventions(**conventions))


@pytest.mark.parametrize(
    ("fields", "chosen", "taken"),
    [
        (CVAT, Crowds.AUTO, True),
        (CVAT, Crowds.SKIP, False),
        ({"iscrowd": 1}, Crowds.AUTO, False),
        ({"iscrowd": 1}, Crowds.OBJECTS, True),
        ({"iscrowd": "1"}, Crowds.AUTO, False),
        ({"iscrowd": "0"}, Crowds.AUTO, True),
        ({"iscrowd": 0.0}, Crowds.SKIP, True),
    ],
)
def test_a_crowd_is_an_object_where_the_tool_or_the_user_says_so(
    fields: dict[str, Any], chosen: Crowds, taken: bool, tmp_path: Path
) -> None:
    mask = rle.encode(filled(BOX))
    data = read(tmp_path, {"segmentation": mask.as_json(), **fields}, crowds=chosen)
    masks, problems = data.masks_for("a.jpg", SIZE)
    assert masks == ([mask] if taken else [])
    assert [problem.kind[:6] for problem in problems] == ([] if taken else ["crowds"])


@pytest.mark.parametrize(
    ("image", "annotation"),
    [
        ({"id": 1.0, "height": 40.0, "width": "30"}, {"image_id": "1"}),
        ({"id": "001"}, {"image_id": 1}),
        ({"id": "7.0"}, {"image_id": 7}),
        ({"id": "photo"}, {"image_id": "photo"}),
        ({}, {"segmentation": {"size": [40.0, 30.0], "counts": [126.0, 4.0, 1070.0]}}),
    ],
)
def test_whole_floats_and_ids_as_text_are_understood(
    image: Any, annotation: Any, tmp_path: Path
) -> None:
    data = read(tmp_path, {"segmentation": ring(BOX), **annotation}, image=image)
    masks, problems = data.masks_for("a.jpg", SIZE)
    assert (len(masks), problems, data.problems) == (1, [], [])


def test_an_id_that_could_be_two_images_is_none(tmp_path: Path) -> None:
    images = [{"id": i, "file_name": f"{n}.jpg"} for n, i in enumerate((1, "1", "01"))]
    path = tmp_path / "a.json"
    rows = [{"image_id": i, "segmentation": ring(BOX)} for i in (1, "1", "1.0")]
    path.write_text(json.dumps({"images": images, "annotations": rows}))
    data = read_coco(path)
    assert [len(data.masks_for(f"{n}.jpg", SIZE)[0]) for n in range(3)] == [1, 1, 0]
    assert len(data.problems) == 1


def test_two_images_of_one_name_are_told_apart_by_content_and_size_or_not_at_all(
    tmp_path: Path,
) -> None:
    sizes = ((40, 30), (20, 10), (40, 30))
    images = [
        {"id": n, "file_name": "a.jpg", "height": h, "width": w, "sha256": f"{n}" * 64}
        for n, (h, w) in enumerate(sizes)
    ]
    rows = [{"image_id": n, "segmentation": ring((0, 0, n + 2, 2))} for n in range(3)]
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"images": images, "annotations": rows}))
    data = read_coco(path, ["a.jpg"])

    def area(size: tuple[int, int], sha256: str | None = None) -> int | str:
        found = data.find("a.jpg", Picture(size), sha256)
        return rle.area(found.masks[0]) if found.masks else str(found.problems[0])

    assert [area((40, 30), f"{n}" * 64) for n in (0, 2)] == [4, 8]
    assert area((20, 10)) == 6
    assert area((40, 30)) == "2 annotated images are named a.jpg: which is meant?"
    assert "another image of this name" in str(area((40, 30), "f" * 64))
    assert data.missing() == ["a.jpg"]  # the middle one, whose content was not ingested


def turned(orientation: int, folder: Path) -> tuple[Picture, np.ndarray]:
    """Size and orientation of a JPEG with this orientation, and the stored pixels of an upright
    BOX."""
    up = Image.fromarray(filled(BOX).astype(np.uint8) * 255)
    back = {6: 8, 8: 6}.get(orientation, orientation)
    exif = Image.Exif()
    exif[0x0112] = back
    path = folder / "a.png"
    up.save(path, exif=exif)
    stored = ImageOps.exif_transpose(Image.open(path))
    exif[0x0112] = orientation
    stored.save(path, exif=exif)
    info = inspect_image(path.read_bytes())
    assert (read_image(path.read_bytes())[..., 0] > 0).tolist() == filled(BOX).tolist()
    return Picture((info.height, info.width), info.orientation), np.asarray(stored) > 0


@pytest.mark.parametrize("orientation", range(1, 9))
def test_masks_of_stored_pixels_lie_on_their_objects_however_exif_turns_them(
    orientation: int, tmp_path: Path
) -> None:
    picture, stored = turned(orientation, tmp_path)
    assert picture == Picture(SIZE, orientation)
    size = dict(zip(("height", "width"), stored.shape, strict=True))
    box = rle.box_xyxy(rle.encode(stored))
    kinds: list[Any] = [ring(box), rle.encode(stored).as_json()]
    for segmentation in kinds:
        chosen = read(tmp_path, {"segmentation": segmentation}, image=size, frame=Frame.STORED)
        found = chosen.find("a.jpg", picture)
        np.testing.assert_array_equal(rle.decode(found.masks[0]), filled(BOX))
        if orientation >= 5:  # determined by sizes and coordinates of the file
            found = read(tmp_path, {"segmentation": segmentation}, image=size).find(
                "a.jpg", picture
            )
            np.testing.assert_array_equal(rle.decode(found.masks[0]), filled(BOX))


def test_upright_polygons_beside_sizes_of_the_stored_pixels_are_taken(tmp_path: Path) -> None:
    sizes = {"height": SIZE[1], "width": SIZE[0]}
    for orientation in (5, 6, 7, 8):
        data = read(tmp_path, {"segmentation": ring(BOX)}, image=sizes)
        found = data.find("a.jpg", Picture(SIZE, orientation))
        np.testing.assert_array_equal(rle.decode(found.masks[0]), filled(BOX))


@pytest.mark.parametrize(
    ("image", "annotation", "orientation", "words"),
    [
        ({"height": 30, "width": 40}, {"segmentation": ring(SMALL)}, 6, "may be of either"),
        ({}, {"segmentation": ring((2, 2, 38, 12))}, 8, "outside the upright picture"),
        ({}, {"segmentation": ring(SMALL), "bbox": [14, 22, 12, 12]}, 3, "rotated differently"),
    ],
)
def test_where_the_file_contradicts_itself_the_user_is_asked(
    image: Any, annotation: Any, orientation: int, words: str, tmp_path: Path
) -> None:
    picture = Picture(SIZE, orientation)
    found = read(tmp_path, annotation, image=image).find("a.jpg", picture)
    assert found.masks == []
    assert words in found.problems[0]
    assert "--frame" in found.problems[0]
    for frame in (Frame.STORED, Frame.UPRIGHT):
        answered = read(tmp_path, annotation, image=image, frame=frame).find("a.jpg", picture)
        assert len(answered.masks) == 1


def test_one_image_that_tells_answers_for_those_that_do_not(tmp_path: Path) -> None:
    images = [{"id": n, "file_name": f"{n}.jpg", "height": 30, "width": 40} for n in (1, 2)]
    rows = [{"image_id": n, "segmentation": ring(box)} for n, box in ((1, BOX), (2, SMALL))]
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"images": images, "annotations": rows}))
    found = read_coco(path).find("2.jpg", Picture(SIZE, 6))
    np.testing.assert_array_equal(rle.decode(found.masks[0]), filled(SMALL))


def test_boxes_elsewhere_and_masks_far_outside_are_reported_and_taken(tmp_path: Path) -> None:
    elsewhere = {"segmentation": ring(BOX), "bbox": [25, 0, 5, 5]}
    beyond = {"segmentation": ring((20, 20, 45, 30))}
    masks, problems = read(tmp_path, elsewhere, beyond).masks_for("a.jpg", SIZE)
    assert len(masks) == 2
    assert "its box does not match" in problems[0]
    assert "15 pixels beyond the image" in problems[1]
