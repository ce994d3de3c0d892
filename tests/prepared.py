"""Prepared workspaces, copied from one that each process prepares once."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path

from flows.workspace.settings import FILE_NAME
from flows.workspace.workspace import Workspace, open_workspace


def prepared_workspace(folder: Path, settings: str) -> Workspace:
    """A workspace on SQLite and a local store, with these settings and the shipped model. One that
    is prepared already stays."""
    if not (folder / "catalog.db").exists():
        shutil.copytree(_template(), folder, dirs_exist_ok=True)
    (folder / FILE_NAME).write_text(settings)
    workspace = open_workspace(str(folder))
    workspace.prepare()
    return workspace


@cache
def _template() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="prepared-"))
    atexit.register(shutil.rmtree, folder)
    (folder / FILE_NAME).touch()
    workspace = open_workspace(str(folder))
    workspace.prepare()
    workspace.catalog.close()  # which writes SQLite's log into its file
    return folder
