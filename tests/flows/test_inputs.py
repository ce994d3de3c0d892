"""Common inputs of users: corrected annotations, repeated names, odd files. Every skip is
reported."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from engine.core import rle
from engine.core.records import Source, Stage
from flows.cli.main import app
from flows.data import ingest
from flows.data.annotations import imported
from flows.data.ingest import ingest_folder, path_as_parameter
from flows.data.inputs import IngestReport
from flows.operations.status import status_of
from flows.release.export import export_release
from flows.release.image_names import ImageNames
from flows.workspace import progress
from flows.workspace.workspace import Workspace
from storage.outputs import OutputFolder

SIZE = (30, 40)


def picture(path: Path, seed: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (*SIZE, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, "PNG")
    return path


def coco(path: Path, masks: dict[str, list[int]]) -> Path:
    """For each file name, squares at these positions along the top edge."""
    images = [
        {"id": n, "file_name": name, "height": SIZE[0], "width": SIZE[1]}
        for n, name in enumerate(masks)
    ]
    rows = [
        {"image_id": n, "segmentation": [[x, 2, x + 4, 2, x + 4, 8, x, 8]]}
        for n, places in enumerate(masks.values())
        for x in places
    ]
    path.write_text(json.dumps({"images": images, "annotations": rows}))
    return path


def places(workspace: Workspace, image_id: int = 1) -> list[int]:
    truths = workspace.truths_of([image_id]).get(image_id, [])
    return sorted(rle.box_xyxy(mask)[0] for mask in truths)


def counts(report: IngestReport) -> dict[str, int]:
    return {row["what"].split(" (")[0]: row["count"] for row in report.passed_over}


@pytest.mark.parametrize("corrected", [[0, 10, 20], [0], [5, 15], []])
def test_corrected_annotations_replace_the_old_ones_only_if_asked_and_these_stay_in_history(
    corrected: list[int], workspace: Workspace, tmp_path: Path
) -> None:
    picture(tmp_path / "in/a.png", 1)
    first = coco(tmp_path / "first.json", {"a.png": [0, 10]})
    second = coco(tmp_path / "second.json", {"a.png": corrected})
    ingest_folder(workspace, "d", tmp_path / "in", first)
    version = workspace.truths.version()
    kept = ingest_folder(workspace, "d", tmp_path / "in", second)
    assert places(workspace) == [0, 10]
    assert counts(kept) == {"images that have other annotations already": 1}
    assert "a.png: has 2 annotations already" in kept.problems[0]

    taken = ingest_folder(workspace, "d", tmp_path / "in", second, replace_annotations=True)
    assert (taken.replaced, taken.problems) == (1, [])
    assert places(workspace) == corrected
    assert workspace.images_with_truth("d") == ({1} if corrected else set())
    before = workspace.truths.masks(version=version)
    assert sorted(mask.box_xyxy[0] for mask in before) == [0, 10]
    again = ingest_folder(workspace, "d", tmp_path / "in", second, replace_annotations=True)
    assert (again.masks, again.problems) == (0, [])
    assert places(workspace) == corrected


def test_nothing_usable_in_a_correction_replaces_nothing(
    workspace: Workspace, tmp_path: Path
) -> None:
    picture(tmp_path / "in/a.png", 1)
    first = coco(tmp_path / "first.json", {"a.png": [0, 10]})
    ingest_folder(workspace, "d", tmp_path / "in", first)
    outside = coco(tmp_path / "second.json", {"a.png": [1000]})
    report = ingest_folder(workspace, "d", tmp_path / "in", outside, replace_annotations=True)
    assert counts(report) == {"annotations that are no usable mask": 1}
    assert places(workspace) == [0, 10]


@pytest.mark.parametrize("batch", [1, 100])
def test_the_same_bytes_under_several_names_have_the_annotations_of_all(
    batch: int, workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest, "BATCH", batch)
    for name in ("a.png", "b.png", "sub/c.png"):
        picture(tmp_path / "in" / name, 1)
    file = coco(tmp_path / "f.json", {"a.png": [0], "b.png": [0, 10], "sub/c.png": [20]})
    report = ingest_folder(workspace, "d", tmp_path / "in", file)
    assert (report.added, report.known, report.masks) == (1, 2, 3)
    assert places(workspace) == [0, 10, 20]
    again = ingest_folder(workspace, "d", tmp_path / "in", file)
    assert (again.masks, again.problems) == (0, [])


def test_whatever_is_not_used_is_counted_and_named_in_the_report_and_in_status(
    workspace: Workspace, tmp_path: Path
) -> None:
    folder = tmp_path / "in"
    picture(folder / "a.png", 1)
    picture(folder / "b.png", 2)
    picture(folder / ".hidden/c.png", 3)
    picture(tmp_path / "elsewhere/d.png", 4)
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    (folder / "e.png").symlink_to(tmp_path / "elsewhere/d.png")
    (folder / "f.png").symlink_to("nowhere")
    (folder / "g.png").symlink_to("g.png")
    for number in range(7):
        (folder / f"note{number}.txt").touch()
    OutputFolder(folder).write("overlay.png", (folder / "a.png").read_bytes())
    pages = [Image.new("L", (40, 30), n) for n in (10, 20, 30)]
    pages[0].save(folder / "pages.tif", save_all=True, append_images=pages[1:])
    file = coco(folder / "instances.json", {"a.png": [0, 10], "gone.png": [0]})
    content = json.loads(file.read_text())
    content["annotations"][1]["iscrowd"] = 1
    content["annotations"].append({"image_id": 99})
    file.write_text(json.dumps(content))

    report = ingest_folder(workspace, "d", folder, file)
    assert counts(report) == {
        "files with the suffix .txt": 7,
        "images that the annotations do not name": 2,
        "hidden files and folders": 1,
        "files that dataengine wrote": 2,
        "linked folders": 1,
        "links that lead out of the folder": 1,
        "links that lead nowhere, and other things that are no files": 2,
        "files with further pages or frames": 1,
        "annotated images without a file": 1,
        "annotations of images that the file does not have": 1,
        "crowds, which are no objects": 1,
    }
    assert report.passed_over[0]["examples"] == [f"note{number}.txt" for number in range(5)]
    ingest_folder(workspace, "d", tmp_path / "elsewhere")
    assert status_of(workspace)["passed_over"] == {"d": report.passed_over}
    ingest_folder(workspace, "d", folder)
    assert len(status_of(workspace)["passed_over"]["d"]) == 8  # what its latest ingest skipped


def test_odd_names_come_in_escaped_and_folders_that_cannot_be_read_are_quarantined(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xd6\xd0"))
    picture(odd / "good.png", 1)
    picture(odd / os.fsdecode(b"caf\xe9.png"), 2)
    picture(odd / "new\nline.png", 3)
    picture(odd / "closed/d.png", 4)
    scandir = os.scandir

    def closed(path: Path) -> Any:
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", closed)
    file = coco(odd / "c.json", {"caf%E9.png": [0]})
    root = str(workspace.settings.root)
    told = ingest.ingest.fn(root, "d", path_as_parameter(odd), path_as_parameter(file))
    assert path_as_parameter(odd).isascii()
    assert (told["added"], told["masks"], told["quarantined"]) == (3, 1, 1)
    names = {image.file_name for image in workspace.catalog.images.page(1)}
    assert names == {"good.png", "caf%E9.png", "new\nline.png"}
    (row,) = workspace.catalog.quarantine.all(1)
    assert row.path == "closed"
    assert "cannot be read" in row.reason
    json.dumps([told, status_of(workspace)], default=str).encode()


# names in exports


def exported(workspace: Workspace, folder: Path) -> dict[str, int]:
    """A different mask for each image, released; the masks' positions by the names in the
    export."""
    masks = []
    for image in workspace.catalog.images.each(1):
        pixels = np.zeros(SIZE, bool)
        pixels[2:8, image.id : image.id + 4] = True
        origin = imported("d", "r", stage=Stage.ASSISTED_MANUAL)
        masks.append(origin.mask(image.id, 0, rle.encode(pixels)))
    assert {mask.source for mask in masks} == {Source.IMPORTED}
    version = workspace.masks.commit(masks, run_id="r", shard=0)
    begun = workspace.catalog.releases.start("r", dataset_id=1, table_version=version, key="r")
    export_release(workspace, begun, folder, "coco")
    export_release(workspace, begun, folder / "sa1b", "sa1b")
    content = json.loads((folder / "instances.json").read_text())
    names = {row["id"]: row["file_name"] for row in content["images"]}
    sa1b = [json.loads(path.read_text())["image"] for path in (folder / "sa1b").glob("sa_*")]
    assert {row["image_id"]: row["file_name"] for row in sa1b} == names
    found = {names[row["image_id"]]: row["bbox"][0] for row in content["annotations"]}
    assert len(found) == len(masks)
    return found


def test_two_folders_with_the_same_names_are_told_apart_in_exports_and_back(
    workspace: Workspace, tmp_path: Path
) -> None:
    cameras = ("north", "south", "old/south")
    for seed, camera in enumerate(cameras):
        picture(tmp_path / camera / "0001.png", seed)
        picture(tmp_path / camera / f"only-{seed}.png", 10 + seed)
        ingest_folder(workspace, "d", tmp_path / camera)
    found = exported(workspace, tmp_path / "out")
    assert set(found) == {
        f"{camera}/{name}"
        for n, camera in enumerate(cameras)
        for name in ("0001.png", f"only-{n}.png")
    }
    for dataset, camera in enumerate(cameras, start=2):
        file = tmp_path / "out/instances.json"
        report = ingest_folder(workspace, f"from {dataset}", tmp_path / camera, file)
        assert report.masks == 2
        assert counts(report) == {"annotated images without a file": 4}
        for image in workspace.catalog.images.each(dataset):
            assert places(workspace, image.id) == [found[f"{camera}/{image.file_name}"]]


def test_a_picture_that_replaced_another_has_its_name_and_its_own_masks(
    workspace: Workspace, tmp_path: Path
) -> None:
    for seed in range(3):  # the same file, edited twice
        picture(tmp_path / "in/a.png", seed)
        ingest_folder(workspace, "d", tmp_path / "in")
    picture(tmp_path / "in/b.png", 9)
    ingest_folder(workspace, "d", tmp_path / "in")
    found = exported(workspace, tmp_path / "out")
    first, second, newest, other = workspace.catalog.images.page(1)
    assert found["a.png"] == newest.id
    assert found["b.png"] == other.id
    assert set(found) == {
        *("a.png", "b.png"),
        *(f"a.{image.sha256[:8]}.png" for image in (first, second)),
    }
    report = ingest_folder(workspace, "e", tmp_path / "in", tmp_path / "out/instances.json")
    again = workspace.catalog.images.find_by_name(2, "a.png")
    assert again is not None
    assert places(workspace, again.id) == [newest.id]
    assert counts(report) == {"annotated images without a file": 2}
    picture(tmp_path / "in/b.png", 10)
    report = ingest_folder(workspace, "f", tmp_path / "in", tmp_path / "out/instances.json")
    assert "another image of this name" in report.problems[0]


def test_images_of_before_their_folder_was_kept_are_told_apart_too(
    workspace: Workspace, tmp_path: Path
) -> None:
    for seed in range(2):
        picture(tmp_path / str(seed) / "a.png", seed)
        ingest_folder(workspace, "d", tmp_path / str(seed))
    with workspace.catalog.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE images SET run_id = NULL")
    older, newer = workspace.catalog.images.page(1)
    names = ImageNames(workspace, 1)
    assert names.of(newer) == "a.png"
    assert names.of(older) == f"a.{older.sha256[:8]}.png"


@pytest.fixture
def _quiet() -> Iterator[None]:
    yield
    progress.use(progress.Silent())


@pytest.mark.usefixtures("_quiet")
def test_replacing_annotations_needs_some(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workspace.settings.root)
    result = CliRunner().invoke(app, ["ingest", str(tmp_path), "--replace-annotations"])
    assert result.exit_code == 2
    assert "--coco" in result.output
