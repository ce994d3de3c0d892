"""A taken-down image is gone from store and releases; its releases have successors."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from engine.annotation.embeddings import embedding_key
from engine.core.records import Source, Stage
from flows.cli.main import app
from flows.release import build
from flows.release import release as module
from flows.release.export import export_release
from flows.release.freeze import needed_files
from flows.release.release import NothingToReleaseError, release_to_export
from flows.workspace import progress
from storage import erasures
from storage.catalog import RunKind
from storage.local_store import LocalStore
from storage.release_files import ReleaseFileError
from tests.annotation.site import Site, make_site


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    yield
    progress.use(progress.Silent())


@pytest.fixture(autouse=True)
def _undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports are not drawn, which takes a second each."""
    monkeypatch.setattr(build, "write_report", lambda w, d, s, path: path.write_text(str(s)))


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    """Three images with three masks each; release `d-1` of all; model `m-2`, trained on them, and
    `m-3`, trained further elsewhere."""
    site = make_site(tmp_path / "ws")
    workspace = site.workspace
    monkeypatch.setenv("DATAENGINE_WORKSPACE", str(workspace.settings.root))
    site.start_run("made", RunKind.FULLY_AUTOMATIC)
    rows = [
        row
        for number in range(3)
        for row in site.mask_rows(number, "made", Source.AUTOMATIC, Stage.FULLY_AUTOMATIC)
    ]
    version = workspace.masks.commit(rows, run_id="made", shard=0)
    for image_id in site.image_ids:
        workspace.objects.put(embedding_key("lite", image_id), b"embedding")
    for name, parent, pinned in (("m-1", None, None), ("m-2", "m-1", version), ("m-3", "m-2", 0)):
        workspace.catalog.models.add(
            name,
            architecture="lite",
            key=f"models/{name}/x",
            parent=parent,
            table_version=pinned,
        )
    site.start_run("train", RunKind.RETRAIN)
    workspace.catalog.runs.finish("train", {"version": "m-2"})
    module.release.fn(str(workspace.settings.root), "d", "d-1", None)
    return site


def run(*arguments: str) -> Any:
    """The JSON that a command prints."""
    result = CliRunner().invoke(app, [*arguments, "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def _is_done(site: Site, gone: int, tmp_path: Path) -> None:
    """The image is nowhere; `d-1` has a successor without it, which is whole."""
    workspace, store = site.workspace, site.workspace.objects
    assert gone not in {mask.image_id for mask in workspace.masks.masks()}
    assert not store.exists(embedding_key("lite", gone))
    assert [info.key for info in store.list("releases/d-1/")] == []
    with pytest.raises(NothingToReleaseError, match="withdrawn"):
        release_to_export(workspace, "d-1", None)
    with pytest.raises(ReleaseFileError, match="withdrawn"):
        needed_files(workspace, workspace.catalog.releases.get("d-1"))
    assert run("release", "verify", "d-1-r2")["ok"]
    successor = workspace.catalog.releases.get("d-1-r2")
    files = needed_files(workspace, successor)
    assert gone not in files.images().column("image_id").to_pylist()
    (stone,) = files.manifest.tombstones
    assert (stone["image_id"], stone["masks"]) == (gone, 3)
    assert files.manifest.supersedes == "d-1"
    text = store.get(f"{successor.key}/README.md").decode()
    assert f"- image {gone}: 3 masks" in text
    counts = export_release(workspace, successor, tmp_path / "out", "coco")
    assert (counts["images"], counts["masks"]) == (2, 6)
    assert f"made/{gone}/" not in (tmp_path / "out" / "instances.json").read_text()
    rows = {row["name"]: row for row in run("release", "list")["releases"]}
    assert rows["d-1"]["state"] == "withdrawn"
    assert rows["d-1"]["superseded_by"] == "d-1-r2"


def test_a_dry_run_tells_what_a_takedown_replaces_and_changes_nothing(site: Site) -> None:
    before = [info.key for info in site.workspace.objects.list()]
    told = run("release", "takedown", "0.png", "--dataset", "d", "--dry-run")
    assert told["successors"] == {"d-1": "d-1-r2"}
    assert told["models"] == ["m-2", "m-3"]
    assert (told["images"], told["masks"], told["erased"]) == (1, 3, None)
    assert [info.key for info in site.workspace.objects.list()] == before
    refused = CliRunner().invoke(app, ["release", "takedown", "0.png", "--dataset", "d", "--json"])
    assert refused.exit_code == 2
    unknown = CliRunner().invoke(app, ["release", "takedown", "9.png", "--dataset", "d", "--yes"])
    assert "no image" in unknown.output


def test_a_takedown_leaves_a_successor_and_marks_models(site: Site, tmp_path: Path) -> None:
    gone = site.image_ids[0]
    run("release", "takedown", "0.png", "--dataset", "d", "--yes")
    _is_done(site, gone, tmp_path)
    models = site.workspace.catalog.models
    assert "taken_down" not in models.get("m-1").card
    (mark,) = models.get("m-2").card["taken_down"]
    assert (mark["images"], mark["how"]) == (1, "trained")
    assert models.get("m-3").card["taken_down"][0]["how"] == "parent"
    # a second one is counted on from the first
    run("release", "takedown", "1.png", "--dataset", "d", "--yes")
    third = site.workspace.catalog.releases.get("d-1-r3")
    stones = needed_files(site.workspace, third).manifest.tombstones
    assert [one["image_id"] for one in stones] == site.image_ids[:2]
    assert third.card["masks"] == 3


class Killed(BaseException):
    """Stands for a killed process."""


def test_a_takedown_goes_on_wherever_it_was_killed(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kill it before the first change of the store, then some changes later, and so on."""
    left, survived = 0, 0
    real = {name: getattr(LocalStore, name) for name in ("put", "put_file", "delete")}

    def dying(name: str) -> Any:
        def call(self: LocalStore, *arguments: Any) -> None:
            nonlocal left
            if left == 0:
                raise Killed
            left -= 1
            real[name](self, *arguments)

        return call

    for name in real:
        monkeypatch.setattr(LocalStore, name, dying(name))
    command = ["release", "takedown", "0.png", "--dataset", "d", "--yes", "--json"]
    while True:
        left = survived
        try:
            result = CliRunner().invoke(app, command, catch_exceptions=False)
        except Killed:
            survived += 5
            if erasures.unfinished(site.workspace.catalog):
                command = ["erase", "pending", "--json"]
            continue
        assert result.exit_code == 0, result.output
        break
    assert survived > 10
    monkeypatch.undo()
    monkeypatch.setenv("DATAENGINE_WORKSPACE", str(site.workspace.settings.root))
    _is_done(site, site.image_ids[0], tmp_path)
    assert erasures.pending(site.workspace.catalog, site.workspace.objects) == []
