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
def _staged(path: Path, write: Callable[[BinaryIO], None]) -> Iterator[Path]:
    """A temporary file beside `path`, written and on disk, for the block to give its name."""
    temporary = path.with_name(f".{uuid.uuid4().hex}")
    with naming(path):
        try:
            with temporary.open("xb") as target:
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


def replace(path: Path, write: Callable[[BinaryIO], None]) -> None:
    """Make or replace a local file; its folder is made if it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with _staged(path, write) as staged:
        staged.replace(path)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
