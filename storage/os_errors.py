"""Errors of the operating system in one line: the file, the fault, the remedy."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path

_ROOM = "free some space, then give the same command again"
_RIGHTS = "check who owns it and its folder and who may write there, or choose another place"
_AGAIN = "check that the drive works and is mounted, then give the same command again"
ADVICE = {
    errno.ENOSPC: _ROOM,
    errno.EDQUOT: _ROOM,
    errno.EROFS: "choose another place, or mount this one for writing",
    errno.EACCES: _RIGHTS,
    errno.EPERM: _RIGHTS,
    errno.ENOTSUP: "use another file system; for the store, set `uri` under [store]",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ENOTDIR: "a part of this path is a file: choose another folder",
    errno.EISDIR: "a folder has this name: choose another name",
    errno.EEXIST: "the name is taken: move the file away, or choose another name",
    errno.ENOENT: "check its name, and that nothing moves or deletes it meanwhile",
    errno.ELOOP: "its links form a circle: give the real path",
    errno.EMFILE: "allow more open files (`ulimit -n`)",
    errno.ENFILE: "close other programs, or allow more open files",
    errno.EFBIG: "use a file system that allows files of this size",
    errno.EIO: _AGAIN,
    errno.ESTALE: _AGAIN,
}
"""Remedies by error number; a user cannot fix the other errors."""


SQLITE_ADVICE = {
    "readonly database": _RIGHTS,
    "unable to open database": "check that its folder exists and that it may be written to",
    "database or disk is full": _ROOM,
    "disk I/O error": _AGAIN,
}
"""Remedies by part of SQLite's message."""


def sqlite_sentence(file: str, message: str) -> str:
    """SQLite's message about a database, with the remedy if known."""
    advice = [advice for words, advice in SQLITE_ADVICE.items() if words in message]
    return "; ".join([f"{file}: {message}", *advice])


def sentence_of(error: OSError) -> str | None:
    """The error in one line; None if it names no file or a user cannot fix it."""
    if error.errno not in ADVICE or error.filename is None:
        return None
    what = error.strerror or errno.errorcode[error.errno]
    name = error.filename
    path = name.decode(errors="replace") if isinstance(name, bytes) else str(name)
    return f"{path}: {what}; {ADVICE[error.errno]}"


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Set the file name of the block's errors to `path`: the system names no file for a failed
    write, and for others the temporary file beside `path`, which the user does not know."""
    try:
        yield
    except OSError as error:
        name = error.filename
        if error.errno is None:  # its text is all there is
            raise
        if name is None or (isinstance(name, str) and Path(name).parent == path.parent):
            error.filename = str(path)
        raise
