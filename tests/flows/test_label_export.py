"""Exports carry the categories and labels that the release pins; without categories they are as
before."""

from __future__ import annotations

import contextlib
import io
import json
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from engine.core import rle as rle_codec
from engine.core.categories import CategoryList
from engine.core.records import Mask, Provenance, Source, Stage
from flows.data.annotations import AnnotationsAs
from flows.data.ingest import ingest_folder
from flows.labels.categories import category_rows
from flows.operations.status import status_of
from flows.release.export import export_release
from flows.release.release import release
from flows.workspace.workspace import Workspace
from storage.catalog import Dataset, LabelSource, NewLabel, Release
from storage.formats.coco_writer import CocoWriter
from storage.formats.sa1b import read_sa1b

SIZE = (30, 40)
NAMES = [("cat", "animal"), ("dog", "animal"), ("Auto 猫", None)]

AGNOSTIC = """{"info":{"description": "r"},
"licenses":[],
"categories":[{"id": 1, "name": "object", "supercategory": "object"}],
"annotations":[
{"id":1,"image_id":1,"category_id":1,"segmentation":{"size":[30,40],"counts":"R18f000000fP1"},\
"bbox":[1,4,4,8],"area":32,"iscrowd":0,"stage":"assisted_manual","source":"annotator",\
"mask_id":"run/1/0"}],
"images":[
{"id":1,"file_name":"a.png","height":30,"width":40,"status":"annotated"}]}
"""
"""As the version before categories wrote it."""


def mask(name: str, left: int, image_id: int = 1, supersedes: str | None = None) -> Mask:
    pixels = np.zeros(SIZE, bool)
    pixels[4:12, left : left + 4] = True
    origin = Provenance(
        dataset="d", stage=Stage.ASSISTED_MANUAL, run_id="run", source=Source.ANNOTATOR
    )
    return origin.mask(image_id, name, rle_codec.encode(pixels), supersedes=supersedes)


@pytest.fixture
def dataset(workspace: Workspace, tmp_path: Path) -> Dataset:
    """The dataset d: an image with three masks of people."""
    folder = tmp_path / "in"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 255, (*SIZE, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "a.png")
    ingest_folder(workspace, "d", folder)
    masks = [mask("0", 1), mask("1", 11), mask("2", 21)]
    workspace.masks.commit(masks, run_id="run", shard=0)
    return workspace.catalog.datasets.get("d")


def give(workspace: Workspace, dataset: Dataset, **names: str | None) -> None:
    """Label masks, by their names after an underscore."""
    listed = workspace.catalog.categories.current(dataset.id).categories
    rows = []
    for key, name in names.items():
        found = listed.named(name) if name else None
        mask_id, category_id = f"run/1/{key[1:]}", found.id if found else None
        source = LabelSource.ANNOTATOR
        rows.append(NewLabel(mask_id=mask_id, image_id=1, category_id=category_id, source=source))
    workspace.catalog.labels.add_many(dataset.id, rows)


def name_all(workspace: Workspace, dataset: Dataset) -> None:
    """Give the dataset categories, and names to two of the masks."""
    categories = CategoryList().extended(NAMES)
    workspace.catalog.categories.set(dataset.id, categories, expected_version=0)
    give(workspace, dataset, _0="cat", _1="Auto 猫")


def begin(workspace: Workspace, dataset: Dataset, name: str = "r") -> Release:
    version = workspace.masks.version()
    assert version is not None
    state = workspace.catalog.labels.state(dataset.id)._asdict()
    releases = workspace.catalog.releases
    return releases.start(name, dataset_id=dataset.id, table_version=version, key=name, **state)


def exported(workspace: Workspace, begun: Release, out: Path) -> tuple[dict[str, Any], Any]:
    """The counts, and the names of the masks by pycocotools."""
    counts = export_release(workspace, begun, out, "coco")
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(out / "instances.json"))
    names = {
        one["mask_id"].rpartition("/")[2]: coco.cats[one["category_id"]]["name"]
        for one in coco.anns.values()
    }
    return counts, names


def test_a_file_without_categories_is_byte_for_byte_as_before(tmp_path: Path) -> None:
    with CocoWriter(tmp_path / "instances.json", description="r") as writer:
        writer.add_image(1, "a.png", *SIZE, [mask("0", 1)], status="annotated")
    assert (tmp_path / "instances.json").read_text() == AGNOSTIC


def test_a_dataset_without_categories_exports_one_class(
    workspace: Workspace, dataset: Dataset, tmp_path: Path
) -> None:
    begun = begin(workspace, dataset)
    counts, names = exported(workspace, begun, tmp_path / "out")
    assert set(names.values()) == {"object"}
    assert "categories" not in counts
    export_release(workspace, begun, tmp_path / "sa1b", "sa1b")
    assert not (tmp_path / "sa1b" / "categories.json").exists()
    (annotation, *_) = json.loads((tmp_path / "sa1b" / "sa_1.json").read_text())["annotations"]
    assert "category_id" not in annotation


