"""Annotations of other tools: what their files hold is read, and what is wrong in them is said."""

from __future__ import annotations

import base64
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from engine.core import rle as rle_codec
from storage.formats import cvat, json_stream, label_png, label_studio
from storage.formats.annotation_files import AnnotationFormat, detect, read_annotations
from storage.formats.coco import BadAnnotationsError, ImageAnnotations
from storage.formats.coco_annotations import Picture
from storage.formats.outlines import polygons_of
from storage.formats.segmentation import rle_from_polygons

SIZE = (20, 30)
BLOCK = np.zeros(SIZE, bool)
BLOCK[4:12, 5:15] = True
COUNTS = rle_codec.encode(BLOCK).counts


def read(path: Path, names: tuple[str, ...] = ("a.jpg",)) -> ImageAnnotations:
    """The annotations of the first image, by detecting the format."""
    found = read_annotations(path, AnnotationFormat.AUTO, names)
    return found.find(names[0], Picture(SIZE))


def labelme(**changes: Any) -> dict[str, Any]:
    shape = {"label": "cat", "points": [[5, 4], [15, 12]], "shape_type": "rectangle"}
    content = {"imagePath": "..\\pics\\a.jpg", "imageHeight": 20, "imageWidth": 30}
    return content | {"shapes": [shape | changes]}


def task(**result: Any) -> list[dict[str, Any]]:
    value = {"x": 50 / 3, "y": 20, "width": 100 / 3, "height": 40, "rectanglelabels": ["cat"]}
    found = {"type": "rectanglelabels", "original_width": 30, "original_height": 20, "value": value}
    address = "/data/upload/1/0a1b2c3d-a.jpg"
    return [{"data": {"image": address}, "annotations": [{"result": [found | result]}]}]


def test_labelmes_shapes_and_groups_and_masks_are_read(tmp_path: Path) -> None:
    fine, data = cv2.imencode(".png", np.full((8, 10), 255, np.uint8))
    assert fine
    drawn = {"shape_type": "mask", "mask": base64.b64encode(bytes(data)).decode()}
    outline = {"shape_type": "polygon", "points": [[5, 4], [15, 4], [15, 12], [5, 12]]}
    for changes in ({}, outline, drawn):
        (tmp_path / "a.json").write_text(json.dumps(labelme(**changes)))
        found = read(tmp_path)
        assert [mask.counts for mask in found.masks] == [COUNTS]
        assert found.names == ["cat"]
    content = labelme(group_id=1)
    content["shapes"] *= 2
    content["shapes"].append({"label": "dog", "points": [[1, 1]], "shape_type": "point"})
    (tmp_path / "a.json").write_text(json.dumps(content))
    found = read(tmp_path / "a.json")
    assert len(found.masks) == 1
    assert ["point" in str(problem) for problem in found.problems] == [True]


def test_label_studios_shapes_are_read_and_predictions_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "tasks.json"
    path.write_text(json.dumps(task()))
    found = read(path)
    assert [mask.counts for mask in found.masks] == [COUNTS]
    assert found.names == ["cat"]
    ellipse = {"x": 50, "y": 50, "radiusX": 20, "radiusY": 30, "rotation": 90}
    path.write_text(json.dumps(task(value=ellipse | {"ellipselabels": ["dog"]})))
    (mask,) = read(path).masks
    assert rle_codec.box_xyxy(mask) == (9, 4, 21, 16)
    for bad, words in (
        ({"value": {"rle": [1, 2, 3]}}, "cut off"),
        ({"value": {"rle": [0, 0, 0, 8, *[255] * 9]}}, "its brush has 8 bytes"),
        ({"value": {"rle": ["x"]}}, "no bytes"),
        ({"value": {"x": 1}}, "unknown kind"),
        ({"original_width": -1}, "size"),
    ):
        path.write_text(json.dumps(task(**bad)))
        assert [words in str(problem) for problem in read(path).problems] == [True], bad
    unconfirmed = task()
    unconfirmed[0]["predictions"] = unconfirmed[0].pop("annotations")
    path.write_text(json.dumps([*unconfirmed, *task()]))
    problems = read_annotations(path, files_on_disk=("a.jpg",)).problems
    assert ["nobody" in problem.kind for problem in problems] == [True]


MASKS = arrays(np.bool_, st.tuples(st.integers(1, 40), st.integers(1, 40)))


