"""Validation of a backup's values. The file is untrusted, so sizes, types and all parts of keys and
paths are checked before use."""

from __future__ import annotations

import json
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import IO, Any

from sqlalchemy import JSON, Connection, DateTime, Enum, Float, Integer, String, Table, select

from storage.catalog.errors import CatalogError
from storage.catalog.tables import Base
from storage.keys import is_key

MAX_MANIFEST_BYTES = 1 << 20
MAX_LINE_BYTES = 64 << 20
"""Of one row; the largest are drafts, at most as large as a submission."""

_DAMAGE = (KeyError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError)
"""Errors of a damaged or forged archive; RuntimeError: unsupported compression or a password."""
_NAMED = {
    "models": ("version", "parent", "key"),
    "promotions": ("version",),
    "rounds": ("model_in", "model_out", "run_id", "train_run_id"),
    "runs": ("id", "model"),
    "shards": ("run_id",),
    "tasks": ("run_id", "result_key"),
    "images": ("key", "run_id"),
    "releases": ("name", "key"),
    "guideline_pictures": ("name", "key"),
}
"""Columns that become part of object keys and of local paths."""
_HASHED = re.compile(r"[0-9a-f]{64}")


class BackupError(CatalogError):
    """The file is not a backup or is damaged, or the target is not empty; nothing was changed. The
    message says which: use another file, or an empty database."""


@contextmanager
def readable(what: str) -> Iterator[None]:
    """Turn errors of damaged or forged content into a BackupError about `what`."""
    try:
        yield
    except (*_DAMAGE, AttributeError, OverflowError, TypeError, ValueError) as error:
        raise BackupError(f"{what} is damaged: {error}") from error


def read_json(archive: zipfile.ZipFile, name: str) -> Any:
    """A small JSON file of the archive; raises errors that `readable` handles."""
    with archive.open(name) as file:
        data = file.read(MAX_MANIFEST_BYTES + 1)
    if len(data) > MAX_MANIFEST_BYTES:
        raise ValueError(f"{name} is over {MAX_MANIFEST_BYTES} bytes")
    return json.loads(data)


def lines_of(file: IO[bytes], most: int) -> Iterator[bytes]:
    """The file's lines, at most `most`; raises errors that `readable` handles."""
    for number in range(1, most + 2):
        line = file.readline(MAX_LINE_BYTES + 1)
        if not line:
            return
        if number > most:
            raise ValueError(f"it has more than {most} rows")
        if not line.endswith(b"\n"):
            raise ValueError(f"row {number} has no end within {MAX_LINE_BYTES} bytes")
        yield line


def row_of(line: bytes) -> list[Any]:
    """Parse the values of a line."""
    found = json.loads(line, parse_constant=_refuse_constant)
    if not isinstance(found, list):
        raise ValueError(f"a row is a {type(found).__name__}, expected a list")
    return found


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number")


def reader_of(table: Table, name: str, is_postgresql: bool) -> Callable[[Any], Any]:
    """Converts a value of the file to the column's type; raises errors that `readable` handles."""
    column = table.columns[name]
    kind, is_key_like = column.type, name in _NAMED.get(table.name, ())
    is_digest = (table.name, name) == ("images", "sha256")

    def text(value: Any) -> str:
        longest = kind.length if isinstance(kind, String) else None
        if not isinstance(value, str) or (longest is not None and len(value) > longest):
            raise ValueError(f"{name} is {str(value)[:80]!r}, expected text of at most {longest}")
        if is_key_like and not is_key(value):
            raise ValueError(f"{name} is {value[:80]!r}, which cannot be part of a key")
        if is_digest and not _HASHED.fullmatch(value):
            raise ValueError(f"{name} is {value[:80]!r}, expected a SHA-256")
        return value

    def number(value: Any) -> int:
        if type(value) is not int or not -(2**63) <= value < 2**63:
            raise ValueError(f"{name} is {str(value)[:80]!r}, expected a whole number")
        return value

    def real(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"{name} is {str(value)[:80]!r}, expected a number")
        return float(value)

    def time(value: Any) -> datetime:
        found = datetime.fromisoformat(value)
        if found.tzinfo is None:
            raise ValueError(f"{name} is {value[:80]!r}, which has no time zone")
        return found if is_postgresql else found.astimezone(UTC).replace(tzinfo=None)

    if isinstance(kind, JSON):
        return lambda value: value
    for kinds, read in ((DateTime, time), (Integer, number), (Float, real)):
        if isinstance(kind, kinds):
            return read
    return text


def check_words(connection: Connection) -> None:
    """Check that this code knows all kinds and states: later reads would fail on unknown ones.

    Raises:
        BackupError: one is unknown.
    """
    for table in Base.metadata.sorted_tables:
        for column in table.columns:
            if isinstance(column.type, Enum):
                plain = table.c[column.name].cast(String)
                query = select(plain).where(plain.not_in(column.type.enums)).limit(1)
                if (found := connection.scalar(query)) is not None:
                    raise BackupError(
                        f"table {table.name} is damaged: {column.name} is {str(found)[:80]!r}"
                    )
