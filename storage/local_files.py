"""Atomic, durable writes of local files: a file appears whole and on disk, or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from itertools import takewhile
from pathlib import Path
from typing import BinaryIO

from storage.os_errors import naming

CHUNK_BYTES = 1024**2
"""How much of a file is in memory at once."""
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
"""Error numbers of file systems without hard links."""


@contextlib.contextmanager
def _staged(path: Path, write: Callable[[BinaryIO], None], mode: int = 0o666) -> Iterator[Path]:
    """A temporary file beside `path`, written and on disk, for the block to rename. It has this
    mode, less the umask, from its first byte."""
    temporary = path.with_name(f".{uuid.uuid4().hex}")
    with naming(path):
        try:
            handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
            with os.fdopen(handle, "wb") as target:
                write(target)
                target.flush()
                os.fsync(target.fileno())
            yield temporary
        finally:
            temporary.unlink(missing_ok=True)
        sync(path.parent)


def link_new(path: Path, source: BinaryIO) -> bool:
    """Make `path` from the source; False if the name is taken.

    Raises:
        OSError: it cannot be written; ENOTSUP if the file system has no hard links.
    """
    with _staged(path, lambda target: shutil.copyfileobj(source, target, CHUNK_BYTES)) as staged:
        try:
            os.link(staged, path)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            raise OSError(errno.ENOTSUP, "the file system has no hard links", str(path)) from error
    return True


def replace(path: Path, write: Callable[[BinaryIO], None], *, mode: int = 0o666) -> None:
    """Make or replace a local file; its folder is made if missing.

    Args:
        mode: of the file, less the umask.
    """
    make_folder(path.parent)
    with _staged(path, write, mode) as staged:
        staged.replace(path)


def write_private(path: Path, text: str) -> None:
    """Make or replace a local file that only its owner can read, from its first byte."""
    temporary = path.with_name(f".{uuid.uuid4().hex}")
    try:
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w") as file:
            file.write(text)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def make_folder(folder: Path) -> None:
    """Make a folder and its missing parents, on disk when this returns."""
    missing = list(takewhile(lambda path: not path.exists(), [folder, *folder.parents]))
    folder.mkdir(parents=True, exist_ok=True)
    for made in missing:
        sync(made.parent)


def sync(path: Path) -> None:
    """Flush a file's content, or a folder's names, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
