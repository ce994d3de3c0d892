"""Backups of the catalog can be restored from each kind of database to each kind."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import MetaData, Table, func, select, text

from engine.core.categories import CategoryList
from storage.annotation_queue import AnnotationQueue
from storage.catalog import (
    Catalog,
    CatalogNotMigratedError,
    CatalogTooNewError,
    LabelSource,
    NewLabel,
    NewTask,
    NewVerdict,
    RunKind,
    TaskKind,
    TaskResult,
    VerdictKind,
)
from storage.catalog.backup import BackupError, read_manifest, restore_backup, write_backup
from storage.catalog.schema import migrating
from storage.catalog.tables import Base
from tests.contract.database_fixtures import (
    DatabaseServer,
    PostgresDatabases,
    SqliteFiles,
    World,
    make_world,
    new_image,
)
from tests.postgres import running_postgres

KINDS = ("sqlite", "postgresql")
PAIRS = [(source, target) for source in KINDS for target in KINDS]


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, DatabaseServer]]:
    with running_postgres() as postgres:
        yield {
            "sqlite": SqliteFiles(tmp_path_factory.mktemp("sqlite")),
            "postgresql": PostgresDatabases(postgres),
        }


def _rows(catalog: Catalog) -> dict[str, list[Any]]:
    found = {}
    with catalog.engine.connect() as connection:
        for table in Base.metadata.sorted_tables:
            query = select(table).order_by(*table.primary_key.columns)
            found[table.name] = [tuple(row) for row in connection.execute(query)]
    return found


def _live(catalog: Catalog) -> World:
    """A catalog with rows in all tables and values that are easily corrupted."""
    world = make_world(catalog, images=1_200)
    catalog.images.add_many(world.dataset.id, [new_image(0, "Übung \u2028 'x\".jpg")])
    catalog.models.add("v1", architecture="lite", key="k", card={"note": None, "x": [0.1, 1e-300]})
    catalog.models.promote("v1", expected_current=None)
    queue = AnnotationQueue(catalog)
    queue.add(
        [
            NewTask(dataset_id=world.dataset.id, image_id=image, kind=TaskKind.REVIEW, run_id="run")
            for image in world.image_ids[:3]
        ]
    )
    ada = catalog.annotators.get_or_create("ada", role="admin")
    task = queue.lease(ada.id, kinds=[TaskKind.REVIEW])
    assert task is not None
    queue.submit(task.id, str(task.lease_id), "key", TaskResult(seconds=1 / 3))
    verdict = NewVerdict(
        mask_id="m", task_id=task.id, verdict=VerdictKind.ACCEPT, annotator_id=ada.id, seconds=0.1
    )
    catalog.verdicts.add_many([verdict])
    catalog.audit.add("submit", "task", annotator_id=ada.id, masks=1)
    names = CategoryList().extended([("Übung", "x"), ("猫", None)])
    catalog.categories.set(world.dataset.id, names, expected_version=0)
    catalog.labels.add_many(world.dataset.id, [_label(world)])
    return world


def _label(world: World) -> NewLabel:
    source, image_id = LabelSource.IMPORTED, world.image_ids[0]
    return NewLabel(mask_id="m", image_id=image_id, category_id=2, source=source, score=0.1)


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_a_backup_restores_every_row_into_either_database(
    servers: dict[str, DatabaseServer], tmp_path: Path, source: str, target: str
) -> None:
    file, url = tmp_path / "catalog.backup", servers[target].empty()
    with Catalog(servers[source].migrated()) as old, Catalog(url) as new:
        world = _live(old)
        manifest = write_backup(old.engine, file)
        assert read_manifest(file) == manifest
        assert manifest.tables["images"].rows == 1_200
        assert restore_backup(new.engine, file) == manifest
        assert _rows(new) == _rows(old)
        # and the database works: ids continue, leases work
        added = new.images.add_many(world.dataset.id, [new_image(5_000)])
        assert added.new == 1
        assert added.ids[0] > max(world.image_ids)
        queue = AnnotationQueue(new)
        ada = new.annotators.get_or_create("ada")
        assert queue.lease(ada.id, kinds=[TaskKind.REVIEW]) is not None
        new.labels.add_many(world.dataset.id, [_label(world)])
        assert len(new.labels.history(world.image_ids[0], "m")) == 2


@pytest.mark.parametrize("kind", KINDS)
def test_a_restore_revives_no_session_and_no_sign_in_link(
    servers: dict[str, DatabaseServer], tmp_path: Path, kind: str
) -> None:
    with Catalog(servers[kind].migrated()) as old, Catalog(servers[kind].empty()) as new:
        for name in ("ada", "bob"):
            person = old.annotators.get_or_create(name, role="reviewer")
            old.annotators.set_token(person.id, name * 10, 3600)
            old.sign_ins.start(person.id, name, 3600)
        write_backup(old.engine, tmp_path / "catalog.backup")
        restore_backup(new.engine, tmp_path / "catalog.backup")
        assert new.sign_ins.find_all(["ada", "bob"]) == {}
        assert new.annotators.take_token("ada" * 10) is None
        found = new.annotators.find("bob")
        assert found is not None
        assert found.role == "reviewer"
        # new rows of others work afterwards
        new.annotators.set_token(found.id, "fresh", 3600)
        assert new.annotators.take_token("fresh") == found


@pytest.mark.parametrize("kind", KINDS)
def test_a_backup_sees_one_moment_of_the_database(
    servers: dict[str, DatabaseServer],
    tmp_path: Path,
    kind: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from storage.catalog import backup

    with Catalog(servers[kind].migrated()) as catalog:
        world, write = make_world(catalog, images=3), backup._write_table

        def slowly(connection: Any, table: Table, archive: zipfile.ZipFile) -> Any:
            if table.name == "datasets":  # the first table with rows; images follow
                catalog.images.add_many(world.dataset.id, [new_image(99)])
            return write(connection, table, archive)

        monkeypatch.setattr(backup, "_write_table", slowly)
        manifest = write_backup(catalog.engine, tmp_path / "b")
        assert manifest.tables["images"].rows == 3
        assert catalog.images.count(world.dataset.id) == 4


@pytest.mark.parametrize("kind", KINDS)
def test_a_database_with_tables_is_refused_and_stays(
    servers: dict[str, DatabaseServer], tmp_path: Path, kind: str
) -> None:
    with (
        Catalog(servers[kind].migrated()) as old,
        Catalog(servers[kind].migrated()) as new,
    ):
        _live(old)
        write_backup(old.engine, tmp_path / "b")
        dataset = new.datasets.get_or_create("mine")
        with pytest.raises(BackupError, match="not empty"):
            restore_backup(new.engine, tmp_path / "b")
        assert new.datasets.all() == [dataset]


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_backup_leaves_the_database_empty(
    servers: dict[str, DatabaseServer], tmp_path: Path, kind: str
) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    with Catalog(servers["sqlite"].migrated()) as old:
        _live(old)
        write_backup(old.engine, whole)
    with zipfile.ZipFile(whole) as source, zipfile.ZipFile(broken, "w") as target:
        for name in source.namelist():
            data = source.read(name)
            if name == "verdicts.jsonl":
                data = data.replace(b'"accept"', b'"reject"')
            target.writestr(name, data)
    with Catalog(servers[kind].empty()) as new:
        with pytest.raises(BackupError, match="verdicts is damaged"):
            restore_backup(new.engine, broken)
        assert new.revision() is None
        restore_backup(new.engine, whole)  # a valid backup can still be restored
        assert new.datasets.all()


def test_files_that_are_no_backup_are_refused(tmp_path: Path) -> None:
    text_file, other, short = (tmp_path / name for name in ("text", "other", "short"))
    text_file.write_text("hello")
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr("readme", "hello")
    with Catalog(f"sqlite:///{tmp_path / 'a.db'}") as catalog:
        with pytest.raises(CatalogNotMigratedError):
            write_backup(catalog.engine, short)
        catalog.migrate()
        write_backup(catalog.engine, short)
    short.write_bytes(short.read_bytes()[:-100])
    for file in (text_file, other, short):
        with Catalog(f"sqlite:///{tmp_path / 'new.db'}") as new:
            with pytest.raises(BackupError):
                restore_backup(new.engine, file)
    assert not (tmp_path / "new.db").exists()


def test_a_backup_of_newer_code_is_refused(tmp_path: Path) -> None:
    with Catalog(f"sqlite:///{tmp_path / 'a.db'}") as catalog:
        catalog.migrate()
        write_backup(catalog.engine, tmp_path / "b")
    with zipfile.ZipFile(tmp_path / "b") as old, zipfile.ZipFile(tmp_path / "c", "w") as new:
        for name in old.namelist():
            data = old.read(name)
            if name == "manifest.json":
                data = json.dumps({**json.loads(data), "revision": "9999"}).encode()
            new.writestr(name, data)
    with Catalog(f"sqlite:///{tmp_path / 'new.db'}") as catalog:
        with pytest.raises(CatalogTooNewError, match="9999"):
            restore_backup(catalog.engine, tmp_path / "c")


# Upgrades


FIRST_TIME = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
FIRST_ROWS: list[tuple[str, dict[str, Any]]] = [
    ("datasets", {"id": 1, "name": "birds"}),
    (
        "images",
        {"id": 7, "dataset_id": 1, "sha256": "a" * 64, "key": "images/7", "file_name": "7"}
        | {"height": 4, "width": 6, "split": "train"},
    ),
    (
        "models",
        {"version": "v1", "architecture": "lite", "key": "models/v1", "state": "current"}
        | {"card": {"parent": None}},
    ),
    (
        "runs",
        {"id": "r", "kind": "assisted_manual", "dataset_id": 1, "state": "running"}
        | {"config": {}, "code_version": "1", "metrics": {}},
    ),
    ("shards", {"run_id": "r", "shard": 0, "state": "open", "image_ids": [7], "attempts": 0}),
    ("annotators", {"id": 3, "name": "ada", "kind": "person", "role": "admin"}),
    (
        "tasks",
        {"id": 5, "dataset_id": 1, "image_id": 7, "kind": "annotate", "run_id": "r"}
        | {"state": "open", "priority": 0, "skips": 0, "attempts": 0, "payload": {}},
    ),
    (
        "verdicts",
        {"id": 1, "mask_id": "m", "task_id": 5, "verdict": "reject", "annotator_id": 3}
        | {"seconds": 1.5},
    ),
]
"""A row of everything that matters, as the first version wrote it."""


def _first_schema(catalog: Catalog) -> None:
    """Create the database of the first version."""
    is_sqlite = catalog.engine.dialect.name == "sqlite"
    at = FIRST_TIME.replace(tzinfo=None) if is_sqlite else FIRST_TIME
    with migrating(catalog.engine) as (connection, upgrade):
        upgrade("0001")
        tables = MetaData()
        tables.reflect(connection)
        for name, values in FIRST_ROWS:
            table = tables.tables[name]
            times = {key: at for key in ("created_at", "started_at") if key in table.columns}
            connection.execute(table.insert(), values | times)


def _works(catalog: Catalog) -> None:
    dataset = catalog.datasets.get("birds")
    assert catalog.images.get(7).created_at == FIRST_TIME
    assert catalog.runs.get("r").cpu_seconds == 0
    assert catalog.verdicts.rejected_mask_ids(dataset.id) == {"m"}
    catalog.models.add("v2", architecture="lite", key="models/v2")
    catalog.models.promote("v2", expected_current="v1")
    assert catalog.models.roll_back(expected_current="v2").version == "v1"
    queue = AnnotationQueue(catalog)
    task = queue.lease(3, kinds=[TaskKind.ANNOTATE])
    assert task is not None
    assert (task.id, task.expiries) == (5, 0)
    queue.submit(task.id, str(task.lease_id), "key", TaskResult())
    shard = catalog.shards.lease("r", "me", 60)
    assert shard is not None
    catalog.runs.spend("r", cpu_seconds=1.5)
    assert catalog.runs.start("r", RunKind.ASSISTED_MANUAL, dataset_id=1).cpu_seconds == 1.5


@pytest.mark.parametrize("kind", KINDS)
def test_a_database_of_the_first_version_is_brought_forward_with_its_rows(
    servers: dict[str, DatabaseServer], kind: str
) -> None:
    with Catalog(servers[kind].empty()) as catalog:
        _first_schema(catalog)
        assert catalog.revision() == "0001"
        catalog.migrate()
        _works(catalog)


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_an_old_backup_is_brought_forward_as_it_is_restored(
    servers: dict[str, DatabaseServer], tmp_path: Path, source: str, target: str
) -> None:
    with Catalog(servers[source].empty()) as old, Catalog(servers[target].empty()) as new:
        _first_schema(old)
        assert write_backup(old.engine, tmp_path / "b").revision == "0001"
        assert old.revision() == "0001"  # a backup changes nothing
        restore_backup(new.engine, tmp_path / "b")
        new.check()
        _works(new)
        with new.reading() as session:
            promotions = session.scalar(select(func.count()).select_from(text("promotions")))
        assert promotions == 2
