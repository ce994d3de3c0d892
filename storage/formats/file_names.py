"""Match the entries of an annotation file with image files, by name.

Rules in this order; each file and each entry matches once:

1. The path in the images' folder equals the entry's name.
2. The longest end of both paths (`north/0001.png` in `/data/north/0001.png`) that only these two
   share. Changes that tools make to names are undone if that finds a file: URLs
   (`https://host/...`, `s3://bucket/...`, Label Studio's `/data/local-files/?d=...`), `%20`, the
   eight digits that Label Studio puts before the name of an upload, and its changes to the name
   itself (spaces become `_`, brackets are removed).

Names that match several are not used: a message says so.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path, PurePosixPath
from urllib.parse import parse_qs, unquote

from storage.formats.folders import as_text

_LOCAL_FILES = "/data/local-files/?"
_UPLOAD = re.compile(r"[0-9a-f]{8}-(?=.)")


class FileNames:
    """The names of entries, matched with files.

    Args:
        entries: the names in the annotation file, which may repeat.
        files: paths of image files, relative to their folder.
        folder: the folder, whose own path helps to match.
    """

    def __init__(
        self, entries: Sequence[str], files: Iterable[str], folder: Path | None = None
    ) -> None:
        self._entries: dict[str, list[int]] = defaultdict(list)
        for number, name in enumerate(entries):
            self._entries[plain_path(name)].append(number)
        self._above = _parts(as_text(folder.resolve())) if folder else ()
        self._disk = disk = dict.fromkeys(plain_path(name) for name in files)
        self._found = {path: path for path in disk if path in self._entries}
        self._problems: dict[str, str] = {}
        self._free = {path for path in self._entries if path not in disk}
        self._refuse_contested()
        rest = [path for path in disk if path not in self._entries]
        for form in (plain_path, _without_address, _without_upload):
            rest = self._match_ends(rest, form, form)
        rest = self._match_ends(rest, _as_upload, _only_upload)
        self._explain(rest)

    def find(self, file_name: str) -> tuple[list[int], str | None]:
        """The entries for this file, several only if they share a name; and the reason if the match
        is ambiguous."""
        path = plain_path(file_name)
        if path in self._problems:
            return [], self._problems[path]
        if path in self._entries and path not in self._disk:
            return list(self._entries[path]), None
        if path not in self._disk:  # a file not given to the constructor
            return FileNames(self._names(), [file_name]).find(file_name)
        return list(self._entries.get(self._found.get(path, ""), ())), None

    def settle(self, file_name: str) -> None:
        """Remove the file's ambiguity: the caller has matched it by other means."""
        self._problems.pop(plain_path(file_name), None)

    def without_file(self) -> list[int]:
        """Indices of entries that match no file, without ambiguous ones, ascending."""
        doubtful = {_base(_without_address(path)) for path in self._problems}
        free = (path for path in self._free if _base(_without_address(path)) not in doubtful)
        return sorted(number for path in free for number in self._entries[path])

    def _names(self) -> list[str]:
        numbered = ((number, path) for path, held in self._entries.items() for number in held)
        return [path for _, path in sorted(numbered)]

    def _refuse_contested(self) -> None:
        """Unmatch ambiguous files: `0001.png` in the folder `south` may be the entry `0001.png` or
        `south/0001.png`."""
        for path in list(self._found):
            for count in range(1, len(self._above)):
                longer = "/".join((*self._above[-count:], path))
                if longer in self._free:
                    del self._found[path]
                    self._problems[path] = (
                        f"both {path} and {longer} are annotated: which is meant?"
                    )
                    break

    def _match_ends(
        self, files: list[str], of_file: Callable[[str], str], of_entry: Callable[[str], str]
    ) -> list[str]:
        """Match names with the same end in these forms; returns the unmatched files."""
        deep = {path: (*self._above, *_parts(of_file(path))) for path in files}
        wanted = {path: _parts(of_entry(path)) for path in self._free}
        longest = max((len(parts) for parts in wanted.values()), default=0)
        for count in range(longest, 0, -1):
            ends, entries = _by_end(deep, count), _by_end(wanted, count)
            for end, (file, *more) in ends.items():
                candidates = entries.get(end, [])
                whole = [entry for entry in candidates if len(wanted[entry]) == count]
                candidates = whole or candidates  # the others differ further up
                if len(candidates) == 1 and not more:
                    self._found[file] = candidates[0]
                    self._free.discard(candidates[0])
                    del deep[file], wanted[candidates[0]]
        return list(deep)

    def _explain(self, files: list[str]) -> None:
        """Record why files with an entry's base name have no entry."""
        entries: dict[str, int] = defaultdict(int)
        for path in self._free:
            entries[_base(_without_address(path))] += 1
        named: dict[str, list[str]] = defaultdict(list)
        for path in files:
            named[_base(_without_address(path))].append(path)
        for base, paths in named.items():
            if entries[base] > 1:
                reason = f"{entries[base]} annotated images are named {base}: which is meant?"
            elif entries[base]:
                reason = f"{len(paths)} files are named {base}, but one image is annotated"
            else:
                continue
            self._problems.update(dict.fromkeys(paths, reason))


def plain_path(name: str) -> str:
    """A relative path in one form: forward slashes, no "./", composed Unicode (unlike macOS)."""
    return PurePosixPath(unicodedata.normalize("NFC", name.replace("\\", "/"))).as_posix()


def _without_address(path: str) -> str:
    """The path in a URL, without host or bucket."""
    scheme, slash, rest = path.partition(":/")
    query = ""
    if slash and scheme.isalnum() and len(scheme) > 1:
        rest = rest.lstrip("/").partition("/")[2]
        if scheme.lower() in ("http", "https"):
            rest, _, query = rest.partition("?")
    elif path.startswith(_LOCAL_FILES):
        rest, _, query = path.partition("?")
    else:
        rest = path
    given = parse_qs(query).get("d")
    return plain_path(given[0] if given else unquote(rest))


def _without_upload(path: str) -> str:
    clean = PurePosixPath(_without_address(path))
    return clean.with_name(_UPLOAD.sub("", clean.name)).as_posix() if clean.name else ""


def _only_upload(path: str) -> str:
    """The path without an upload's digits; empty if it is not an upload's name."""
    clean = _without_address(path)
    return _without_upload(path) if _UPLOAD.match(_base(clean)) else ""


def _as_upload(path: str) -> str:
    """The path with its name changed as Label Studio does (Django's `get_valid_filename`)."""
    clean = PurePosixPath(path)
    name = re.sub(r"[^-\w.]", "", clean.name.strip().replace(" ", "_"))
    return clean.with_name(name).as_posix() if name not in ("", ".", "..") else ""


def _parts(path: str) -> tuple[str, ...]:
    return tuple(part for part in PurePosixPath(path).parts if part != "/")


def _by_end(paths: dict[str, tuple[str, ...]], count: int) -> dict[tuple[str, ...], list[str]]:
    found: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for path, parts in paths.items():
        if len(parts) >= count:
            found[parts[-count:]].append(path)
    return found


def _base(path: str) -> str:
    return PurePosixPath(path).name
