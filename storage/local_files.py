"""Local files that appear whole, and are on disk when they do, or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from storage.os_errors import naming

CHUNK_BYTES = 1024**2
"""How much of a file is held in memory at once."""
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
"""What file systems without hard links answer."""


@contextlib.contextmanager
def _staged(path: Path, write: Callable[[BinaryIO], None], mode: int = 0o666) -> Iterator[Path]:
    """A temporary file beside `path`, written and on disk, for the block to give its name. It has
    this mode, less the umask, before its first byte."""
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
        _sync_folder(path.parent)


def link_new(path: Path, source: BinaryIO) -> bool:
    """Make `path` from the source; False if something has that name.

    Raises:
        OSError: it cannot be written; ENOTSUP where the file system has no hard links.
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
    """Make or replace a local file; its folder is made if it is missing.

    Args:
        mode: of the file, less the umask.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _staged(path, write, mode) as staged:
        staged.replace(path)


def write_private(path: Path, text: str) -> None:
    """Make or replace a local file that nobody else can read, from its first byte."""
    temporary = path.with_name(f".{uuid.uuid4().hex}")
    try:
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w") as file:
            file.write(text)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
