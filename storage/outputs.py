"""Write files into a user's folder; only files written before are replaced.

A hidden list in the folder, LIST, records the name of each written file, the SHA-256 of its content
and its source. A file is ours while the list has its content under its name: a file that existed
before, or that somebody changed since, is never replaced.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import json
import os
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, Protocol

from engine.core.errors import DataEngineError
from storage.keys import MAX_SEGMENT_BYTES
from storage.local_files import replace
from storage.os_errors import naming

LIST = ".dataengine-outputs.jsonl"
"""File name of the list: one JSON line per file, `{"name", "sha256", "of"}`; append-only."""


class OutputExistsError(DataEngineError):
    """A file that is not ours has the name of a file to write. Move it away, or choose another
    folder or name; nothing was changed."""


class Outputs(Protocol):
    """A place of the user to write files into: an OutputFolder, or `storage.s3_outputs`."""

    def is_ours(self, name: str, of: str | None = None) -> bool:
        """Whether we wrote the file, from the source `of` if one is given."""

    def refuse_others(self, names: Iterable[str]) -> None:
        """Check that these names are free or ours; raises OutputExistsError."""

    def writing(self, name: str, of: str = "") -> contextlib.AbstractContextManager[Path]:
        """A temporary path to write the content to; the file appears when the block ends."""

    def write(self, name: str, content: bytes | str, of: str = "") -> object:
        """Write one file."""


class OutputFolder:
    """A user's folder to write files into, made with the first file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._known = _read_list(folder)

    def __str__(self) -> str:
        return str(self.folder)

    def is_ours(self, name: str, of: str | None = None) -> bool:
        """Whether we wrote the file with its current content.

        Args:
            name: of a file in the folder.
            of: source that it must have been made from; None: any.
        """
        known = self._known.get(name)
        path = self.folder / name
        if known is None or path.is_symlink() or not path.is_file():
            return False
        try:
            source = known.get(_sha256(path))
        except OSError:  # unreadable, so it may not be ours
            return False
        return source in ({of} if of is not None else {*known.values()})

    def refuse_others(self, names: Iterable[str]) -> None:
        """Check that these names are free or ours, before long work for them.

        Raises:
            OutputExistsError: a file that is not ours has one of them.
        """
        for name in names:
            if not self._is_free(name):
                raise OutputExistsError(
                    f"{self.folder / name} was not written by dataengine, or was changed since: "
                    "move it away, or choose another folder"
                )

    def fresh_stem(self, stem: str, suffixes: Iterable[str], of: str) -> str:
        """The stem, or `<stem>-2`, `-3` and so on: the first whose files with these suffixes are
        missing, or ours and made from the same source. A stem too long for a name is cut."""
        endings = list(suffixes)
        room = MAX_SEGMENT_BYTES - max(len(ending) for ending in endings)
        tails = itertools.chain([""], (f"-{number}" for number in itertools.count(2)))
        stems = (_cut(stem, room - len(tail)) + tail for tail in tails)
        return next(
            chosen
            for chosen in stems
            if all(self._is_free(chosen + ending, of) for ending in endings)
        )

    @contextlib.contextmanager
    def writing(self, name: str, of: str = "") -> Iterator[Path]:
        """A temporary path to write the content to; a missing folder is made. The file gets its
        name when the block ends; it stays unchanged if the block raises.

        Raises:
            OutputExistsError: a file that is not ours has the name.
            OSError: it cannot be written; `filename` is its path.
        """
        path = self.folder / name
        with naming(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self.refuse_others([name])
            temporary = path.with_name(f".{uuid.uuid4().hex}")
            try:
                yield temporary
                self._enter(
                    name, _sha256(temporary), of
                )  # first: an unlisted file would not be ours
                temporary.replace(path)
            finally:
                temporary.unlink(missing_ok=True)

    def write(self, name: str, content: bytes | str, of: str = "") -> Path:
        """Write one file; returns its path, raises as `writing`."""
        data = content.encode() if isinstance(content, str) else content
        with self.writing(name, of) as path:
            path.write_bytes(data)
        return self.folder / name

    def _is_free(self, name: str, of: str | None = None) -> bool:
        return not os.path.lexists(self.folder / name) or self.is_ours(name, of)

    def _enter(self, name: str, sha256: str, of: str) -> None:
        known = self._known.setdefault(name, {})
        if known.get(sha256) == of:
            return
        known[sha256] = of
        line = json.dumps({"name": name, "sha256": sha256, "of": of})
        with (self.folder / LIST).open("ab") as file:  # in one write: processes may share a folder
            file.write(f"\n{line}".encode())  # the end of the line before may be missing


def replace_own(
    path: Path,
    write: Callable[[BinaryIO], None],
    is_own: Callable[[Path], bool],
    *,
    mode: int = 0o666,
) -> None:
    """Make a file whose content identifies it as ours, or replace one that `is_own` accepts or that
    is empty. Its mode is `mode` less the umask, from its first byte.

    Raises:
        OutputExistsError: another file has the name.
        OSError: it cannot be written; `filename` is its path.
    """
    empty = path.is_file() and path.stat().st_size == 0  # as mktemp makes them
    if os.path.lexists(path) and not empty and not is_own(path):
        raise OutputExistsError(
            f"{path} was not written by dataengine: move it away, or choose another name"
        )
    replace(path, write, mode=mode)


def written_by_us(paths: Iterable[Path]) -> set[Path]:
    """The paths that are outputs of ours, and so not inputs."""
    folder_of = functools.cache(OutputFolder)
    return {path for path in paths if folder_of(path.parent).is_ours(path.name)}


def _read_list(folder: Path) -> dict[str, dict[str, str]]:
    """The source of each content, by file name. Skips empty and truncated lines."""
    known: dict[str, dict[str, str]] = {}
    try:
        lines = (folder / LIST).read_bytes().splitlines()
    except FileNotFoundError:
        return known
    for line in lines:
        with contextlib.suppress(ValueError, KeyError, TypeError):
            entry = json.loads(line)
            known.setdefault(entry["name"], {})[entry["sha256"]] = entry["of"]
    return known


def _cut(name: str, limit: int) -> str:
    """The start of the name that fits into `limit` bytes."""
    data = os.fsencode(name)
    return name if len(data) <= limit else data[:limit].decode(errors="ignore")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
