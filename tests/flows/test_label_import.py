"""COCO files bring their categories and labels into a dataset, as ground truth or as work."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from engine.core.records import Source, Stage
from flows.cli.main import app
from flows.data.annotations import KEPT, AnnotationsAs
from flows.data.ingest import ingest, ingest_folder
from flows.data.inputs import IngestReport
from flows.labels.categories import category_rows
from flows.labels.current import label_counts
from flows.release.release import release
from flows.stages.choice import choose_images
from flows.training.training_set import training_rule
from flows.workspace.costs import ledger
from flows.workspace.workspace import Workspace
from storage.catalog import LabelSource, NewLabel, PlannedRound
from storage.formats.coco import BadAnnotationsError
from storage.formats.coco_categories import UNKNOWN_CATEGORY

SIZE = (30, 40)
CATEGORIES = [
    {"id": 11, "name": "cat", "supercategory": "animal"},
    {"id": 5, "name": "Auto 猫", "supercategory": ""},
    {"id": 7, "name": "dog", "supercategory": "animal"},
]


def square(x: int) -> list[list[int]]:
    return [[x, 5, x + 8, 5, x + 8, 15, x, 15]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two images, a.png and b.png."""
    made = tmp_path / "in"
    made.mkdir()
    for seed, name in enumerate("ab"):
        pixels = np.random.default_rng(seed).integers(0, 255, (*SIZE, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(made / f"{name}.png")
    return made


def write(
    folder: Path, *masks: tuple[str, int, Any], categories: Any = CATEGORIES, name: str = "coco"
) -> Path:
    """A COCO file; each mask is its image, its left edge and its category id."""
    names = sorted({"a", "b"} & {mask[0] for mask in masks}) or ["a"]
    size = {"height": SIZE[0], "width": SIZE[1]}
    content = {
        "images": [{"id": n, "file_name": f"{n}.png", **size} for n in names],
        "annotations": [
            {"id": n, "image_id": image, "segmentation": square(x), "category_id": number}
            for n, (image, x, number) in enumerate(masks, start=1)
        ],
        "categories": categories,
    }
    path = folder.parent / f"{name}.json"
    path.write_text(json.dumps(content))
    return path


THREE = (("a", 2, 11), ("a", 20, 5), ("b", 2, 7))


def names_of(workspace: Workspace, table: str = "truths") -> dict[str, str | None]:
    """Names of labels by image and left edge, as a3; None: labelled as no category."""
    row = workspace.catalog.datasets.get("d")
    listed = workspace.catalog.categories.current(row.id).categories.names
    masks = list(getattr(workspace, table).masks(current_only=True))
    labels = workspace.catalog.labels.current([mask.mask_id for mask in masks])
    images = {image.id: image.file_name[0] for image in workspace.catalog.images.each(row.id)}
    return {
        f"{images[mask.image_id]}{mask.box_xyxy[0]}": listed.get(label.category_id or 0)
        for mask in masks
        if (label := labels.get(mask.mask_id))
    }


def counts(report: IngestReport) -> dict[str, int]:
    return {row["what"]: row["count"] for row in report.passed_over}


def test_categories_and_labels_come_with_the_ground_truth_once(
    workspace: Workspace, folder: Path
) -> None:
    coco = write(folder, *THREE)
    report = ingest_folder(workspace, "d", folder, coco)
    assert (report.masks, report.labels, report.new_categories) == (3, 3, 4)
    assert report.passed_over == []
    row = workspace.catalog.datasets.get("d")
    found = [(one["name"], one["parent"], one["masks"]) for one in category_rows(workspace, row)]
    expected = [("animal", None, 0), ("cat", "animal", 1), ("Auto 猫", None, 1)]
    assert found == [*expected, ("dog", "animal", 1)]
    assert names_of(workspace) == {"a2": "cat", "a20": "Auto 猫", "b2": "dog"}
    label = next(iter(workspace.catalog.labels.of_images([1]).values()))
    assert (label.source, label.annotator_id) == (LabelSource.IMPORTED, None)

    again = ingest_folder(workspace, "d", folder, coco)
    assert (again.masks, again.labels, again.new_categories) == (0, 0, 0)
    assert workspace.catalog.categories.current(row.id).version == 1
    # other numbers and spelling, one new category
    other = [{"id": 1, "name": "CAT"}, {"id": 2, "name": "bird"}]
    more = ingest_folder(workspace, "d", folder, write(folder, *THREE[:1], categories=other))
    assert more.new_categories == 1
    assert workspace.catalog.categories.current(row.id).version == 2


def test_a_class_agnostic_file_leaves_the_dataset_without_categories(
    workspace: Workspace, folder: Path
) -> None:
    agnostic = [{"id": 1, "name": "object", "supercategory": "object"}]
    coco = write(folder, ("a", 2, 1), categories=agnostic)
    report = ingest_folder(workspace, "d", folder, coco)
    assert (report.masks, report.labels, report.passed_over) == (
        1,
        0,
        [{"what": "images that the annotations do not name", "count": 1, "examples": ["b.png"]}],
    )
    row = workspace.catalog.datasets.get("d")
    assert workspace.catalog.categories.current(row.id).version == 0
    # the same file with names gives them to the masks that are there
    named = ingest_folder(workspace, "d", folder, write(folder, ("a", 2, 11)))
    assert (named.masks, named.labels) == (0, 1)


def test_faults_of_categories_are_counted_and_their_masks_stay_unlabelled(
    workspace: Workspace, folder: Path
) -> None:
    twice = [*CATEGORIES, {"id": 12, "name": "Cat"}, {"id": 13, "name": ""}]
    masks = [("a", 2, 12), ("a", 20, 99), ("b", 2, 13), ("b", 20, 11), ("b", 20, 7)]
    report = ingest_folder(workspace, "d", folder, write(folder, *masks, categories=twice))
    assert report.masks == 4
    assert names_of(workspace) == {"a2": "cat", "b20": "cat"}
    assert counts(report) == {
        UNKNOWN_CATEGORY: 2,
        "categories of the file that are no usable name": 1,
        "categories of the file that have the same name or id": 1,
        "masks that have two categories (the first is used)": 1,
    }
    assert "a.png: annotation 2: its category id 99 is not in the file" in report.problems
    circle = [{"id": 1, "name": "x", "supercategory": "y"}]
    circle += [{"id": 2, "name": "y", "supercategory": "x"}]
    other = ingest_folder(workspace, "e", folder, write(folder, ("a", 2, 1), categories=circle))
    assert other.new_categories == 2
    assert any("form a circle" in problem for problem in other.problems)


def test_a_file_with_ten_thousand_categories_is_refused_before_anything_is_written(
    workspace: Workspace, folder: Path
) -> None:
    many = [{"id": n, "name": f"c{n}"} for n in range(10_000)]
    with pytest.raises(BadAnnotationsError, match="10000 categories, and 5000 is the most"):
        ingest_folder(workspace, "d", folder, write(folder, ("a", 2, 1), categories=many))
    assert workspace.catalog.datasets.all() == []


def test_labels_of_people_stay_unless_annotations_are_replaced(
    workspace: Workspace, folder: Path
) -> None:
    coco = write(folder, *THREE)
    ingest_folder(workspace, "d", folder, coco)
    row = workspace.catalog.datasets.get("d")
    images = workspace.catalog.images.each(row.id)
    (image_id,) = (one.id for one in images if one.file_name == "a.png")
    masks = workspace.truths.masks(image_ids=[image_id])
    (mask,) = (one for one in masks if one.box_xyxy[0] == 2)
    dog = workspace.catalog.categories.current(row.id).categories.named("dog")
    assert dog is not None
    person = LabelSource.ANNOTATOR
    mine = NewLabel(mask_id=mask.mask_id, image_id=image_id, category_id=dog.id, source=person)
    workspace.catalog.labels.add_many(row.id, [mine])
    ingest_folder(workspace, "d", folder, coco)
    assert names_of(workspace)["a2"] == "dog"
    replaced = ingest_folder(workspace, "d", folder, coco, replace_annotations=True)
    assert (replaced.masks, replaced.labels) == (0, 1)
    assert names_of(workspace)["a2"] == "cat"
    # a new mask in the place of a labelled one does not inherit its label
    moved = write(folder, ("a", 3, 99), ("a", 20, 5), ("b", 2, 7))
    ingest_folder(workspace, "d", folder, moved, replace_annotations=True)
    assert names_of(workspace) == {"a3": None, "a20": "Auto 猫", "b2": "dog"}
    assert sum(n for key, n in label_counts(workspace, row).items() if key) == 2


@pytest.mark.usefixtures("prefect_server")
def test_existing_work_enters_the_loop_as_masks_of_people(
    workspace: Workspace, folder: Path
) -> None:
    root, coco = str(workspace.settings.root), str(write(folder, *THREE))
    report = ingest(root, "d", str(folder), coco, 0.0, annotations_as="masks")
    assert (report["masks"], report["labels"], report["new_categories"]) == (3, 3, 4)
    assert workspace.images_with_truth("d") == set()
    masks = list(workspace.masks.masks())
    assert {(mask.source, mask.stage) for mask in masks} == {
        (Source.IMPORTED, Stage.ASSISTED_MANUAL)
    }
    (run_id,) = {mask.run_id for mask in masks}
    assert workspace.catalog.runs.get(run_id).config["annotations_as"] == "masks"
    assert names_of(workspace, "masks") == {"a2": "cat", "a20": "Auto 猫", "b2": "dog"}

    row = workspace.catalog.datasets.get("d")
    rule = training_rule(workspace, row)
    assert all(rule.takes(mask.mask_id, mask.image_id, mask.source) for mask in masks)
    (cost,) = (one for one in ledger(workspace).runs if one.run == run_id)
    assert (cost.spent.masks, cost.spent.accepted_masks) == (3, 3)
    card = release(root, "d", "r")
    assert (card["masks"], card["statuses"]["annotated"]) == (3, 2)
    plan = PlannedRound(stage=Stage.ASSISTED_MANUAL, images=2)
    loop = workspace.catalog.loops.start_or_resume(row.id, [plan])
    (round_row,) = workspace.catalog.rounds.for_loop(loop.id)
    assert choose_images(workspace, round_row, plan).image_ids == []


def test_ingesting_work_again_adds_nothing_also_where_people_fixed_it(
    workspace: Workspace, folder: Path
) -> None:
    coco = write(folder, *THREE)
    kind = AnnotationsAs.MASKS
    ingest_folder(workspace, "d", folder, coco, annotations_as=kind)
    (first, *_) = workspace.masks.masks(image_ids=[1])
    fix = replace(first, mask_id="fix/1/0", run_id="fix", shard=0, supersedes=first.mask_id)
    fix = replace(fix, source=Source.ANNOTATOR)
    workspace.masks.commit([fix], run_id="fix", shard=0)
    again = ingest_folder(workspace, "d", folder, coco, annotations_as=kind)
    assert (again.masks, again.labels) == (0, 0)
    other = write(folder, ("a", 4, 11))
    kept = ingest_folder(workspace, "d", folder, other, annotations_as=kind)
    assert (kept.masks, counts(kept)[KEPT]) == (0, 1)
    new = ingest_folder(
        workspace, "d", folder, other, annotations_as=kind, replace_annotations=True
    )
    assert (new.masks, new.replaced) == (1, 1)
    assert names_of(workspace, "masks")["a4"] == "cat"


def test_annotations_as_masks_needs_annotations(
    workspace: Workspace, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workspace.settings.root)
    result = CliRunner().invoke(app, ["ingest", str(folder), "--annotations-as", "masks"])
    assert result.exit_code == 2
    assert "--annotations-as" in result.output
