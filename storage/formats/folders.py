"""List the image files of a folder, and what was skipped."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from storage.formats.images import SUFFIXES
from storage.outputs import LIST, OutputFolder

Skipped = Callable[[Path, str], None]
"""Called with the path and kind of each skipped file or folder."""

UNREADABLE = "folders that cannot be read"
OURS = "files that dataengine wrote"


def list_images(root: Path, skipped: Skipped | None = None) -> Iterator[Path]:
    """Every file below `root` whose suffix is an image's, in any case, sorted by path.

    Files are not opened, so broken ones are listed too. Hidden files and folders, linked folders,
    links to files outside `root`, and pictures that this project wrote there (`storage.outputs`)
    are skipped.

    Args:
        root: the folder.
        skipped: called for each skipped path.

    Raises:
        NotADirectoryError: root is not a folder.
        OSError: root cannot be read; without `skipped`, also a folder below it.
    """
    if not root.is_dir():
        raise NotADirectoryError(f"{root} is not a folder")
    return _walk(root, _Listing(root), root.resolve(), skipped)


def as_text(path: Path) -> str:
    """The path with forward slashes, and `%XX` for each byte that is not UTF-8."""
    return re.sub("[\ud800-\udfff]", lambda m: f"%{ord(m[0]) & 0xFF:02X}", path.as_posix())


def distinct_names(paths: Sequence[Path]) -> list[str]:
    """The files' names, or paths relative to their common folder if two names are equal."""
    names = [as_text(Path(path.name)) for path in paths]
    if len(set(names)) == len(names):
        return names
    shared = Path(os.path.commonpath([path.resolve().parent for path in paths]))
    return [as_text(path.resolve().relative_to(shared)) for path in paths]


class _Listing:
    """The entries of a folder, and which of them we wrote."""

    def __init__(self, folder: Path) -> None:
        with os.scandir(folder) as found:
            self.entries = sorted(found, key=lambda entry: entry.name)
        self._outputs = OutputFolder(folder)

    def is_ours(self, name: str) -> bool:
        return name == LIST or self._outputs.is_ours(name)


def _walk(folder: Path, listing: _Listing, inside: Path, skipped: Skipped | None) -> Iterator[Path]:
    for entry in listing.entries:
        path = folder / entry.name
        kind = OURS if listing.is_ours(entry.name) else _kind_to_skip(entry, path, inside)
        if kind is None and entry.is_dir(follow_symlinks=False):
            try:
                below = _Listing(path)
            except OSError:
                if skipped is None:
                    raise
                kind = UNREADABLE
            else:
                yield from _walk(path, below, inside, skipped)
                continue
        if kind is None:
            yield path
        elif skipped is not None:
            skipped(path, kind)


def _kind_to_skip(entry: os.DirEntry[str], path: Path, inside: Path) -> str | None:
    """The kind of an entry to skip; None for a folder or an image."""
    if entry.name.startswith("."):
        return "hidden files and folders"
    if entry.is_dir(follow_symlinks=False):
        return None
    target = _mode(path) if entry.is_symlink() else 0
    if stat.S_ISDIR(target):
        return "linked folders"
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        return f"files with the suffix {suffix}" if suffix else "files without a suffix"
    if not (stat.S_ISREG(target) or entry.is_file(follow_symlinks=False)):
        return "links that lead nowhere, and other things that are no files"
    if entry.is_symlink() and not path.resolve().is_relative_to(inside):
        return "links that lead out of the folder"
    return None


def _mode(path: Path) -> int:
    """The mode of the link's target; 0 if it is broken, circular or not accessible."""
    try:
        return path.stat().st_mode
    except OSError:
        return 0
