"""One `dataengine up` for all tests of this folder."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import pytest

from flows.prefect_api import temporary_server
from flows.workspace.settings import FILE_NAME
from flows.workspace.workspace import Workspace, open_workspace
from tests.flows.conftest import TOML, write_scenes
from tests.production.running import Production, dataengine, running

PRODUCTION = """
[production]
name = "tested"
runs_at_once = 4
poll_seconds = 0.5
page_port = 0
prefect_port = 0
s3_port = 0
retrain_after_accepted = 3
retrain_after_rejected = 2
rescore_images = 2
"""

TRAPS = ("flows", "prefect", "uvicorn", "json", "sqlalchemy", "sitecustomize")
"""Modules that our processes import, and that somebody has put into the workspace too."""
SPRUNG = "sprung"
"""File that a trap makes when it is imported."""


def set_traps(root: Path) -> None:
    """Write the images."""
    for name in TRAPS:
        sprung = f"open({str(root / SPRUNG)!r}, 'a').write({name!r})"
        (root / f"{name}.py").write_text(f"{sprung}\nraise ImportError({name!r})\n")


@pytest.fixture(scope="module")  # its schedule takes processor time as long as it runs
def started() -> Iterator[Production]:
    """A workspace with running services, the images of a dataset `d`, and a schedule."""
    with tempfile.TemporaryDirectory(prefix="up") as folder:
        root = Path(folder).resolve() / "ws"
        root.mkdir()
        (root / FILE_NAME).write_text(TOML.replace("held_out = 0.3", "held_out = 0") + PRODUCTION)
        set_traps(root)
        scenes = write_scenes(root / "scenes", 8)
        with running(root) as production:
            done = dataengine(root, "ingest", str(scenes), "--dataset", "d", "--json")
            assert done.returncode == 0, done.stderr
            every_minute = ("generate", "--dataset", "d", "--cron", "* * * * *", "--limit", "2")
            done = dataengine(root, "schedule", *every_minute, "--json")
            assert done.returncode == 0, done.stderr
            yield production


@pytest.fixture
def production(started: Production) -> Iterator[Production]:
    """The same, with this process's flows on its Prefect server."""
    with patch.dict(os.environ):  # tests after these must not use its folder
        temporary_server.configure(started.root)
        with started.in_use():
            yield started


@pytest.fixture
def workspace(production: Production) -> Workspace:
    """The workspace of `services`, on its PostgreSQL and S3."""
    return open_workspace(str(production.root))