def test_pycocotools_and_our_own_import_read_the_categories_back(
    workspace: Workspace, dataset: Dataset, tmp_path: Path
) -> None:
    name_all(workspace, dataset)
    counts, names = exported(workspace, begin(workspace, dataset), tmp_path / "out")
    assert names == {"0": "cat", "1": "Auto 猫", "2": "unlabelled"}
    assert counts["categories"] == {
        "animal": 0,
        "cat": 1,
        "dog": 0,
        "Auto 猫": 1,
        "unlabelled": 1,
    }
    content = json.loads((tmp_path / "out" / "instances.json").read_text())
    assert content["categories"][1] == {"id": 2, "name": "cat", "supercategory": "animal"}
    assert content["categories"][-1] == {
        "id": 0,
        "name": "unlabelled",
        "supercategory": "unlabelled",
    }
    report = ingest_folder(
        workspace,
        "copy",
        tmp_path / "in",
        tmp_path / "out" / "instances.json",
        annotations_as=AnnotationsAs.MASKS,
    )
    assert (report.masks, report.labels, report.problems) == (3, 2, [])
    copy = workspace.catalog.datasets.get("copy")
    chosen = ("id", "name", "parent", "masks")
    rows = [
        [{key: one[key] for key in chosen} for one in category_rows(workspace, row)]
        for row in (dataset, copy)
    ]
    assert rows[0] == rows[1]

    give(workspace, dataset, _2="dog")  # with every mask named, no category is reserved
    _, names = exported(workspace, begin(workspace, dataset, "s"), tmp_path / "all")
    assert names["2"] == "dog"
    content = json.loads((tmp_path / "all" / "instances.json").read_text())
    assert [one["id"] for one in content["categories"]] == [1, 2, 3, 4]


def test_sa1b_has_the_category_of_each_mask_and_a_list_beside(
    workspace: Workspace, dataset: Dataset, tmp_path: Path
) -> None:
    name_all(workspace, dataset)
    export_release(workspace, begin(workspace, dataset), tmp_path, "sa1b")
    content = json.loads((tmp_path / "sa_1.json").read_text())
    assert {one["bbox"][0]: one["category_id"] for one in content["annotations"]} == {
        1: 2,
        11: 4,
        21: None,
    }
    listed = json.loads((tmp_path / "categories.json").read_text())["categories"]
    assert [one["name"] for one in listed] == ["animal", "cat", "dog", "Auto 猫"]
    assert len(read_sa1b(tmp_path / "sa_1.json").masks) == 3


def test_a_release_keeps_the_names_of_its_moment(
    workspace: Workspace, dataset: Dataset, tmp_path: Path
) -> None:
    name_all(workspace, dataset)
    before = begin(workspace, dataset)
    assert begin(workspace, dataset) == before  # resumed
    renamed = workspace.catalog.categories.current(dataset.id).categories
    changed = renamed.extended([("bird", None)])
    workspace.catalog.categories.set(dataset.id, changed, expected_version=1)
    give(workspace, dataset, _0="bird", _1=None, _2="dog")
    _, old = exported(workspace, before, tmp_path / "old")
    assert old == {"0": "cat", "1": "Auto 猫", "2": "unlabelled"}
    _, new = exported(workspace, begin(workspace, dataset, "new"), tmp_path / "new")
    assert new == {"0": "bird", "1": "unlabelled", "2": "dog"}


def test_a_fixed_mask_is_exported_with_the_label_of_the_mask_before(
    workspace: Workspace, dataset: Dataset, tmp_path: Path
) -> None:
    name_all(workspace, dataset)
    fix = replace(mask("0", 2), mask_id="fix/1/0", run_id="fix", supersedes="run/1/0")
    workspace.masks.commit([fix], run_id="fix", shard=0)
    _, names = exported(workspace, begin(workspace, dataset), tmp_path / "out")
    assert names == {"0": "cat", "1": "Auto 猫", "2": "unlabelled"}


@pytest.mark.usefixtures("prefect_server")
def test_card_report_and_status_have_the_counts_by_category(
    workspace: Workspace, dataset: Dataset
) -> None:
    assert status_of(workspace)["categories"] == {}
    plain = release(str(workspace.settings.root), "d", "plain")
    assert not {"categories", "categories_version", "label_id"} & plain.keys()
    name_all(workspace, dataset)
    expected = {"animal": 0, "cat": 1, "dog": 0, "Auto 猫": 1}
    assert status_of(workspace)["categories"] == {"d": expected}
    card = release(str(workspace.settings.root), "d", "named")
    assert card["categories"] == expected | {"unlabelled": 1}
    assert (card["categories_version"], card["label_id"]) == (1, 2)
    made = workspace.catalog.releases.get("named")
    html = workspace.objects.get(f"{made.key}/report.html").decode()
    assert "Masks by category: cat 1, Auto 猫 1, unlabelled 1." in html
    tar = io.BytesIO(workspace.objects.get(f"{made.key}/sa1b.tar"))
    with tarfile.open(fileobj=tar) as opened:
        assert opened.getnames() == ["categories.json", "sa_1.json"]
