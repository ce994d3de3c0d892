"""A catalog is backed up before its migration, and settings have minimum values."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from flows.workspace.settings import FILE_NAME, load_settings
from flows.workspace.workspace import Workspace
from storage.catalog import Catalog
from storage.catalog.backup import read_manifest
from storage.catalog.schema import head, migrating


def _old_workspace(root: Path, revision: str) -> Workspace:
    root.mkdir()
    (root / FILE_NAME).write_text("")
    with Catalog(f"sqlite:///{root / 'catalog.db'}") as catalog:
        with migrating(catalog.engine) as (_, upgrade):
            upgrade(revision)
    return Workspace(load_settings(root))


@pytest.mark.parametrize("revision", ["0001", "0004", "0009"])
def test_an_older_catalog_is_backed_up_before_it_is_brought_forward(
    tmp_path: Path, revision: str
) -> None:
    workspace = _old_workspace(tmp_path / "ws", revision)
    workspace.prepare()
    (backup,) = workspace.backups.iterdir()
    assert read_manifest(backup).revision == revision
    assert backup.stat().st_mode & 0o077 == 0
    assert workspace.catalog.revision() == head()
    workspace.prepare()
    assert list(workspace.backups.iterdir()) == [backup]


def test_a_catalog_that_cannot_be_backed_up_is_not_brought_forward(tmp_path: Path) -> None:
    workspace = _old_workspace(tmp_path / "ws", "0004")
    workspace.backups.write_text("no folder")
    with pytest.raises(OSError, match="backups"):
        workspace.prepare()
    assert workspace.catalog.revision() == "0004"


@pytest.mark.parametrize("name", ["orphan_days", "vacuum_days"])
def test_what_may_be_in_use_is_kept_for_an_hour_whatever_the_settings_say(
    tmp_path: Path, name: str
) -> None:
    (tmp_path / FILE_NAME).write_text(f"[operations]\n{name} = 0\n")
    days = getattr(load_settings(tmp_path).operations, name)
    assert timedelta(days=days) >= timedelta(hours=1)