@settings(max_examples=50, deadline=None)
@given(MASKS)
def test_brushes_and_label_images_keep_every_pixel(pixels: np.ndarray) -> None:
    rle = rle_codec.encode(pixels)
    packed = label_studio.encode_brush(rle)
    assert label_studio.decode_brush(packed, rle.size) == rle
    labels = label_png.decode_png(label_png.encode_png(pixels.astype(np.uint16) * 300))
    assert [found for _, found in label_png.masks_in(labels)] == [rle] * int(pixels.any())


def test_a_brush_is_the_one_that_label_studios_converter_makes() -> None:
    pixels = np.zeros((2, 3), bool)
    pixels[0, 1] = True
    bits = f"{24:032b}{7:05b}" + "0010" + "0011" + "0111" + "1111"
    for length, value in ((4, 0), (4, 255), (16, 0)):
        kind, width = (0, 3) if length <= 8 else (1, 4)
        bits += f"1{kind:02b}{length - 1:0{width}b}{value:08b}"
    bits += "0" * (-len(bits) % 8)
    expected = [int(bits[place : place + 8], 2) for place in range(0, len(bits), 8)]
    assert label_studio.encode_brush(rle_codec.encode(pixels)) == expected


@settings(max_examples=50, deadline=None)
@given(MASKS.filter(np.any))
def test_polygons_fill_the_mask_and_its_holes_exactly(pixels: np.ndarray) -> None:
    rle = rle_codec.encode(pixels)
    found = polygons_of(rle)
    if not found.holes:
        back = rle_codec.decode(rle_from_polygons(found.rings, rle.size))
        assert (back == pixels).all()


def test_cvats_shapes_are_read_and_those_that_are_no_regions_reported(tmp_path: Path) -> None:
    path = tmp_path / "annotations.xml"
    shapes = """<box label="cat" xtl="5" ytl="4" xbr="15" ybr="12"/>
        <polygon label="cat" points="5,4;15,4;15,12;5,12"/>
        <polyline label="cat" points="1,1;2,2"/><mask label="cat" rle="0, 9" left="0" top="0"
        width="2" height="2"/><ellipse label="dog" cx="x" cy="1" rx="1" ry="1"/>"""
    image = f'<image id="0" name="a.jpg" width="30" height="20">{shapes}</image>'
    path.write_text(f"<annotations>{image}</annotations>")
    found = read(path)
    assert [mask.counts for mask in found.masks] == [COUNTS] * 2
    texts = " ".join(map(str, found.problems))
    assert len(found.problems) == 3
    for words in ("polyline", "do not fill its box", "could not convert"):
        assert words in texts


