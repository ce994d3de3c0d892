"""Erased data is gone everywhere, also after kills and restored backups."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from engine.annotation.embeddings import embedding_key
from engine.core.records import Source, Stage
from flows.cli.main import app
from flows.operations.backup import backup_catalog
from flows.operations.doctor import check_workspace
from flows.operations.sweep import sweep_workspace
from flows.release.release import NothingToReleaseError, release_to_export
from flows.workspace import progress
from flows.workspace.workspace import Workspace
from storage import erasures
from storage.catalog import (
    Catalog,
    NewImage,
    NewVerdict,
    RunKind,
    TaskKind,
    TaskResult,
    VerdictKind,
)
from storage.compaction import compact
from storage.erasures import BusyError
from storage.generations import CatalogBehindError
from storage.local_store import LocalStore
from storage.masks import write_parquet
from storage.objects import ObjectStore
from storage.trajectories import TrajectoryStep, read_trajectories, write_trajectories
from tests.annotation.site import Site, make_site

NAME = "Adalovelace"
WORD = "secretbird"


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    yield
    progress.use(progress.Silent())


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    """Three images, each with a person's mask, two table versions, an answer, steps, a verdict, an
    embedding; and a release of all."""
    site = make_site(tmp_path / "ws")
    workspace, catalog, store = site.workspace, site.workspace.catalog, site.workspace.objects
    monkeypatch.setenv("DATAENGINE_WORKSPACE", str(workspace.settings.root))
    catalog.quarantine.add(
        site.dataset_id, f"{WORD}.png", "odd", stage="ingest", image_id=site.image_ids[0]
    )
    site.annotate()
    ada = catalog.annotators.get_or_create(NAME, role="reviewer")
    catalog.audit.add("annotator_added", NAME, command=f"annotators add {NAME} --role reviewer")
    for shard, image_id in enumerate(site.image_ids):
        _hand_in(site, ada.id, shard)
        store.put(embedding_key("lite", image_id), b"embedding")
    steps = [read_trajectories(store.get(key)) for key in _keys(store, "trajectories/")]
    assert len(steps) == 3
    store.put("evaluations/d/lite/0.json", b"{}")
    store.put("releases/d-1/instances.json", b"{}")
    version = workspace.masks.version()
    assert version is not None
    catalog.releases.start(
        "d-1", dataset_id=site.dataset_id, table_version=version, key="releases/d-1"
    )
    catalog.releases.finish("d-1", {"masks": 9})
    compact(store)  # older versions now have their own files
    return site


def _hand_in(site: Site, person_id: int, shard: int) -> None:
    """Add an image's answer, steps, draft, verdict, and its masks in both tables."""
    workspace, catalog, store = site.workspace, site.workspace.catalog, site.workspace.objects
    image_id = site.image_ids[shard]
    task = workspace.queue.lease(person_id, kinds=[TaskKind.ANNOTATE], run_id="annotate")
    assert task is not None
    assert task.image_id == image_id
    rows = [
        replace(mask, shard=shard, annotator=NAME)
        for mask in site.mask_rows(shard, "annotate", Source.ANNOTATOR, Stage.ASSISTED_MANUAL)
    ]
    step = TrajectoryStep(
        mask_id=rows[0].mask_id,
        image_id=image_id,
        run_id="annotate",
        task_id=task.id,
        annotator=NAME,
        step=0,
        kind="click",
        at=0.5,
    )
    name = f"annotate/{task.id}-{task.lease_id}.parquet"
    store.put(f"annotations/{name}", write_parquet(rows))
    store.put(f"trajectories/tasks/{name}", write_trajectories([step]))
    result = TaskResult(made=3, trajectories=f"trajectories/tasks/{name}")
    catalog.drafts.keep(task.id, person_id, 1, {"by": NAME})
    workspace.queue.submit(task.id, str(task.lease_id), f"annotations/{name}", result)
    verdict = NewVerdict(
        mask_id=rows[0].mask_id,
        task_id=task.id,
        verdict=VerdictKind.REJECT,
        annotator_id=person_id,
        seconds=1.0,
        reason=f"ask {NAME} about it",
    )
    catalog.verdicts.add_many([verdict])
    workspace.masks.commit(rows, run_id="annotate", shard=shard)
    workspace.truths.commit(
        [replace(mask, mask_id=f"t/{mask.mask_id}") for mask in rows],
        run_id="annotate",
        shard=shard,
    )


def _keys(store: ObjectStore, prefix: str = "") -> list[str]:
    return [info.key for info in store.list(prefix)]


