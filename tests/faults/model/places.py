"""Storage of a test's workspaces: a folder and SQLite, or PostgreSQL and S3."""

from __future__ import annotations

import shutil
from pathlib import Path
from uuid import uuid4

from storage.catalog import Catalog, sqlite_url
from storage.local_store import LocalStore
from storage.objects import ObjectStore
from storage.s3_store import S3Store
from tests.contract.database_fixtures import PostgresDatabases
from tests.services import S3Server

MODEL_KEY = "models/lite/weights.safetensors"


def _migrated(url: str) -> None:
    """A catalog with a model, as `Workspace.prepare` leaves it."""
    with Catalog(url) as catalog:
        catalog.migrate()
        _add_model(catalog)


def _add_model(catalog: Catalog) -> None:
    catalog.models.add("lite", architecture="lite", key=MODEL_KEY)
    catalog.models.promote("lite", expected_current=None)


def _stored(store: ObjectStore) -> None:
    store.put(MODEL_KEY, b"weights")


class OnThisMachine:
    """A folder and an SQLite file in the workspace, as `dataengine init` creates them."""

    def __init__(self, folder: Path) -> None:
        self._template = folder / "template.db"
        _migrated(sqlite_url(self._template))

    def lay(self, root: Path) -> str:
        shutil.copyfile(self._template, root / "catalog.db")
        _stored(LocalStore(root / "store"))
        return ""


class OnServers:
    """A database on PostgreSQL and a prefix on S3 for each workspace."""

    def __init__(self, databases: PostgresDatabases, s3: S3Server) -> None:
        self._databases, self._s3 = databases, s3

    def lay(self, root: Path) -> str:
        url, prefix, s3 = self._databases.migrated(), uuid4().hex, self._s3
        with Catalog(url) as catalog:
            _add_model(catalog)
        keys = s3.access_key, s3.secret_key
        _stored(S3Store(s3.bucket, prefix, s3.endpoint_url, s3.region, *keys))
        (root / ".services").mkdir()
        (root / ".services" / "settings.toml").write_text(f'database_url = "{url}"\n')
        return (
            f'[store]\nuri = "s3://{s3.bucket}/{prefix}"\nregion = "{s3.region}"\n'
            f'endpoint_url = "{s3.endpoint_url}"\n'
            f'access_key = "{s3.access_key}"\nsecret_key = "{s3.secret_key}"\n'
        )
