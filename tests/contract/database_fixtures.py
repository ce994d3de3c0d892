"""Fixtures for suites that run on every database.

A test module imports `database_server_fixture`, `clock_fixture`, `catalog_fixture` (and
`empty_database_url_fixture`), and its tests ask for `catalog`, `clock` and so on.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Protocol

import pytest

from storage.catalog import Catalog, Dataset, NewImage, RunKind
from tests.postgres import Postgres, running_postgres


@dataclass
class FakeClock:
    """A clock that stands still until a test moves it."""

    now: datetime = field(default_factory=lambda: datetime(2026, 1, 1, tzinfo=UTC))

    def __call__(self) -> datetime:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


class DatabaseServer(Protocol):
    """Creates databases: fresh and empty, or migrated to head."""

    def empty(self) -> str: ...

    def migrated(self) -> str: ...


class SqliteFiles:
    """SQLite databases in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._made = 0
        self._template = folder / "template.db"

    def empty(self) -> str:
        self._made += 1
        return f"sqlite:///{self._folder / f'{self._made}.db'}"

    def migrated(self) -> str:
        if not self._template.exists():
            _migrate(f"sqlite:///{self._template}")
        url = self.empty()
        shutil.copyfile(self._template, url.removeprefix("sqlite:///"))
        return url


class PostgresDatabases:
    """Databases on a running PostgreSQL."""

    def __init__(self, server: Postgres) -> None:
        self._server = server
        self._template: str | None = None

    def empty(self) -> str:
        return self._server.url(self._server.create_database())

    def migrated(self) -> str:
        if self._template is None:
            self._template = self._server.create_database()
            _migrate(self._server.url(self._template))
        return self._server.url(self._server.create_database(self._template))


def _migrate(url: str) -> None:
    with Catalog(url) as catalog:
        catalog.migrate()


@pytest.fixture(name="database_server", scope="session", params=["sqlite", "postgresql"])
def database_server_fixture(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[DatabaseServer]:
    """One per database system and test session."""
    if request.param == "sqlite":
        yield SqliteFiles(tmp_path_factory.mktemp("sqlite"))
    else:
        with running_postgres() as server:
            yield PostgresDatabases(server)


@pytest.fixture(name="empty_database_url")
def empty_database_url_fixture(database_server: DatabaseServer) -> str:
    """A fresh database without any table."""
    return database_server.empty()


@pytest.fixture(name="clock")
def clock_fixture() -> FakeClock:
    return FakeClock()


@pytest.fixture(name="catalog")
def catalog_fixture(database_server: DatabaseServer, clock: FakeClock) -> Iterator[Catalog]:
    """A catalog on a fresh, migrated database, with the fake clock."""
    with Catalog(database_server.migrated(), clock=clock) as catalog:
        yield catalog


@dataclass(frozen=True)
class World:
    """A dataset with images and a run, as targets of foreign keys."""

    dataset: Dataset
    image_ids: list[int]
    run_id: str


def new_image(number: int, file_name: str | None = None) -> NewImage:
    """An image whose content is derived from the number."""
    return NewImage(
        sha256=f"{number:064x}",
        key=f"images/{number}",
        file_name=file_name or f"{number}.jpg",
        height=480,
        width=640,
    )


def make_world(catalog: Catalog, images: int = 40) -> World:
    dataset = catalog.datasets.get_or_create("birds")
    added = catalog.images.add_many(dataset.id, [new_image(number) for number in range(images)])
    catalog.runs.start("run", RunKind.ASSISTED_MANUAL, dataset_id=dataset.id)
    return World(dataset, added.ids, "run")
