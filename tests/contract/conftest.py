"""Fixtures for suites that run on every object store: a test asks for `store`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from storage.local_store import LocalStore
from storage.objects import ObjectStore
from storage.s3_store import S3Store
from tests.services import S3Server, running_seaweedfs


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A real S3 for the whole test session."""
    with running_seaweedfs(tmp_path_factory.mktemp("seaweedfs")) as server:
        yield server


@pytest.fixture(params=["local", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    """An empty store of each kind."""
    if request.param == "local":
        return LocalStore(tmp_path / "store")
    server: S3Server = request.getfixturevalue("s3")
    return S3Store(
        server.bucket,
        f"test-{uuid4().hex}",
        server.endpoint_url,
        server.region,
        server.access_key,
        server.secret_key,
    )
