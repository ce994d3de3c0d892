"""COCO files in the formats of other tools: masks are matched to images, unusable annotations are
counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from flows.data.ingest import ingest_folder
from flows.workspace.workspace import Workspace

SIZE = (30, 40)
RING = [4.37, 2.37, 12.37, 2.37, 12.37, 10.37, 4.37, 10.37]
BOX = [4.37, 2.37, 8.0, 8.0]


def image(number: Any, name: str, **more: Any) -> dict[str, Any]:
    return {"id": number, "file_name": name, "height": SIZE[0], "width": SIZE[1], **more}


def mask(number: Any, image_id: Any, segmentation: Any, **more: Any) -> dict[str, Any]:
    return {"id": number, "image_id": image_id, "segmentation": segmentation, "bbox": BOX, **more}


def roboflow(folder: Path) -> dict[str, Any]:
    """The file is beside its images, has an unused category, `extra`, and a box without a mask."""
    names = ("IMG_1_jpg.rf.0123.jpg", "IMG_2_jpg.rf.4567.jpg")
    return {
        "info": {"description": "Exported from roboflow.com"},
        "licenses": [{"id": 1, "name": "CC BY 4.0", "url": ""}],
        "categories": [
            {"id": 0, "name": "things", "supercategory": "none"},
            {"id": 1, "name": "thing", "supercategory": "things"},
        ],
        "images": [image(n, name, license=1, extra={"name": name}) for n, name in enumerate(names)],
        "annotations": [
            mask(0, 0, [RING], area=64.0, iscrowd=0, category_id=1),
            mask(1, 1, [RING], area=64.0, iscrowd=0, category_id=1),
            mask(2, 1, [], area=64.0, iscrowd=0, category_id=1),
        ],
    }


def via(folder: Path) -> dict[str, Any]:
    """One ring without an outer list, and image ids as text in the annotations only."""
    return {
        "images": [image(1, "a 1.jpg", license=0, flickr_url=""), image(2, "b.jpg", license=0)],
        "annotations": [
            mask(1, "1", RING, area=64, iscrowd=0, category_id=1),
            mask(2, "2", RING, area=64, iscrowd=0, category_id=1),
            mask(3, "2", [], area=0, iscrowd=0, category_id=1),
        ],
        "categories": [{"id": 1, "name": "x", "supercategory": "type"}],
        "licenses": [{"id": 0, "name": "Unknown License", "url": ""}],
    }


def labelme2coco(folder: Path) -> dict[str, Any]:
    """Names relative to the parent folder, category 0, no area."""
    names = (f"{folder.name}/a.jpg", f"{folder.name}/sub/b.jpg")
    return {
        "images": [image(n, name) for n, name in enumerate(names, start=1)],
        "annotations": [
            mask(1, 1, [RING], iscrowd=0, category_id=0),
            mask(2, 2, [RING], iscrowd=0, category_id=0),
            mask(3, 2, None, iscrowd=0, category_id=0),
        ],
        "categories": [{"id": 0, "name": "x", "supercategory": "x"}],
    }


def label_studio(folder: Path) -> dict[str, Any]:
    """Names of uploads and of files in subfolders, and a rectangle without segmentation."""
    names = ("images/1/0a1b2c3d-my_photo_1.jpg", "../../label-studio/data/media/one/b.jpg")
    return {
        "images": [image(n, name) for n, name in enumerate(names)],
        "annotations": [
            mask(0, 0, [RING], ignore=0, iscrowd=0, area=64.5, category_id=0),
            mask(1, 1, [RING], ignore=0, iscrowd=0, area=64.5, category_id=0),
            mask(2, 1, [], ignore=0, iscrowd=0, area=64.5, category_id=0),
        ],
        "categories": [{"id": 0, "name": "x"}],
    }


@pytest.mark.parametrize(
    ("tool", "files"),
    [
        (roboflow, ("IMG_1_jpg.rf.0123.jpg", "IMG_2_jpg.rf.4567.jpg")),
        (via, ("a 1.jpg", "b.jpg")),
        (labelme2coco, ("a.jpg", "sub/b.jpg")),
        (label_studio, ("my photo (1).jpg", "deep/b.jpg")),
    ],
)
def test_a_tools_export_gives_each_picture_its_mask_and_counts_what_is_none(
    tool: Any, files: tuple[str, str], workspace: Workspace, tmp_path: Path
) -> None:
    folder = tmp_path / "photos"
    for seed, name in enumerate(files):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(seed).integers(0, 255, (*SIZE, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    coco = folder / "_annotations.coco.json"
    coco.write_text(json.dumps(tool(folder)))
    report = ingest_folder(workspace, "d", folder, coco)
    assert (report.added, report.masks) == (2, 2)
    truths = workspace.truths_of([1, 2])
    assert {len(masks) for masks in truths.values()} == {1}
    assert [(row["what"], row["count"]) for row in report.passed_over] == [
        ("annotations that are no usable mask", 1)
    ]
