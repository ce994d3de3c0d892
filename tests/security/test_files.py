"""Files of a workspace are private to its user from the first byte."""

from __future__ import annotations

import os
import stat
import sys
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from engine.core.records import Source, Stage
from flows.cli.main import main
from flows.workspace.permissions import for_people, private_files
from flows.workspace.settings import FILE_NAME
from flows.workspace.workspace import open_workspace
from storage.catalog import Catalog, backup
from storage.catalog.backup import write_backup
from tests.annotation.site import make_site


@pytest.fixture(autouse=True)
def _as_most_users_have_it() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


def open_to_others(folder: Path) -> list[str]:
    """Paths that others may read, write or enter."""
    found = [path for path in [folder, *folder.rglob("*")] if path.stat().st_mode & 0o077]
    return [f"{path}: {stat.filemode(path.stat().st_mode)}" for path in found]


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    monkeypatch.setattr(sys, "argv", ["dataengine", *words])
    with suppress(SystemExit):
        main()


def test_commands_write_what_others_cannot_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "ws"
    run(monkeypatch, "init", str(root))
    monkeypatch.setenv("DATAENGINE_WORKSPACE", str(root))
    run(monkeypatch, "annotators", "add", "ada")
    run(monkeypatch, "backup", str(root / "catalog.backup"))
    names = {path.relative_to(root).parts[0] for path in root.rglob("*")}
    assert names >= {"dataengine.toml", "catalog.db", "store", "catalog.backup"}
    assert open_to_others(root) == []


def test_a_served_workspace_writes_what_others_cannot_read(tmp_path: Path) -> None:
    root = tmp_path / "ws"
    with private_files():
        root.mkdir()
        (root / FILE_NAME).touch()
        open_workspace(str(root)).prepare()
        site = make_site(root, images=1)
        site.start_run("r", kind="fully_automatic")  # type: ignore[arg-type]  # the word will do
        rows = site.mask_rows(0, "r", Source.AUTOMATIC, Stage.FULLY_AUTOMATIC)
        site.workspace.masks.commit(rows, run_id="r", shard=0)
    assert list((tmp_path / "ws" / "store" / "masks").rglob("*.parquet"))
    assert open_to_others(tmp_path / "ws") == []


def test_results_are_made_as_the_user_has_it(tmp_path: Path) -> None:
    with private_files():
        (tmp_path / "before").touch()
        with for_people():
            (tmp_path / "result").touch()
        (tmp_path / "after").touch()
    (tmp_path / "later").touch()
    assert {path.name for path in tmp_path.iterdir() if path.stat().st_mode & 0o077} == {
        "result",
        "later",
    }


def test_a_backup_is_private_before_it_has_a_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, seen = backup._write_table, []

    def look(connection: Any, table: Any, archive: zipfile.ZipFile) -> Any:
        seen.extend(open_to_others(tmp_path / "there")[1:])
        return write(connection, table, archive)

    monkeypatch.setattr(backup, "_write_table", look)
    with Catalog(f"sqlite:///{tmp_path / 'catalog.db'}") as catalog:
        catalog.migrate()
        (tmp_path / "there").mkdir()
        write_backup(catalog.engine, tmp_path / "there" / "catalog.backup")
    assert seen == []
    assert open_to_others(tmp_path / "there")[1:] == []
