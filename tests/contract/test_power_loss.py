"""Completed writes of a local store survive a power loss: they are on a disk that keeps only synced
data."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from storage.compaction import compact
from storage.local_store import LocalStore
from storage.masks import MaskTable
from tests.contract.test_masks import a_mask


@dataclass
class Disk:
    """Records synced data: the content of files, the names in folders."""

    root: Path
    files: dict[int, bytes] = field(default_factory=dict)
    folders: dict[int, dict[str, int]] = field(default_factory=dict)

    def sync(self, descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        inode = os.fstat(descriptor).st_ino
        if path.is_dir():
            self.folders[inode] = {entry.name: entry.inode() for entry in os.scandir(path)}
        else:
            self.files[inode] = path.read_bytes()

    def after_power_loss(self, target: Path) -> LocalStore:
        """The store after the restart of the machine."""
        self._write(self.root.stat().st_ino, target)
        return LocalStore(target / "store")

    def _write(self, folder: int, target: Path) -> None:
        target.mkdir()
        for name, inode in self.folders.get(folder, {}).items():
            if inode in self.folders:
                self._write(inode, target / name)
            else:  # a file that was not synced is empty
                (target / name).write_bytes(self.files.get(inode, b""))


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Disk:
    (tmp_path / "disk").mkdir()
    found = Disk(tmp_path / "disk")
    monkeypatch.setattr(os, "fsync", found.sync)
    return found


def _put(store: LocalStore) -> None:
    store.put("images/ab/1.png", b"picture")


def _commit(store: LocalStore) -> None:
    MaskTable(store).commit([a_mask(1)], run_id="run", shard=0)


def _commit_many(store: LocalStore) -> None:
    table = MaskTable(store)
    for shard in range(3):
        masks = [a_mask(shard, shard=shard)] if shard != 1 else []
        table.commit(masks, run_id="run", shard=shard)


def _commit_again(store: LocalStore) -> None:
    """The first process is killed before it syncs the log; the next one finds the commit."""
    undo = pytest.MonkeyPatch()
    with undo.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        MaskTable(store).commit([a_mask(0)], run_id="run", shard=0)
    # its data file is synced before the log names it
    data = [file for file in store.root.rglob("*.parquet") if "_delta_log" not in file.parts]
    for path in (*data, store.root / "masks", store.root, store.root.parent):
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
    table = MaskTable(store)
    table.commit([a_mask(1, shard=1)], run_id="run", shard=1)
    table.commit([], run_id="run", shard=0)


def _compact(store: LocalStore) -> None:
    _commit_many(store)
    compact(store, target_bytes=10**6)


@pytest.mark.parametrize("write", [_put, _commit, _commit_many, _commit_again, _compact])
def test_what_was_written_is_there_after_a_power_loss(
    disk: Disk, tmp_path: Path, write: Callable[[LocalStore], None]
) -> None:
    store = LocalStore(disk.root / "store")
    write(store)
    after = disk.after_power_loss(tmp_path / "after")
    before = {mask.mask_id for mask in MaskTable(store).masks()}
    assert {mask.mask_id for mask in MaskTable(after).masks()} == before
    assert MaskTable(after).version() == MaskTable(store).version()
    for info in store.list("images/"):
        assert after.get(info.key) == store.get(info.key)


def test_masks_are_on_disk_before_the_log_names_them(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, seen = LocalStore(disk.root / "store"), list[tuple[bool, bool]]()
    MaskTable(store).commit([], run_id="run", shard=0)

    def watched(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        entry = store.root / "masks/_delta_log/00000000000000000002.json"
        seen.append((path.parent.name == "masks" and path.is_file(), entry.exists()))

    monkeypatch.setattr(os, "fsync", watched)
    MaskTable(store).commit([a_mask(1, shard=1)], run_id="run", shard=1)
    assert (True, False) in seen  # the data file first
    assert (True, True) not in seen
