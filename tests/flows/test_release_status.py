"""The status of each image in a release, and interrupted releases."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from engine.core.records import Source, Stage
from flows.operations import doctor
from flows.operations.sweep import sweep_workspace
from flows.release import build, release
from flows.release.export import ExportOptions, export_release
from flows.release.report_data import write_report
from flows.workspace.settings import FILE_NAME
from storage.catalog import (
    AnnotatorKind,
    Release,
    ReleaseState,
    RunKind,
    RunState,
    TaskKind,
    TaskResult,
)
from storage.formats.sa1b import read_sa1b
from tests.annotation.site import Site, make_site

STATUSES = {
    "0.png": "annotated",  # with masks
    "1.png": "annotated",  # nothing was found
    "2.png": "generated",  # nothing was found
    "3.png": "generated",  # and a reviewer fixed a mask
    "4.png": "neither",
    "5.png": "neither",  # submitted, not in the table yet
}


@pytest.fixture
def site(tmp_path: Path) -> Site:
    found = make_site(tmp_path / "ws", images=6)
    workspace, catalog, ids = found.workspace, found.workspace.catalog, found.image_ids
    found.start_run("people", RunKind.ASSISTED_MANUAL)
    found.add_tasks(TaskKind.ANNOTATE, "people")
    people = catalog.annotators.get_or_create("ada")
    for _ in range(2):
        task = workspace.queue.lease(people.id, kinds=[TaskKind.ANNOTATE], run_id="people")
        assert task is not None
        workspace.queue.submit(
            task.id, str(task.lease_id), f"annotations/{task.id}", TaskResult(made=1)
        )
    rows = found.mask_rows(0, "people", Source.ANNOTATOR, Stage.ASSISTED_MANUAL)
    workspace.masks.commit(rows, run_id="people", shard=0)
    catalog.runs.finish("people")
    found.start_run("made", RunKind.FULLY_AUTOMATIC)
    catalog.shards.plan("made", [ids[2:4]])
    shard = catalog.shards.lease("made", "somebody", 60)
    assert shard is not None
    (made,) = found.mask_rows(3, "made", Source.AUTOMATIC, Stage.FULLY_AUTOMATIC, limit=1)
    fix = replace(made, mask_id="fix", source=Source.ANNOTATOR, supersedes=made.mask_id)
    version = workspace.masks.commit([made, fix], run_id="made", shard=0)
    catalog.shards.commit("made", 0, str(shard.lease_id), masks=2, table_version=version, seconds=1)
    catalog.runs.finish("made")
    found.start_run("open", RunKind.SEMI_AUTOMATIC)
    return found


def begun(site: Site, name: str = "d-1") -> Release:
    version = site.workspace.masks.version()
    assert version is not None
    return site.workspace.catalog.releases.start(
        name, dataset_id=site.dataset_id, table_version=version, key=f"releases/{name}"
    )


def statuses(folder: Path) -> dict[str, str]:
    content = json.loads((folder / "instances.json").read_text())
    return {image["file_name"]: image["status"] for image in content["images"]}


def test_images_that_nobody_and_no_model_looked_at_are_left_out_unless_asked_for(
    site: Site, tmp_path: Path
) -> None:
    found = begun(site)
    known = {name: status for name, status in STATUSES.items() if status != "neither"}
    counts = export_release(site.workspace, found, tmp_path / "a", "coco")
    assert statuses(tmp_path / "a") == known
    assert counts["images"] == 4
    assert counts["statuses"] == {"annotated": 2, "generated": 2, "neither": 2}
    export_release(site.workspace, found, tmp_path / "b", "coco", ExportOptions(all_images=True))
    assert statuses(tmp_path / "b") == STATUSES
    export_release(site.workspace, found, tmp_path / "c", "sa1b")
    files = sorted((tmp_path / "c").glob("sa_*.json"))
    assert [read_sa1b(path).file_name for path in files] == list(known)
    assert [json.loads(p.read_text())["image"]["status"] for p in files] == list(known.values())


def test_what_is_annotated_or_generated_later_does_not_change_a_release(
    site: Site, tmp_path: Path
) -> None:
    workspace, catalog = site.workspace, site.workspace.catalog
    found = begun(site)
    ada = catalog.annotators.get_or_create("ada")
    task = workspace.queue.lease(ada.id, kinds=[TaskKind.ANNOTATE], run_id="people")
    assert task is not None
    site.start_run("later", RunKind.FULLY_AUTOMATIC)
    catalog.shards.plan("later", [site.image_ids[4:]])
    shard = catalog.shards.lease("later", "somebody", 60)
    assert shard is not None
    version = workspace.masks.commit([], run_id="later", shard=0)
    catalog.shards.commit(
        "later", 0, str(shard.lease_id), masks=0, table_version=version, seconds=1
    )
    export_release(workspace, found, tmp_path / "a", "coco", ExportOptions(all_images=True))
    assert statuses(tmp_path / "a") == STATUSES
    counts = export_release(workspace, begun(site, "d-2"), tmp_path / "b", "coco")
    assert counts["statuses"] == {"annotated": 2, "generated": 4, "neither": 0}


def test_a_release_that_breaks_off_has_failed_and_is_finished_when_asked_for_again(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, catalog = str(site.workspace.settings.root), site.workspace.catalog
    is_full = True

    def report(workspace: object, dataset: str, summary: object, path: Path) -> None:
        if is_full:
            site.workspace.objects.put("releases/d-1/instances.json", b"of the first try")
            raise OSError("no space left on the device")
        path.write_text("report")

    monkeypatch.setattr(build, "write_report", report)
    with pytest.raises(OSError, match="no space"):
        release.release.fn(root, "d", "d-1")
    assert catalog.releases.get("d-1").state == ReleaseState.FAILED
    (run,) = catalog.runs.all(kind=RunKind.RELEASE)
    assert (run.state, run.error) == (RunState.FAILED, "no space left on the device")
    is_full = False
    card = release.release.fn(root, "d", "d-1")
    assert card["statuses"]["neither"] == 2
    assert catalog.releases.get("d-1").state == ReleaseState.DONE
    assert [run.state for run in catalog.runs.all(kind=RunKind.RELEASE)] == [RunState.FINISHED]


def test_what_was_killed_is_found_by_doctor_and_closed_by_sweep(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace, catalog = site.workspace, site.workspace.catalog
    monkeypatch.setattr(doctor, "CHECKS", [row for row in doctor.CHECKS if row[0] == "runs"])
    (workspace.settings.root / FILE_NAME).write_text("outage_seconds = 0.0")
    begun(site)
    for name, kind in (("killed", RunKind.INGEST), ("works", RunKind.RETRAIN)):
        site.start_run(name, kind)
    site.start_run("waits", RunKind.REVIEW)
    site.add_tasks(TaskKind.REVIEW, "waits", [{"mask_ids": []}] * 6)
    workspace.settings = workspace.settings.model_copy(update={"outage_seconds": 0.0})
    catalog.runs.beat("works", 60)
    (_, found) = doctor.check_workspace(workspace.settings.root)
    assert found["detail"] == "2 runs that no process works on; 1 releases that no process works on"
    names = {"runs": ["semi_automatic open", "ingest killed"], "releases": ["d-1"]}
    assert sweep_workspace(workspace)["stale"] == names
    assert catalog.runs.get("killed").state == RunState.RUNNING
    assert sweep_workspace(workspace, delete=True)["stale"] == names
    assert catalog.runs.get("killed").state == RunState.FAILED
    assert catalog.releases.get("d-1").state == ReleaseState.FAILED
    for name in ("works", "waits"):
        assert catalog.runs.get(name).state == RunState.RUNNING
    assert doctor.check_workspace(workspace.settings.root)[1]["level"] == "ok"


@pytest.mark.parametrize(
    "names", [["ada"], ["simulated"], ["ada", "simulated"], []], ids=" and ".join
)
def test_a_report_says_whether_people_or_simulated_annotators_made_the_masks(
    site: Site, tmp_path: Path, names: list[str]
) -> None:
    catalog = site.workspace.catalog
    catalog.annotators.get_or_create("simulated", kind=AnnotatorKind.SIMULATED)
    for number, name in enumerate(names):
        rows = site.mask_rows(0, "done", Source.ANNOTATOR, Stage.ASSISTED_MANUAL, limit=2)
        rows = [
            replace(mask, annotator=name, mask_id=f"{name}{n}", shard=number)
            for n, mask in enumerate(rows)
        ]
        site.workspace.masks.commit(rows, run_id="done", shard=number)
    report = write_report(site.workspace, "d", {"rounds": []}, tmp_path / "report.html").read_text()
    assert ("People annotated 2 masks" in report) == ("ada" in names)
    assert ("Simulated annotators made 2 masks" in report) == ("simulated" in names)
