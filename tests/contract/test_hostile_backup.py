"""Backups are untrusted: forged, truncated or unbounded ones are refused as a whole."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from storage.catalog import Catalog
from storage.catalog import network_drives as drives
from storage.catalog.backup import BackupError, restore_backup, write_backup
from storage.catalog.network_drives import NetworkDriveError, network_drive
from tests.contract.database_fixtures import make_world

Tables = dict[str, list[Any]]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    with Catalog(f"sqlite:///{folder / 'a.db'}") as catalog:
        catalog.migrate()
        make_world(catalog, images=2)
        catalog.models.add("v1", architecture="lite", key="models/v1/x")
        catalog.annotators.get_or_create("ada")
        write_backup(catalog.engine, folder / "b")
    return folder / "b"


def _made_up(whole: Path, target: Path, table: str, change: Callable[[list[str]], None]) -> None:
    """A copy with other lines in a table and correct sums."""
    with zipfile.ZipFile(whole) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as new:
        manifest = json.loads(old.read("manifest.json"))
        for name in old.namelist():
            data = old.read(name)
            if name == f"{table}.jsonl":
                lines = data.decode().splitlines()
                change(lines)
                data = "".join(f"{line}\n" for line in lines).encode()
                held = manifest["tables"][table]
                held["sha256"] = hashlib.sha256(data).hexdigest()
                held["rows"] = len(lines)
            if name != "manifest.json":
                new.writestr(name, data)
        new.writestr("manifest.json", json.dumps(manifest))


def _put(column: str, value: Any, whole: Path, table: str) -> Callable[[list[str]], None]:
    with zipfile.ZipFile(whole) as archive:
        columns = json.loads(archive.read("manifest.json"))["tables"][table]["columns"]

    def change(lines: list[str]) -> None:
        row = json.loads(lines[0])
        row[columns.index(column)] = value
        lines[0] = json.dumps(row)

    return change


def _is_refused(file: Path, folder: Path) -> None:
    with Catalog(f"sqlite:///{folder / 'new.db'}") as catalog:
        with pytest.raises(BackupError):
            restore_backup(catalog.engine, file)
        assert catalog.revision() is None


@pytest.mark.parametrize(
    ("table", "column", "value"),
    [
        ("models", "version", "../../../.bashrc"),
        ("models", "key", "models/../../x"),
        ("models", "state", "emperor"),
        ("images", "height", "tall"),
        ("images", "width", 2**70),
        ("images", "created_at", "yesterday"),
        ("images", "dataset_id", 999),
        ("images", "file_name", None),
        ("runs", "id", "../../../tmp/run"),
        ("datasets", "name", "x" * 201),
    ],
)
def test_a_value_that_cannot_be_is_refused_though_all_sums_are_right(
    whole: Path, tmp_path: Path, table: str, column: str, value: Any
) -> None:
    _made_up(whole, tmp_path / "b", table, _put(column, value, whole, table))
    _is_refused(tmp_path / "b", tmp_path)


@pytest.mark.parametrize("line", ["{", "{}", "[]", "[" * 100_000, '[1, NaN, "x"]'])
def test_a_line_that_is_no_row_is_refused(whole: Path, tmp_path: Path, line: str) -> None:
    _made_up(whole, tmp_path / "b", "datasets", lambda lines: lines.append(line))
    _is_refused(tmp_path / "b", tmp_path)


def test_a_line_without_end_is_refused_before_it_is_held(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from storage.catalog import backup_values

    monkeypatch.setattr(backup_values, "MAX_LINE_BYTES", 10_000)
    _made_up(whole, tmp_path / "b", "datasets", lambda lines: lines.append(" " * 20_000))
    _is_refused(tmp_path / "b", tmp_path)


def test_a_backup_torn_or_overwritten_anywhere_is_refused_or_whole(
    whole: Path, tmp_path: Path
) -> None:
    data = whole.read_bytes()
    for step in range(1, 5):
        place = len(data) * step // 5
        torn = tmp_path / f"torn{step}"
        torn.write_bytes(data[:place])
        _is_refused(torn, tmp_path)
        spoilt = tmp_path / f"spoilt{step}"
        spoilt.write_bytes(data[:place] + bytes(b ^ 0xFF for b in data[place : place + 64]))
        spoilt.write_bytes(spoilt.read_bytes() + data[place + 64 :])
        _is_refused(spoilt, tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"revision": ["0001"]},
        {"revision": "head"},
        {"tables": []},
        {"tables": {"datasets": {"columns": "id", "rows": 0, "sha256": ""}}},
        {"tables": {"datasets": {"columns": ["id"], "rows": -1, "sha256": ""}}},
        {"format": "1"},
    ],
)
def test_a_made_up_list_of_tables_is_refused(
    whole: Path, tmp_path: Path, change: dict[str, Any]
) -> None:
    with zipfile.ZipFile(whole) as old, zipfile.ZipFile(tmp_path / "b", "w") as new:
        manifest = json.loads(old.read("manifest.json"))
        for name in old.namelist():
            data = old.read(name)
            new.writestr(
                name, data if name != "manifest.json" else json.dumps(manifest | change).encode()
            )
    _is_refused(tmp_path / "b", tmp_path)


# Network drives


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "fuse.sshfs"])
def test_a_catalog_is_not_made_on_a_network_drive_and_warned_of_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    share, local = tmp_path / "a share", tmp_path / "local"
    share.mkdir()
    point = str(share).replace(" ", "\\040")
    mounts = tmp_path / "mounts"
    mounts.write_text(
        "22 1 8:1 / / rw shared:1 - ext4 /dev/sda1 rw\n"
        f"40 22 0:44 / {point} rw,relatime shared:9 - {kind} server:/x rw\n"
    )
    monkeypatch.setattr(drives, "MOUNTS", mounts)
    assert network_drive(local / "catalog.db") is None
    with Catalog(f"sqlite:///{share / 'catalog.db'}") as catalog:
        with pytest.raises(NetworkDriveError, match=kind.replace(".", r"\.")):
            catalog.migrate()
        assert not (share / "catalog.db").exists()
        mounts.write_text("")
        catalog.migrate()
        mounts.write_text(f"40 22 0:44 / {point} rw - {kind} server:/x rw\n")
        catalog.migrate()  # an existing catalog keeps working
    assert "network drive" in caplog.text
