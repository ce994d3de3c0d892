"""Local files that appear whole, and are on disk when they do, or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from itertools import takewhile
from pathlib import Path
from typing import BinaryIO

CHUNK_BYTES = 1024**2
"""How much of a file is held in memory at once."""


@contextlib.contextmanager
def _staged(path: Path, write: Callable[[BinaryIO], None]) -> Iterator[Path]:
    """A temporary file beside `path`, written and on disk, for the block to give its name."""
    temporary = path.with_name(f".{uuid.uuid4().hex}")
    try:
        with temporary.open("xb") as target:
            write(target)
            target.flush()
            os.fsync(target.fileno())
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)
    sync(path.parent)


def link_new(path: Path, source: BinaryIO) -> bool:
    """Make `path` from the source; False if something has that name."""
    with _staged(path, lambda target: shutil.copyfileobj(source, target, CHUNK_BYTES)) as staged:
        try:
            os.link(staged, path)
        except FileExistsError:
            return False
    return True


def replace(path: Path, write: Callable[[BinaryIO], None]) -> None:
    """Make or replace a local file; its folder is made if it is missing."""
    make_folder(path.parent)
    with _staged(path, write) as staged:
        staged.replace(path)


def make_folder(folder: Path) -> None:
    """Make a folder and those above it that are missing; they are on disk then."""
    missing = list(takewhile(lambda path: not path.exists(), [folder, *folder.parents]))
    folder.mkdir(parents=True, exist_ok=True)
    for made in missing:
        sync(made.parent)


def sync(path: Path) -> None:
    """Have a file's content, or a folder's names, on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
