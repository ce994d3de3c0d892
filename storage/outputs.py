"""The one door for files written into a user's folder: it replaces only files that it wrote.

A hidden list in the folder, LIST, names each file that was written, the SHA-256 of its content and
what it was made from. A file is ours while its content is one that the list has for its name: a
file that was there before, or that somebody changed since, is never replaced.
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
from typing import BinaryIO

from engine.core.errors import DataEngineError
from storage.keys import MAX_SEGMENT_BYTES
from storage.local_files import replace
from storage.os_errors import naming

LIST = ".dataengine-outputs.jsonl"
"""In a folder: a line a file, `{"name", "sha256", "of"}`; lines are only added."""


class OutputExistsError(DataEngineError):
    """A file that is not ours has the name of one to be written. Move it away, or choose another
    folder or name; nothing was changed."""


class OutputFolder:
    """A folder of the user's, to write files into. It is made with the first file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._known = _read_list(folder)

    def is_ours(self, name: str, of: str | None = None) -> bool:
        """Whether we wrote the file as it is now.

        Args:
            name: of a file in the folder.
            of: and made it from this; None: from whatever.
        """
        known = self._known.get(name)
        path = self.folder / name
        if known is None or path.is_symlink() or not path.is_file():
            return False
        try:
            source = known.get(_sha256(path))
        except OSError:  # it cannot be read, so it may be anybody's
            return False
        return source in ({of} if of is not None else {*known.values()})

    def refuse_others(self, names: Iterable[str]) -> None:
        """Check names before work is begun for them.

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
        missing, or ours and made from the same. One that is too long for a name is cut."""
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
        """A path to write the file's content to; the file has its name, whole, when the block ends,
        and is left as it was when the block raises.

        Raises:
            OutputExistsError: a file that is not ours has the name.
            OSError: it cannot be written; `filename` says which.
        """
        path = self.folder / name
        with naming(path):
            self.folder.mkdir(parents=True, exist_ok=True)
            self.refuse_others([name])
            temporary = path.with_name(f".{uuid.uuid4().hex}")
            try:
                yield temporary
                self._enter(name, _sha256(temporary), of)  # first: one that is not listed stays
                temporary.replace(path)
            finally:
                temporary.unlink(missing_ok=True)

    def write(self, name: str, content: bytes | str, of: str = "") -> Path:
        """Write one file at once; returns its path, raises as `writing`."""
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
    """Make a file that tells by itself whose it is, or replace one that `is_own` knows as such, or
    that is empty. Its mode is `mode` less the umask, from its first byte.

    Raises:
        OutputExistsError: another file has the name.
        OSError: it cannot be written; `filename` says which.
    """
    empty = path.is_file() and path.stat().st_size == 0  # as mktemp makes them
    if os.path.lexists(path) and not empty and not is_own(path):
        raise OutputExistsError(
            f"{path} was not written by dataengine: move it away, or choose another name"
        )
    replace(path, write, mode=mode)


def written_by_us(paths: Iterable[Path]) -> set[Path]:
    """Those of the paths that are outputs of ours, and so nobody's input."""
    folder_of = functools.cache(OutputFolder)
    return {path for path in paths if folder_of(path.parent).is_ours(path.name)}


def _read_list(folder: Path) -> dict[str, dict[str, str]]:
    """By name, what each content was made from. Empty lines, and one cut short, are passed over."""
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
    """As much of the name as fits into so many bytes."""
    data = os.fsencode(name)
    return name if len(data) <= limit else data[:limit].decode(errors="ignore")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
