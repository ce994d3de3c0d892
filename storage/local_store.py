"""Objects as files of a folder on this machine."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from storage.keys import check_key, check_prefix, is_key, unfit_for_tables
from storage.local_files import CHUNK_BYTES, link_new, make_folder, replace, sync
from storage.objects import (
    ObjectExistsError,
    ObjectInfo,
    ObjectNotFoundError,
    StorageError,
    StorageUnavailableError,
    same_content,
)
from storage.os_errors import sentence_of

_AWAY = (
    *(errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.ENODEV, errno.ENXIO, errno.EBUSY),
    *(errno.ETIMEDOUT, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.EAGAIN),
)
"""Errors of a disk or a network drive that does not answer."""


@dataclass(eq=False)
class LocalStore:
    """Objects as files under `root`, which is made at the first write. Methods: see ObjectStore.

    Symbolic links below the root are refused by every method, with StorageError, and not listed.
    That keeps a link from leading outside; it is no defence against a local user who can swap
    folders for links while a call runs. A folder that is gone, or is another one than before (the
    disk is not mounted any more), is refused with StorageUnavailableError.
    """

    root: Path

    def __post_init__(self) -> None:
        self.root = self.root.resolve()
        self._seen: tuple[int, int] | None = None

    def put(self, key: str, data: bytes) -> None:
        self._put(key, lambda: io.BytesIO(data))

    def put_file(self, key: str, path: Path) -> None:
        with path.open("rb"):
            self._put(key, lambda: path.open("rb"))

    def get(self, key: str) -> bytes:
        with _local_errors(key):
            return self._path(key).read_bytes()

    def fetch(self, key: str, path: Path) -> None:
        with _local_errors(key):
            source = self._path(key).open("rb")
        with source:
            replace(path, lambda target: shutil.copyfileobj(source, target, CHUNK_BYTES))

    def exists(self, key: str) -> bool:
        with _local_errors(key):
            return self._path(key).is_file()

    def size(self, key: str) -> int:
        with _local_errors(key):
            path = self._path(key)
            if not path.is_file():
                raise ObjectNotFoundError(f"no object {key!r}")
            return path.stat().st_size

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        self._check_root()
        folder, slash, _ = check_prefix(prefix).rpartition("/")
        return self._walk(self._path(folder) if folder else self.root, folder + slash, prefix)

    def delete(self, key: str) -> None:
        path = self._path(key)
        with _local_errors(key):
            if path.is_file():
                path.unlink(missing_ok=True)

    def sync(self, keys: Iterable[str]) -> None:
        folders: set[Path] = set()
        top = self.root.parent  # deltalake makes the root, too
        for key in keys:
            path = self._path(key)
            with _local_errors(key), contextlib.suppress(FileNotFoundError):
                sync(path)
                folders |= {folder for folder in path.parents if folder.is_relative_to(top)}
        for folder in sorted(folders, reverse=True):
            with _local_errors(str(folder)):
                sync(folder)

    def uri(self, key: str) -> str:
        return self._path(key).as_uri()

    def delta_uri(self, key: str) -> str:
        path = str(self._path(key))
        if unfit := unfit_for_tables(path):
            raise StorageError(
                f"{path!r} cannot hold mask tables: deltalake takes no {unfit} in a path; rename"
                " the folder, or keep the store elsewhere (uri under [store])"
            )
        return path

    def delta_options(self) -> dict[str, str]:
        return {}

    def _check_root(self) -> None:
        """Note which folder the root is, or make sure that it still is that one."""
        seen = self._seen  # before looking: a thread may make the folder meanwhile
        try:
            found = self.root.stat()
        except OSError as error:
            if seen is None:
                return  # it is made at the first write
            raise StorageUnavailableError(f"{self.root} is gone: is it mounted?") from error
        now = (found.st_dev, found.st_ino)
        self._seen = seen or now
        if now != self._seen:
            raise StorageUnavailableError(
                f"{self.root} is another folder than before: is the disk mounted? "
                "If it was moved on purpose, start this process again"
            )

    def _path(self, key: str) -> Path:
        self._check_root()
        path = self.root.joinpath(check_key(key))
        try:
            straight = path.resolve() == path
        except (OSError, RuntimeError) as error:
            raise StorageError(f"{key!r} cannot be followed to a file") from error
        if not straight:
            raise StorageError(f"{key!r} leads through a symbolic link")
        return path

    def _put(self, key: str, open_source: Callable[[], BinaryIO]) -> None:
        path = self._path(key)
        with _local_errors(key, absent=StorageError):
            if not path.is_file():
                make_folder(path.parent)
                with open_source() as source:
                    if link_new(path, source):
                        self._check_root()
                        return
            with path.open("rb") as held, open_source() as source:
                if not same_content(source, iter(lambda: held.read(CHUNK_BYTES), b"")):
                    raise ObjectExistsError(f"{key!r} exists with other content")

    def _walk(self, folder: Path, base: str, prefix: str) -> Iterator[ObjectInfo]:
        try:
            with os.scandir(folder) as entries:
                found = [entry for entry in entries if not entry.is_symlink()]
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            raise StorageError(f"{base!r} cannot be listed: {error}") from error
        # A folder sorts as "name/", so that the whole walk is in the order of the full keys.
        names = sorted((base + entry.name + "/" * entry.is_dir(), entry) for entry in found)
        for name, entry in names:
            if entry.is_dir():
                if name.startswith(prefix) or prefix.startswith(name):
                    yield from self._walk(Path(entry.path), name, prefix)
            elif name.startswith(prefix) and is_key(name):
                try:
                    held = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                yield ObjectInfo(name, held.st_size, datetime.fromtimestamp(held.st_mtime, UTC))


@contextlib.contextmanager
def _local_errors(key: str, absent: type[StorageError] = ObjectNotFoundError) -> Iterator[None]:
    """Turn the file system's errors into this module's, no such file (a folder is none) into
    `absent`."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise absent(f"no object {key!r}") from error
    except OSError as error:
        kind = StorageUnavailableError if error.errno in _AWAY else StorageError
        raise kind(sentence_of(error) or f"{key!r}: {error}") from error
