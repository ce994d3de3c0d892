"""Sweep, compaction, backup and restore of a workspace, as `dataengine` does them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from engine.annotation.embeddings import embedding_key
from engine.core.records import Source, Stage
from flows.cli.main import app
from flows.operations.backup import backup_catalog, restore_catalog
from flows.operations.compact import compact_workspace
from flows.operations.sweep import sweep_workspace
from flows.release.release import released_images
from flows.stages.commit_answers import commit_answers
from flows.stages.run_context import RunContext
from flows.workspace import progress
from flows.workspace.workspace import Workspace
from storage.catalog import Catalog, RunKind, TaskKind, TaskResult
from storage.catalog.backup import BackupError
from storage.local_store import LocalStore
from storage.masks import write_parquet
from tests.annotation.site import Site, make_site

LONG_AGO = datetime.now(UTC) - timedelta(days=3)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return make_site(tmp_path / "ws")


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    yield
    progress.use(progress.Silent())


def _age(workspace: Workspace) -> None:
    """Make every object three days old."""
    store = workspace.objects
    assert isinstance(store, LocalStore)
    for path in store.root.rglob("*"):
        if path.is_file():
            os.utime(path, (LONG_AGO.timestamp(), LONG_AGO.timestamp()))


def _keys(workspace: Workspace, prefix: str = "") -> set[str]:
    return {info.key for info in workspace.objects.list(prefix)}


def _answer_all(site: Site, run_id: str, kind: TaskKind) -> None:
    """Submit every task of the run with one mask and its trajectory."""
    workspace = site.workspace
    ada = workspace.catalog.annotators.get_or_create("ada")
    number = 0
    while task := workspace.queue.lease(ada.id, kinds=[kind], run_id=run_id):
        rows = site.mask_rows(number, run_id, Source.ANNOTATOR, Stage.ASSISTED_MANUAL, limit=1)
        name = f"{run_id}/{task.id}-{task.lease_id}.parquet"
        workspace.objects.put(f"annotations/{name}", write_parquet(rows))
        result = TaskResult(made=1, seconds=10.0)
        workspace.queue.submit(task.id, str(task.lease_id), f"annotations/{name}", result)
        number += 1


def _context(site: Site, run_id: str) -> RunContext:
    return RunContext(
        run_id=run_id,
        dataset="d",
        dataset_id=site.dataset_id,
        stage=Stage.ASSISTED_MANUAL,
        round=1,
        model="lite",
    )


# Sweep


def test_a_sweep_of_a_workspace_in_use_finds_nothing(site: Site) -> None:
    site.annotate()
    site.complete()
    site.review()
    _answer_all(site, "annotate", TaskKind.ANNOTATE)
    workspace = site.workspace
    workspace.objects.put(embedding_key("lite", site.image_ids[0]), b"embedding")
    workspace.catalog.releases.start(
        "d-1", dataset_id=site.dataset_id, table_version=1, key="releases/d-1"
    )
    workspace.objects.put("releases/d-1/instances.json", b"{}")
    workspace.objects.put("something/else", b"of somebody")
    _age(workspace)
    before = _keys(workspace)
    assert sweep_workspace(workspace, delete=True)["objects"] == 0
    assert _keys(workspace) == before


ORPHANS = {
    "annotations/annotate/1-ffff.parquet": b"an answer whose lease was lost",
    "annotations/gone/99999-ffff.parquet": b"of a task that is gone",
    "trajectories/tasks/annotate/1-ffff.parquet": b"its trajectory",
    "prefill/gone/1.parquet": b"of a run that is gone",
    "embeddings/lite/99999.safetensors": b"of an image that is gone",
    "embeddings/gone/1.safetensors": b"of a model that is gone",
    "models/gone/model.safetensors": b"never entered",
    "releases/gone/instances.json": b"never entered",
    "doctor/abc": b"of a check that was killed",
    "masks/part-lost.parquet": b"of a commit that never came",
    "ground_truth/part-lost.parquet": b"the same",
}


def test_orphans_are_told_first_and_deleted_when_asked(site: Site) -> None:
    site.annotate()
    site.review()
    workspace = site.workspace
    kept = _keys(workspace)
    for key, data in ORPHANS.items():
        workspace.objects.put(key, data)
    assert sweep_workspace(workspace, delete=True)["objects"] == 0  # all are too young
    _age(workspace)
    told = sweep_workspace(workspace)
    assert not told["deleted"]
    assert told["objects"] == len(ORPHANS)
    assert told["bytes"] == sum(map(len, ORPHANS.values()))
    assert told["kinds"]["embeddings"]["objects"] == 2
    assert set(ORPHANS) <= _keys(workspace)
    assert sweep_workspace(workspace, delete=True)["objects"] == len(ORPHANS)
    assert _keys(workspace) == kept
    assert sweep_workspace(workspace)["objects"] == 0
    assert len(list(workspace.masks.masks())) == 9


def test_answers_go_once_their_run_is_in_the_table_and_finished(site: Site) -> None:
    site.annotate()
    workspace = site.workspace
    _answer_all(site, "annotate", TaskKind.ANNOTATE)
    _age(workspace)
    assert sweep_workspace(workspace, delete=True)["objects"] == 0
    figures = commit_answers(workspace, _context(site, "annotate"))
    assert sweep_workspace(workspace, delete=True)["objects"] == 0  # killed before it finished
    workspace.catalog.runs.finish("annotate", figures.to_json())
    found = sweep_workspace(workspace, delete=True)
    assert found["kinds"] == {"annotations": {"objects": 3, "bytes": found["bytes"]}}
    assert len(list(workspace.masks.masks(run_id="annotate"))) == 3
    assert (
        commit_answers(workspace, _context(site, "annotate")) == figures
    )  # repeated, without effect


def test_a_finished_run_without_its_masks_keeps_its_answers(site: Site) -> None:
    site.annotate()
    _answer_all(site, "annotate", TaskKind.ANNOTATE)
    site.workspace.catalog.runs.finish("annotate", {})
    _age(site.workspace)
    assert sweep_workspace(site.workspace, delete=True)["objects"] == 0


# Compaction


def test_compaction_keeps_what_releases_and_models_were_made_from(site: Site) -> None:
    workspace, catalog = site.workspace, site.workspace.catalog
    site.start_run("made", RunKind.FULLY_AUTOMATIC)
    rows = [site.mask_rows(n, "made", Source.AUTOMATIC, Stage.FULLY_AUTOMATIC)[0] for n in range(3)]
    versions = []
    for shard, row in enumerate(rows):
        versions.append(
            workspace.masks.commit([replace(row, shard=shard)], run_id="made", shard=shard)
        )
    catalog.models.add("m", architecture="lite", key="models/m/x", table_version=versions[0])
    release = catalog.releases.start(
        "d-1", dataset_id=site.dataset_id, table_version=versions[1], key="releases/d-1"
    )

    def of_release() -> list[str]:
        found = released_images(workspace, release)
        return [mask.mask_id for item in found for mask in item.masks]

    before = of_release()
    settings = workspace.settings.operations.model_copy(update={"vacuum_days": 0.0})
    workspace.settings = workspace.settings.model_copy(update={"operations": settings})
    found = compact_workspace(workspace)["masks"]
    assert (found["files_before"], found["files_after"], found["vacuumed"]) == (3, 1, 1)
    assert found["kept_versions"] == [versions[0], versions[1], workspace.masks.version()]
    assert of_release() == before
    assert len(list(workspace.masks.masks(version=versions[0]))) == 1
    assert len(list(workspace.masks.masks())) == 3
    _age(workspace)
    assert "masks" not in sweep_workspace(workspace, delete=True)["kinds"]
    assert of_release() == before


def test_a_running_training_keeps_the_versions_since_it_began(site: Site) -> None:
    workspace = site.workspace
    site.review()
    settings = workspace.settings.operations.model_copy(update={"vacuum_days": 0.0})
    workspace.settings = workspace.settings.model_copy(update={"operations": settings})
    workspace.masks.commit(
        site.mask_rows(0, "more", Source.AUTOMATIC, Stage.FULLY_AUTOMATIC), run_id="more", shard=0
    )
    version = workspace.masks.version()
    workspace.catalog.runs.start("train", RunKind.RETRAIN, dataset_id=site.dataset_id)
    assert compact_workspace(workspace)["masks"]["vacuumed"] == 0
    assert len(list(workspace.masks.masks(version=version))) == 12
    workspace.catalog.runs.finish("train")
    assert compact_workspace(workspace)["masks"]["vacuumed"] == 2


# The commands


def _run(*arguments: str) -> dict[str, Any]:
    result = CliRunner().invoke(app, [*arguments, "--json"])
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_the_commands_tell_what_they_did(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.review()
    monkeypatch.setenv("DATAENGINE_WORKSPACE", str(site.workspace.settings.root))
    assert _run("sweep") == {
        "kinds": {},
        "objects": 0,
        "bytes": 0,
        "deleted": False,
        "stale": {"runs": [], "releases": []},
    }
    assert _run("compact")["masks"]["files_after"] == 1
    file = tmp_path / "catalog.backup"
    assert _run("backup", str(file))["rows"]["images"] == 3
    assert file.stat().st_mode & 0o077 == 0
    newest = site.workspace.catalog.audit.latest(1)[0]
    assert newest.action == "backup"
    refused = CliRunner().invoke(app, ["restore", str(file)])
    assert isinstance(refused.exception, BackupError)
    monkeypatch.setenv("DATAENGINE_DATABASE_URL", f"sqlite:///{tmp_path / 'new.db'}")
    assert _run("restore", str(file))["rows"]["tasks"] == 3
    with Catalog(f"sqlite:///{tmp_path / 'new.db'}") as catalog:
        assert catalog.datasets.get("d").id == site.dataset_id


def test_a_workspace_goes_on_from_its_backup(site: Site, tmp_path: Path) -> None:
    """Tasks that people hold stay theirs."""
    site.annotate()
    workspace = site.workspace
    ada = workspace.catalog.annotators.get_or_create("ada")
    task = workspace.queue.lease(ada.id, kinds=[TaskKind.ANNOTATE])
    assert task is not None
    backup_catalog(workspace.settings.catalog_url, tmp_path / "b")
    url = f"sqlite:///{tmp_path / 'new.db'}"
    restore_catalog(url, tmp_path / "b")
    settings = workspace.settings.model_copy(update={"database_url": url})
    again = Workspace(settings)
    again.queue.submit(task.id, str(task.lease_id), None, TaskResult(seconds=1.0))
    assert again.queue.pending("annotate") == 2
    assert again.pixels(again.catalog.images.get(site.image_ids[0])).shape == (160, 224, 3)
