"""No secret appears in output, tables, objects, reports, or Prefect's data.

Secrets are planted in a workspace on a real PostgreSQL and S3, with Prefect's logs kept by its
server as a worker has it; then everything that was written is searched for what they share.
"""

from __future__ import annotations

import os
import subprocess
import sys
from base64 import b64encode
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import quote

import pytest
from prefect.settings import PREFECT_API_URL
from sqlalchemy import MetaData, select

from flows.prefect_api import temporary_server
from flows.workspace.settings import FILE_NAME
from flows.workspace.workspace import Workspace, open_workspace
from tests.flows.conftest import TOML, write_scenes
from tests.postgres import running_postgres
from tests.services import running_seaweedfs

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

KEYS = ("pl4ntedACCESS", "pl4ntedSECRET+/x")
OTHER_SECRET = "pl4ntedOTHER+/x"
PASSWORD = "pl4ntedDATABASE:/@"
LOGIN = "engine:pl4ntedPREFECT"
TOKEN = "pl4ntedTOKEN"

SECRETS = (*KEYS, OTHER_SECRET, PASSWORD, LOGIN, TOKEN)
MARKS = (b"pl4nted", *(b64encode(secret.encode()) for secret in SECRETS))
"""What they share, in letters that neither addresses nor JSON write otherwise; and in base64, as
HTTP's headers have them."""
CANARY = b"canary"
"""The dataset's name, which is no secret: the search has to find it."""
KNOWN = {"table datasets", "masks", "file .prefect/prefect.db", "status --json"}
"""Some of the places where it stands."""

GENERATE = ("generate", "--dataset", "canary")

Found = dict[str, bytes]
"""What was written, by where."""


def _write_settings(root: Path, database_url: str, endpoint_url: str) -> None:
    """Settings with secrets in the file, and one in the environment."""
    address = database_url.replace("postgres:@", f"postgres:{quote(PASSWORD, safe='')}@")
    store = ["[store]", 'uri = "s3://engine/pre"', f'endpoint_url = "{endpoint_url}"']
    store += [f'access_key = "{KEYS[0]}"', f'secret_key = "{KEYS[1]}"', 'region = "us-east-1"']
    head = ['log = "json"', "outage_seconds = 1", f'database_url = "{address}"']
    root.mkdir()
    (root / FILE_NAME).write_text("\n".join([*head, TOML, *store, ""]))


class Commands:
    """Runs `dataengine` in a workspace and records its output."""

    def __init__(self, root: Path, api: str) -> None:
        self._root, self.said = root, Found()
        self._environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "DATAENGINE_OPERATIONS__METRICS_TOKEN": TOKEN,
            "PREFECT_API_URL": api,
            "PREFECT_LOGGING_LEVEL": "INFO",
            "PREFECT_LOGGING_TO_API_ENABLED": "true",
        }

    def run(self, *arguments: str, **variables: str) -> int:
        """Run a command; return its exit code."""
        done = subprocess.run(
            [sys.executable, "-m", "flows.cli.main", *arguments],
            cwd=self._root,
            env={**self._environment, **variables},
            capture_output=True,
            check=False,
        )
        name = " ".join(arguments)
        self.said[name] = self.said.get(name, b"") + done.stdout + done.stderr
        return done.returncode


def tables_of(workspace: Workspace) -> Found:
    """Every row of the catalog and of the mask table."""
    tables, found = MetaData(), Found()
    with workspace.catalog.engine.connect() as connection:
        tables.reflect(connection)
        for table in tables.sorted_tables:
            rows = connection.execute(select(table)).all()
            found[f"table {table.name}"] = str(rows).encode()
    found["masks"] = str([batch.to_pylist() for batch in workspace.masks.scan()]).encode()
    return found


def _objects(workspace: Workspace) -> Found:
    store = workspace.objects
    return {f"object {info.key}": store.get(info.key) for info in store.list()}


def _files(root: Path) -> Found:
    """All files except the settings, which contain secrets."""
    files = (path for path in root.rglob("*") if path.is_file() and path != root / FILE_NAME)
    return {f"file {path.relative_to(root)}": path.read_bytes() for path in files}


def _with(words: Iterable[bytes], found: Found) -> set[str]:
    return {where for where, text in found.items() if any(word in text for word in words)}


def test_no_secret_gets_into_what_is_said_stored_or_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, scenes = tmp_path / "ws", write_scenes(tmp_path / "scenes", 2)
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.setenv("PREFECT_HOME", str(root / ".prefect"))
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", LOGIN)
    monkeypatch.setenv("PREFECT_SERVER_API_AUTH_STRING", LOGIN)
    with running_postgres() as server, running_seaweedfs(tmp_path / "s3", KEYS) as s3:
        _write_settings(root, server.url(server.create_database()), s3.endpoint_url)
        with temporary_server.server(root):
            commands = Commands(root, str(PREFECT_API_URL.value()))
            _run_what_works(commands, scenes)
            _run_what_fails(commands)
        workspace = open_workspace(str(root))
        found = {**tables_of(workspace), **_objects(workspace), **_files(root), **commands.said}
        workspace.catalog.close()
    where = _with([CANARY], found)
    assert where >= KNOWN
    for name in ("instances.json", "report.html"):
        released = [place for place in where if place.startswith("object releases/canary-1/")]
        assert any(place.endswith(f"/{name}") for place in released)
    assert _with(MARKS, found) == set()


def _run_what_works(commands: Commands, scenes: Path) -> None:
    assert commands.run("ingest", str(scenes), "--dataset", "canary") == 0
    assert commands.run(*GENERATE) == 0
    assert b'"message": "shard committed"' in commands.said[" ".join(GENERATE)]
    assert commands.run("release", "canary-1", "--dataset", "canary") == 0
    assert commands.run("status", "--json") == 0
    assert commands.run("doctor", "--json") == 0


def _run_what_fails(commands: Commands) -> None:
    """Fail inside a flow, so that Prefect gets the error; and before one."""
    assert commands.run(*GENERATE, DATAENGINE_STORE__SECRET_KEY=OTHER_SECRET) == 1
    assert commands.run(*GENERATE, DATAENGINE_STORE__URI="s3://nobodys") == 1
    nobody = f"postgresql://me:{quote(PASSWORD, safe='')}@127.0.0.1:9/x"
    assert commands.run("doctor", "--json", DATAENGINE_DATABASE_URL=nobody) == 1
