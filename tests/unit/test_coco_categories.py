"""Categories of COCO files, as tools write them and faulty ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from storage.formats.coco import ImageAnnotations, read_coco
from storage.formats.coco_annotations import Picture
from storage.formats.coco_categories import BAD_CATEGORY, SAME_CATEGORY, UNKNOWN_CATEGORY

SQUARE = [[5, 4, 15, 4, 15, 12, 5, 12]]


def read(
    folder: Path, categories: Any, *ids: Any
) -> tuple[list[tuple[str, str | None]], list[str], ImageAnnotations]:
    """The names, the kinds of the file's problems, and the image's annotations."""
    annotations = [
        {"id": n, "image_id": 1, "segmentation": SQUARE, "category_id": number}
        for n, number in enumerate(ids)
    ]
    content = {"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": annotations}
    path = folder / "instances.json"
    path.write_text(
        json.dumps(content | ({} if categories is None else {"categories": categories}))
    )
    data = read_coco(path)
    found = data.find("a.jpg", Picture((20, 30)))
    assert len(found.masks) == len(ids)  # every mask is kept
    assert found.problems == data.problems == []
    return data.categories.names, [one.kind for one in data.categories.problems], found


def test_each_mask_has_the_name_of_its_category_and_supercategories_are_parents(
    tmp_path: Path,
) -> None:
    categories = [
        {"id": 0, "name": "猫 ", "supercategory": "animal"},
        {"id": 7, "name": "car", "supercategory": "car"},
        {"id": 8, "name": "bus", "supercategory": ""},
        {"id": 9, "name": "tram", "supercategory": "none"},
        {"id": 10, "name": "van"},
    ]
    names, problems, found = read(tmp_path, categories, 7, 0, "7", 7.0)
    assert names == [("猫", "animal"), ("car", None), ("bus", None), ("tram", None), ("van", None)]
    assert problems == []
    assert found.names == ["car", "猫", "car", "car"]
    assert found.name_problems == []


@pytest.mark.parametrize("categories", [None, [], [{"id": 1, "name": "Object"}]])
def test_a_file_without_names_is_class_agnostic(tmp_path: Path, categories: Any) -> None:
    names, problems, found = read(tmp_path, categories, 1)
    assert (names, found.names, found.name_problems) == ([], [None], [])
    assert problems == ([] if categories and len(categories) else [UNKNOWN_CATEGORY])


def test_masks_without_a_category_of_our_own_exports_stay_unlabelled(tmp_path: Path) -> None:
    ours = [{"id": 1, "name": "cat"}, {"id": 0, "name": "unlabelled"}]
    names, problems, found = read(tmp_path, ours, 0, 1)
    assert (names, problems) == ([("cat", None)], [])
    assert (found.names, found.name_problems) == ([None, "cat"], [])


@pytest.mark.parametrize(
    ("categories", "names", "problems", "of_1_and_2"),
    [
        ("cat", [], [BAD_CATEGORY], [None, None]),
        ({"1": "cat"}, [], [BAD_CATEGORY], [None, None]),
        ([{"id": 1}, {"id": 2, "name": "dog"}], ["dog"], [BAD_CATEGORY], [None, "dog"]),
        ([{"id": 1, "name": "x" * 201}, None], [], [BAD_CATEGORY] * 2, [None, None]),
        ([{"id": 1, "name": 5}, {"name": "dog"}], [], [BAD_CATEGORY] * 2, [None, None]),
        (
            [{"id": 1, "name": "cat"}, {"id": 2, "name": "CAT"}],
            ["cat"],
            [SAME_CATEGORY],
            ["cat", "cat"],
        ),
        (
            [{"id": 1, "name": "cat"}, {"id": "1", "name": "dog"}, {"id": 2, "name": "emu"}],
            ["cat", "dog", "emu"],
            [SAME_CATEGORY] * 2,
            [None, "emu"],
        ),
    ],
)
def test_faulty_categories_are_problems_and_their_masks_stay(
    tmp_path: Path, categories: Any, names: list[str], problems: list[str], of_1_and_2: Any
) -> None:
    listed, kinds, found = read(tmp_path, categories, 1, 2)
    assert [name for name, _ in listed] == names
    assert kinds == problems
    assert found.names == of_1_and_2


def test_a_category_id_that_the_file_does_not_list_is_named(tmp_path: Path) -> None:
    _, _, found = read(tmp_path, [{"id": 1, "name": "cat"}], 1, 9, None)
    assert found.names == ["cat", None, None]
    assert [problem.kind for problem in found.name_problems] == [UNKNOWN_CATEGORY] * 2
    assert found.name_problems[0] == "annotation 1: its category id 9 is not in the file"