def test_xml_that_declares_entities_is_refused_before_any_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.xml"
    bomb = '<!DOCTYPE a [<!ENTITY x "y"><!ENTITY z SYSTEM "file:///etc/passwd">]>'
    for encoding in ("utf-8", "utf-16"):
        path.write_text(f"{bomb}<annotations>&x;&z;</annotations>", encoding=encoding)
        with pytest.raises(BadAnnotationsError, match="document type"):
            list(cvat.read_images(path))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.xml", "<annotations><image", "malformed XML"),
        ("a.xml", "<html></html>", "expected CVAT"),
        ("a.xml", "", "malformed XML"),
        ("a.json", '[{"data": {}}, 1]', "task number 1"),
        ("a.json", "[1", "malformed JSON"),
        ("a.json", "", "not recognised"),
        ("data.yaml", "names: 3", "expected 'names'"),
        ("data.yaml", "a: [", "malformed YAML"),
        ("a.tar", "no tar", "not a readable tar"),
        ("a.json", '{"images": [], "annotations": [}', "malformed JSON"),
    ],
)
def test_a_damaged_file_is_named_with_its_fault(
    tmp_path: Path, name: str, content: str, words: str
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(BadAnnotationsError, match=words) as error:
        read_annotations(tmp_path / name)
    assert str(tmp_path / name) in str(error.value)


def test_a_damaged_file_of_many_is_reported_and_the_rest_is_read(tmp_path: Path) -> None:
    record = {
        "image": {"image_id": 1, "file_name": "a.jpg", "height": 20, "width": 30},
        "annotations": [{"segmentation": rle_codec.encode(BLOCK).as_json()}, 3],
    }
    (tmp_path / "sa_1.json").write_text(json.dumps(record))
    (tmp_path / "sa_2.json").write_text("{")
    (tmp_path / "sa_3.json").write_text('{"image": {}, "annotations": []}')
    found = read_annotations(tmp_path, AnnotationFormat.SA1B, ("a.jpg",))
    assert len(found.problems) == 2
    mine = found.find("a.jpg", Picture(SIZE))
    assert [mask.counts for mask in mine.masks] == [COUNTS]
    assert len(mine.problems) == 1
    other = found.find("a.jpg", Picture((40, 30)))
    assert not other.masks
    assert "pixels" in str(other.problems[0])


def test_a_tars_hostile_members_are_not_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "sa.tar"
    with tarfile.open(path, "w") as tar:
        link = tarfile.TarInfo("../../evil.json")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
        entry = tarfile.TarInfo("../outside.json")
        entry.size = 2
        tar.addfile(entry, io.BytesIO(b"{}"))
    with pytest.raises(BadAnnotationsError, match="no annotations"):
        read_annotations(path)
    assert [file.name for file in tmp_path.iterdir()] == ["sa.tar"]


def test_yolos_lines_that_are_no_polygons_are_reported(tmp_path: Path) -> None:
    (tmp_path / "labels").mkdir()
    lines = ["0 .1 .1 .5 .1 .5 .5", "1 .5 .5 .2 .2", "x 1 2", "0 .1 .1 .2"]
    lines += ["0 9 9 9 8 8 8", "7 0 0 0 1 1 1"]
    (tmp_path / "labels/a.txt").write_text("\n".join(lines))
    (tmp_path / "labels/b.txt").write_text("")
    (tmp_path / "data.yaml").write_text("names: [cat, dog]\n")
    found = read_annotations(tmp_path, files_on_disk=("a.jpg",))
    mine = found.find("a.jpg", Picture(SIZE))
    assert mine.names == ["cat", None]
    assert len(mine.problems) == 4
    assert [problem.kind for problem in mine.name_problems] == [mine.name_problems[0].kind]
    assert found.missing() == ["b"]


def test_label_images_in_colours_are_reported(tmp_path: Path) -> None:
    picture = np.zeros((*SIZE, 3), np.uint8)
    picture[:5, :5] = (0, 0, 255)
    cv2.imwrite(str(tmp_path / "a.png"), picture)
    found = read(tmp_path)
    assert not found.masks
    assert "colours" in str(found.problems[0])
    cv2.imwrite(str(tmp_path / "a.png"), BLOCK.astype(np.uint8) * 7)
    assert [mask.counts for mask in read(tmp_path).masks] == [COUNTS]


def test_formats_are_told_apart(tmp_path: Path) -> None:
    contents = {
        "coco": '{"images": []}',
        "sa1b": '{ "image" : {"image_id": 1}}',
        "labelme": '{"version": "5", "shapes": [], "imagePath": "a"}',
        "label-studio": "\n [ ]",
    }
    for form, text in contents.items():
        (tmp_path / f"{form}.json").write_text(text)
        assert detect(tmp_path / f"{form}.json") == form
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(BadAnnotationsError, match="--format"):
        detect(empty)


@pytest.mark.parametrize("chunk", [3, 64])
def test_a_stream_of_json_gives_each_item_and_its_bytes(
    tmp_path: Path, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_stream, "CHUNK_BYTES", chunk)
    content = {"a": [{"é": "猫\n"}, 12345, 1.5e10, []], "b": [], "c": {"d": [1]}, "e": 123456}
    path = tmp_path / "a.json"
    for text in (json.dumps(content), json.dumps(content, ensure_ascii=False, indent=1)):
        for start in ("", "\ufeff"):
            path.write_text(start + text, encoding="utf-8")
            data, found = path.read_bytes(), dict[str, Any]()
            for item in json_stream.read_items(path):
                if item.is_whole:
                    found[item.key] = item.value
                else:
                    found.setdefault(item.key, []).append(item.value)
                    assert json.loads(data[item.begin : item.end]) == item.value
            assert found == content
    for bad in ("", "[1]", '{"a":1', '{"a":1}x', '{"a" 1}', '{"a":[1,]}', '{"a":[1 2]}', "{1:2}"):
        path.write_text(bad)
        with pytest.raises(json_stream.JsonStreamError, match="expected"):
            list(json_stream.read_items(path))