def _run(*arguments: str) -> dict[str, Any]:
    result = CliRunner().invoke(app, [*arguments, "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def _everything(workspace: Workspace) -> bytes:
    """All bytes of the workspace except its settings, with Parquet columns as text."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    found = []
    for path in sorted(workspace.settings.root.rglob("*")):
        if path.is_file() and path.suffix != ".toml":
            data = path.read_bytes()
            found.append(data)
            if path.suffix == ".parquet" and "_delta_log" not in str(path):
                table = pq.read_table(pa.BufferReader(data))
                names = [name for name in ("annotator", "mask_id") if name in table.column_names]
                found.append(str(table.select(names).to_pydict()).encode())
    return b"\n".join(found)


def _is_whole(site: Site, image_ids: list[int]) -> None:
    """These images have all their data, others none."""
    workspace, store = site.workspace, site.workspace.objects
    for table in (workspace.masks, workspace.truths):
        assert {mask.image_id for mask in table.masks()} == set(image_ids)
        assert len(list(table.masks())) == 3 * len(image_ids)
    numbers = [site.image_ids.index(image_id) for image_id in image_ids]
    assert sorted(_keys(store, "images/")) == [f"images/{number}.png" for number in numbers]
    assert sorted(_keys(store, "embeddings/")) == [embedding_key("lite", i) for i in image_ids]
    for prefix in ("annotations/", "trajectories/"):
        assert len(_keys(store, prefix)) == len(image_ids)
    tasks = list(workspace.queue.submitted("annotate"))
    assert [task.image_id for task in tasks] == image_ids
    for task in tasks:
        assert store.exists(str(task.result_key))
        assert store.exists(str(task.result.trajectories))


def test_a_dry_run_tells_and_changes_nothing(site: Site) -> None:
    before = _keys(site.workspace.objects)
    told = _run("erase", "image", str(site.image_ids[0]), "--dataset", "d", "--dry-run")
    assert (told["images"], told["masks"], told["releases"]) == (1, 6, ["d-1"])
    assert told["erased"] is None
    refused = CliRunner().invoke(app, ["erase", "dataset", "d", "--json"])
    assert refused.exit_code != 0
    assert _keys(site.workspace.objects) == before
    _is_whole(site, site.image_ids)


def test_an_erased_image_is_nowhere_and_the_others_are_whole(site: Site) -> None:
    gone, *left = site.image_ids
    pinned = site.workspace.catalog.releases.get("d-1").table_version
    done = _run("erase", "image", "0.png", "--dataset", "d", "--yes")["erased"]
    _is_whole(site, left)
    assert done["unreadable_versions"] == [pinned]
    rest = _everything(site.workspace)
    assert WORD.encode() not in rest
    assert f"annotate/{gone}/1".encode() not in rest
    with pytest.raises(NothingToReleaseError, match="withdrawn"):
        release_to_export(site.workspace, "d-1", None)
    assert _keys(site.workspace.objects, "releases/") == []
    assert erasures.pending(site.workspace.catalog, site.workspace.objects) == []
    assert compact(site.workspace.objects).version is not None
    assert sweep_workspace(site.workspace)["objects"] == 0


def test_an_erased_person_is_a_pseudonym_and_the_work_stays(site: Site) -> None:
    done = _run("erase", "person", NAME, "--yes")["erased"]
    assert NAME.encode() not in _everything(site.workspace)
    _is_whole(site, site.image_ids)
    pseudonym = f"erased-{done['id'][:12]}"
    assert {mask.annotator for mask in site.workspace.masks.masks()} == {pseudonym}
    person = site.workspace.catalog.annotators.find(pseudonym)
    assert person is not None
    assert site.workspace.catalog.verdicts.counts(site.dataset_id)[VerdictKind.REJECT] == 3
    task = next(iter(site.workspace.queue.submitted("annotate")))
    steps = read_trajectories(site.workspace.objects.get(str(task.result.trajectories)))
    assert steps.column("annotator").to_pylist() == [pseudonym]


def test_an_erased_dataset_leaves_other_datasets_and_shared_pixels(site: Site) -> None:
    catalog, store = site.workspace.catalog, site.workspace.objects
    other = catalog.datasets.get_or_create("other")
    first = catalog.images.get(site.image_ids[0])
    row = NewImage(sha256=first.sha256, key=first.key, file_name="mine.png", height=160, width=224)
    (mine,) = catalog.images.add_many(other.id, [row]).ids
    masks = [
        replace(mask, image_id=mine, dataset="other", run_id="o", mask_id=f"o/{number}")
        for number, mask in enumerate(
            site.mask_rows(0, "o", Source.AUTOMATIC, Stage.FULLY_AUTOMATIC)
        )
    ]
    site.workspace.masks.commit(masks, run_id="o", shard=0)
    compact(store)
    _run("erase", "dataset", "d", "--yes")
    assert [row.name for row in catalog.datasets.all()] == ["other"]
    assert catalog.runs.all() == []
    assert {mask.image_id for mask in site.workspace.masks.masks()} == {mine}
    assert list(site.workspace.truths.masks()) == []
    assert _keys(store, "images/") == [first.key]
    for prefix in ("annotations/", "trajectories/", "embeddings/", "evaluations/", "releases/"):
        assert _keys(store, prefix) == []
    assert _run("status")["datasets"] == {
        "other": {"images": 1, "held_out": 0, "near_duplicates": 0}
    }


def test_nothing_is_erased_while_somebody_is_at_work_on_it(site: Site) -> None:
    ada = site.workspace.catalog.annotators.get_or_create("ada")
    site.start_run("again", RunKind.ASSISTED_MANUAL)
    site.add_tasks(TaskKind.ANNOTATE, "again")
    task = site.workspace.queue.lease(ada.id, kinds=[TaskKind.ANNOTATE], run_id="again")
    assert task is not None
    refused = CliRunner().invoke(app, ["erase", "dataset", "d", "--yes"])
    assert isinstance(refused.exception, BusyError)
    assert len(list(site.workspace.masks.masks())) == 9


class Killed(BaseException):
    """Stands for a killed process."""


@pytest.mark.parametrize("subject", [("person", NAME), ("image", "0.png", "--dataset", "d")])
def test_an_erasure_goes_on_wherever_it_was_killed(
    site: Site, subject: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kill the erasure before the first change of the store, then before the second, and so on."""
    left, survived = 0, 0
    real = {name: getattr(LocalStore, name) for name in ("put", "delete")}

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
    command = ["erase", *subject, "--yes", "--json"]
    while True:
        left = survived
        try:
            result = CliRunner().invoke(app, command, catch_exceptions=False)
        except Killed:
            survived += 3
            command = ["erase", "pending", "--json"]
            continue
        assert result.exit_code == 0, result.output
        break
    assert survived > 6
    monkeypatch.undo()
    _is_whole(site, site.image_ids if subject[0] == "person" else site.image_ids[1:])
    assert (NAME if subject[0] == "person" else WORD).encode() not in _everything(site.workspace)
    assert erasures.pending(site.workspace.catalog, site.workspace.objects) == []


# Backups that are older than the store, or than an erasure


def _level(workspace: Workspace, name: str) -> str:
    (row,) = [row for row in check_workspace(workspace.settings.root) if row["name"] == name]
    return str(row["level"])


def test_a_backup_older_than_the_store_is_found_out(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, url = tmp_path / "old.backup", f"sqlite:///{tmp_path / 'new.db'}"
    backup_catalog(site.workspace.settings.catalog_url, file)
    monkeypatch.setenv("DATAENGINE_DATABASE_URL", url)
    _run("restore", str(file))  # of the same state: nothing is lost
    (tmp_path / "new.db").unlink()
    site.start_run("later", RunKind.REVIEW)
    refused = CliRunner().invoke(app, ["restore", str(file)])
    assert isinstance(refused.exception, CatalogBehindError)
    assert "is newer than this catalog since" in str(refused.exception)
    assert not (tmp_path / "new.db").exists()
    _run("restore", str(file), "--beside-newer-store")
    with Catalog(url) as catalog:
        assert catalog.datasets.get("d").id == site.dataset_id


def test_a_catalog_put_back_by_hand_begins_nothing_and_sweeps_nothing(site: Site) -> None:
    workspace = site.workspace
    workspace.objects.put("generations/" + "f" * 32, b"")
    assert _level(workspace, "generation") == "wrong"
    with pytest.raises(CatalogBehindError, match="newer backup"):
        site.start_run("more", RunKind.REVIEW)
    with pytest.raises(CatalogBehindError):
        sweep_workspace(workspace, delete=True)
    assert workspace.catalog.runs.start(  # unfinished work continues
        "annotate", RunKind.ASSISTED_MANUAL, dataset_id=site.dataset_id
    )


def test_what_was_erased_is_erased_again_when_an_older_backup_brings_it_back(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "old.backup"
    backup_catalog(site.workspace.settings.catalog_url, file)
    person = _run("erase", "person", NAME, "--yes")["erased"]
    _run("erase", "image", "1.png", "--dataset", "d", "--yes")
    url = f"sqlite:///{tmp_path / 'new.db'}"
    monkeypatch.setenv("DATAENGINE_DATABASE_URL", url)
    _run("restore", str(file))
    with Catalog(url) as catalog:
        names = [row.name for row in catalog.annotators.all()]
        assert f"erased-{person['id'][:12]}" in names
        assert NAME not in names
        assert list(catalog.images.ids(site.dataset_id)) == [
            site.image_ids[0],
            site.image_ids[2],
        ]
        assert erasures.pending(catalog, site.workspace.objects) == []
    assert NAME.encode() not in (tmp_path / "new.db").read_bytes()
