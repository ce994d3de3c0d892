"""Exports in YOLO's segmentation format, read back by a reader as strict as its trainers."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml

from engine.core import rle as rle_codec
from flows.release.export import export_release
from flows.workspace.workspace import Workspace
from storage.outputs import OutputExistsError
from tests.flows.test_label_export import begin
from tests.flows.test_suggesting import ingest
from tests.labelled_folders import WANTED, write_pictures
from tests.labelled_shapes import draw_picture

Shape = tuple[int, np.ndarray]
"""Number of the class, and pixels, bool (H, W)."""


def read_split(folder: Path, split: str) -> dict[str, list[Shape]]:
    """The masks of each image of a split, by the image's path; every line must be well formed."""
    data = yaml.safe_load((folder / "data.yaml").read_text())
    found = {}
    for path in sorted((folder / data[split]).iterdir()):
        image = cv2.imread(str(path))
        assert image is not None
        size = image.shape[:2]
        label = Path(str(path.parent).replace("/images/", "/labels/")) / f"{path.stem}.txt"
        shapes = []
        for line in label.read_text().splitlines():
            number, *values = line.split()
            corners = np.array(values, np.float64).reshape(-1, 2)
            assert int(number) in data["names"]
            assert len(corners) >= 3
            assert ((corners >= 0) & (corners <= 1)).all()
            pixels = np.zeros(size, np.uint8)
            cv2.fillPoly(pixels, [(corners * size[::-1]).astype(np.int32)], 1)
            shapes.append((int(number), pixels.astype(bool)))
        found[str(path.relative_to(folder))] = shapes
    return found


def exported(workspace: Workspace, out: Path) -> dict[str, Any]:
    begun = begin(workspace, workspace.catalog.datasets.get("shapes"))
    return export_release(workspace, begun, out, "yolo")


def test_classes_splits_and_masks_are_read_back_and_nothing_foreign_is_replaced(
    workspace: Workspace, tmp_path: Path
) -> None:
    ingest(workspace, write_pictures(tmp_path / "train", range(4)))
    ingest(workspace, write_pictures(tmp_path / "held", range(10, 13)), held_out=1.0)
    out = tmp_path / "out"
    counts = exported(workspace, out)
    assert (counts["yolo"]["train"], counts["yolo"]["val"]) == (4, 3)
    data = yaml.safe_load((out / "data.yaml").read_text())
    assert list(data["names"].items()) == list(enumerate(WANTED))
    with (out / "images.csv").open() as file:
        names = {row["file"]: row["file_name"] for row in csv.DictReader(file)}
    read = read_split(out, "train") | read_split(out, "val")
    assert read.keys() == names.keys()
    masks = 0
    for path, shapes in read.items():
        things = draw_picture(int(Path(names[path]).stem[-3:])).things
        true = {
            thing.rle.counts: WANTED.index(thing.shape) for thing in things if thing.shape in WANTED
        }
        said = {rle_codec.encode(pixels).counts: number for number, pixels in shapes}
        assert said == true
        masks += len(shapes)
    assert masks == counts["masks"] == counts["yolo"]["polygons"]
    assert [counts["yolo"][name] for name in ("lost_holes", "without_category")] == [0, 0]

    exported(workspace, out)  # its own files are replaced
    label = next(out.glob("labels/val/*.txt"))
    label.write_text("0 0.1 0.1 0.2 0.2 0.3 0.1\n")
    before = (out / "data.yaml").stat().st_mtime_ns
    with pytest.raises(OutputExistsError, match="not written by dataengine, or was changed"):
        exported(workspace, out)
    assert (out / "data.yaml").stat().st_mtime_ns == before


def test_a_dataset_without_categories_has_the_one_class_object_and_without_held_out_images_no_val(
    workspace: Workspace, tmp_path: Path
) -> None:
    ingest(workspace, write_pictures(tmp_path / "in", range(2), named=False))
    counts = exported(workspace, tmp_path / "out")
    data = yaml.safe_load((tmp_path / "out" / "data.yaml").read_text())
    assert data["names"] == {0: "object"}
    assert data["val"] == data["train"] == "images/train"
    assert counts["yolo"]["polygons"] == counts["masks"] > 0
