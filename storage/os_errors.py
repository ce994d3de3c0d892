"""What the operating system refused, in one line: the file, what is wrong, what to do."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path

_ROOM = "make room, then give the same command again"
_RIGHTS = "check who owns it and its folder and who may write there, or choose another place"
_AGAIN = "look whether the drive is well and mounted, then give the same command again"
ADVICE = {
    errno.ENOSPC: _ROOM,
    errno.EDQUOT: _ROOM,
    errno.EROFS: "choose another place, or mount this one for writing",
    errno.EACCES: _RIGHTS,
    errno.EPERM: _RIGHTS,
    errno.ENOTSUP: "keep it on another file system; of the store, `uri` under [store] decides",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ENOTDIR: "a part of this path is a file: choose another folder",
    errno.EISDIR: "a folder has this name: choose another",
    errno.EEXIST: "something has this name: move it away, or choose another",
    errno.ENOENT: "check its name, and that nothing moves or deletes it meanwhile",
    errno.ELOOP: "its links lead in a circle: name the real path",
    errno.EMFILE: "allow more open files (`ulimit -n`)",
    errno.ENFILE: "close other programs, or allow more open files",
    errno.EFBIG: "keep it on a file system that takes files of this size",
    errno.EIO: _AGAIN,
    errno.ESTALE: _AGAIN,
}
"""By error number; an error that is not here is no user's to mend."""


SQLITE_ADVICE = {
    "readonly database": _RIGHTS,
    "unable to open database": "check that its folder exists and that it may be written to",
    "database or disk is full": _ROOM,
    "disk I/O error": _AGAIN,
}
"""By what SQLite says."""


def sqlite_sentence(file: str, said: str) -> str:
    """What SQLite said of a database, and what to do where that is known."""
    advice = [advice for words, advice in SQLITE_ADVICE.items() if words in said]
    return "; ".join([f"{file}: {said}", *advice])


def sentence_of(error: OSError) -> str | None:
    """The error in one line; None where there is no file or nothing that a user could do."""
    if error.errno not in ADVICE or error.filename is None:
        return None
    what = error.strerror or errno.errorcode[error.errno]
    name = error.filename
    path = name.decode(errors="replace") if isinstance(name, bytes) else str(name)
    return f"{path}: {what}; {ADVICE[error.errno]}"


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Errors of the block name `path`: where a write fails, the system names no file, and where it
    was one to a temporary file beside `path`, a name that tells the user nothing."""
    try:
        yield
    except OSError as error:
        name = error.filename
        if name is None or (isinstance(name, str) and Path(name).parent == path.parent):
            error.filename = str(path)
        raise
