"""Backups of the catalog: one compressed file with all rows, for either kind of database.

The rows are read in one transaction with a snapshot of the database, while others keep writing. The
file is a zip: `TABLE.jsonl` for each table, one JSON list per row, and `manifest.json` with the
schema revision, the columns, row counts and SHA-256 sums. A backup of SQLite restores into
PostgreSQL and vice versa. Times are ISO 8601 in UTC.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

from sqlalchemy import (
    JSON,
    Connection,
    Engine,
    MetaData,
    Table,
    delete,
    func,
    select,
    text,
    update,
)
from sqlalchemy import inspect as inspect_database
from sqlalchemy.exc import DataError, IntegrityError

from storage.catalog import schema
from storage.catalog.api_tokens import ApiTokenRow
from storage.catalog.backup_values import (
    BackupError,
    check_words,
    lines_of,
    read_json,
    readable,
    reader_of,
    row_of,
)
from storage.catalog.errors import CatalogNotMigratedError
from storage.catalog.sessions import typed_errors
from storage.catalog.states import DeliveryState
from storage.catalog.tables import AnnotatorRow, SignInRow
from storage.catalog.team_tables import DeliveryRow, WebhookRow
from storage.outputs import replace_own

__all__ = [
    "BackupError",
    "Manifest",
    "TableManifest",
    "first_values",
    "read_manifest",
    "restore_backup",
    "write_backup",
]

FORMAT = 1
MANIFEST = "manifest.json"
PAGE = 1_000
"""Maximum rows in memory at once."""
PAGE_BYTES = 16 << 20
"""Approximate maximum bytes of them."""
_VERSION_TABLE = "alembic_version"


@dataclass(frozen=True, kw_only=True, slots=True)
class TableManifest:
    """One table in a backup."""

    columns: list[str]
    rows: int
    sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """The contents of a backup. `revision` is the schema's."""

    format: int
    revision: str
    created_at: str
    database: str
    """sqlite or postgresql."""
    tables: dict[str, TableManifest]

    @property
    def rows(self) -> int:
        """Number of rows of all tables."""
        return sum(table.rows for table in self.tables.values())


def write_backup(engine: Engine, path: Path) -> Manifest:
    """Write all rows to `path`, atomically replacing an earlier backup.

    Raises:
        OutputExistsError: another kind of file has that name.
        CatalogNotMigratedError: the database has no catalog.
        CatalogUnavailableError: the database cannot be read.
        OSError: the file cannot be written.
    """
    manifest: list[Manifest] = []
    with typed_errors(engine):
        if schema.revision(engine) is None:
            raise CatalogNotMigratedError(f"there is no catalog in {engine.url} yet")
        # readable by its owner only: it says who did what
        replace_own(
            path, lambda target: manifest.append(_write(engine, target)), _is_backup, mode=0o600
        )
    return manifest[0]


def read_manifest(path: Path) -> Manifest:
    """The backup's manifest.

    Raises:
        BackupError: the file is not a backup, or has a newer format.
        OSError: it cannot be read.
    """
    with _opened(path) as archive:
        return _manifest(archive, path)


def _is_backup(path: Path) -> bool:
    try:
        read_manifest(path)
    except (BackupError, OSError):
        return False
    return True


def first_values(path: Path, table: str) -> set[str]:
    """The first column of a table in the backup; empty if it has no such table.

    Raises:
        BackupError: the file is not a backup, or the table is damaged.
        OSError: it cannot be read.
    """
    with _opened(path) as archive:
        held = _manifest(archive, path).tables.get(table)
        if held is None:
            return set()
        with readable(f"table {table}"), archive.open(f"{table}.jsonl") as file:
            return {str(row_of(line)[0]) for line in lines_of(file, held.rows)}


def restore_backup(engine: Engine, path: Path) -> Manifest:
    """Restore a backup into an empty database and migrate it to this code's schema, in one
    transaction: a failure leaves the database empty. Sessions and sign-in links are dropped, since
    they may have ended or been used after the backup. Webhooks are paused, since the database may
    be a copy; what waited for them is dropped.

    Raises:
        BackupError: the database has tables, or the file is not a backup or damaged.
        CatalogTooNewError: newer code made the backup.
        CatalogUnavailableError: the database cannot be reached.
        OSError: the file cannot be read.
    """
    with _opened(path) as archive, typed_errors(engine):
        manifest = _manifest(archive, path)
        if engine.dialect.name == "sqlite":
            _refuse_tables(engine)  # before connecting creates a file
        with schema.migrating(engine) as (connection, upgrade):
            _refuse_tables(connection)
            upgrade(manifest.revision)
            _fill(connection, archive, manifest, path)
            upgrade("head")
            connection.execute(delete(SignInRow))
            connection.execute(delete(ApiTokenRow))
            waiting = DeliveryRow.state == DeliveryState.WAITING
            connection.execute(delete(DeliveryRow).where(waiting))
            connection.execute(update(WebhookRow).values(paused_at=datetime.now(UTC)))
            connection.execute(update(AnnotatorRow).values(token_hash=None, token_expires_at=None))
            check_words(connection)
        return manifest


# writing


def _write(engine: Engine, target: BinaryIO) -> Manifest:
    isolation = {"isolation_level": "REPEATABLE READ"} if _is_postgresql(engine) else {}
    tables = {}
    with engine.connect().execution_options(**isolation) as connection:
        # SQLite's snapshot begins with the first read
        revision = str(connection.scalar(text("SELECT version_num FROM alembic_version")))
        archive = zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=6)
        with archive:
            for table in _reflected(connection).sorted_tables:
                if table.name != _VERSION_TABLE:
                    tables[table.name] = _write_table(connection, table, archive)
            manifest = Manifest(
                format=FORMAT,
                revision=revision,
                created_at=datetime.now(UTC).isoformat(timespec="seconds"),
                database=engine.dialect.name,
                tables=tables,
            )
            archive.writestr(MANIFEST, json.dumps(asdict(manifest), indent=1))
    return manifest


def _write_table(connection: Connection, table: Table, archive: zipfile.ZipFile) -> TableManifest:
    digest, count = hashlib.sha256(), 0
    query = select(table).order_by(*table.primary_key.columns)
    found = connection.execution_options(yield_per=PAGE).execute(query)
    with archive.open(f"{table.name}.jsonl", "w", force_zip64=True) as file:
        for page in found.partitions():
            lines = "".join(
                json.dumps([_plain(value) for value in row], ensure_ascii=False) + "\n"
                for row in page
            )
            data = lines.encode()
            digest.update(data)
            file.write(data)
            count += len(page)
    return TableManifest(columns=list(table.columns.keys()), rows=count, sha256=digest.hexdigest())


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        aware = value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
        return aware.isoformat()
    return value


# reading


def _opened(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except (zipfile.BadZipFile, EOFError, ValueError, NotImplementedError) as error:
        raise BackupError(f"{path} is not a backup, or is truncated: {error}") from error


def _manifest(archive: zipfile.ZipFile, path: Path) -> Manifest:
    with readable(f"the list of tables in {path}"):
        values = read_json(archive, MANIFEST)
        tables = {name: TableManifest(**table) for name, table in values.pop("tables").items()}
        found = Manifest(**values, tables=tables)
        if not all(isinstance(value, str) for value in (found.revision, found.created_at)):
            raise ValueError("revision and created_at must be text")
        if found.revision == "head":
            raise ValueError("head is not a revision")
        for name, table in tables.items():
            columns = table.columns
            if not isinstance(columns, list) or len(columns) != len(set(columns)):
                raise ValueError(f"the columns of {name!r} are not a list, or one is repeated")
            if type(table.rows) is not int or table.rows < 0:
                raise ValueError(f"the rows of {name!r} are not a number")
    if found.format != FORMAT:
        raise BackupError(
            f"{path} has format {found.format}, this code reads {FORMAT}: use newer code"
        )
    return found


def _refuse_tables(target: Engine | Connection) -> None:
    engine = target if isinstance(target, Engine) else target.engine
    if engine.dialect.name == "sqlite" and not Path(str(engine.url.database)).exists():
        return
    names = inspect_database(target).get_table_names()
    if names:
        raise BackupError(
            f"{engine.url} is not empty, it has the table {sorted(names)[0]!r}: restore into a new "
            "database (DATAENGINE_DATABASE_URL names one) or move the old one away"
        )


def _fill(connection: Connection, archive: zipfile.ZipFile, manifest: Manifest, path: Path) -> None:
    tables = _reflected(connection)
    if missing := set(manifest.tables) - set(tables.tables):
        raise BackupError(f"{path}: revision {manifest.revision} has no table {sorted(missing)[0]}")
    for table in tables.sorted_tables:
        if table.name == _VERSION_TABLE:
            continue
        connection.execute(table.delete())  # rows that the migrations inserted
        held = manifest.tables.get(table.name)
        if held is not None:
            _fill_table(connection, table, archive, held)
    if _is_postgresql(connection.engine):
        _advance_sequences(connection, tables)


def _fill_table(
    connection: Connection, table: Table, archive: zipfile.ZipFile, held: TableManifest
) -> None:
    if unknown := set(held.columns) - set(table.columns.keys()):
        raise BackupError(f"table {table.name} has no column {sorted(unknown)[0]!r}")
    postgresql = _is_postgresql(connection.engine)
    readers = [reader_of(table, name, postgresql) for name in held.columns]
    digest, count = hashlib.sha256(), 0
    with readable(f"table {table.name}"), archive.open(f"{table.name}.jsonl") as file:
        for page in _pages(lines_of(file, held.rows), digest):
            rows = [
                {
                    name: None if value is None else read(value)
                    for name, read, value in zip(held.columns, readers, row_of(line), strict=True)
                }
                for line in page
            ]
            try:
                connection.execute(table.insert(), rows)
            except (IntegrityError, DataError) as error:
                raise ValueError(str(error.orig)) from error
            count += len(rows)
    if (digest.hexdigest(), count) != (held.sha256, held.rows):
        raise BackupError(
            f"table {table.name} is damaged: {count} rows, sha256 {digest.hexdigest()}; expected "
            f"{held.rows}, {held.sha256}"
        )


def _pages(lines: Iterator[bytes], digest: Any) -> Iterator[list[bytes]]:
    """Split the lines into pages, limited in number and bytes."""
    page, size = list[bytes](), 0
    for line in lines:
        digest.update(line)
        page.append(line)
        size += len(line)
        if len(page) == PAGE or size > PAGE_BYTES:
            yield page
            page, size = [], 0
    if page:
        yield page


def _advance_sequences(connection: Connection, tables: MetaData) -> None:
    """Set PostgreSQL's sequences for new ids beyond the restored rows."""
    for table in tables.sorted_tables:
        keys: Sequence[Any] = list(table.primary_key.columns)
        if len(keys) != 1 or keys[0].name != "id":
            continue
        sequence = connection.scalar(select(func.pg_get_serial_sequence(table.name, "id")))
        highest = connection.scalar(select(func.max(keys[0])))
        if sequence is not None and highest is not None:
            connection.execute(select(func.setval(sequence, highest)))


def _reflected(connection: Connection) -> MetaData:
    """The tables as they are in the database, independent of this code."""
    tables = MetaData()
    tables.reflect(connection)
    for table in tables.tables.values():
        for column in table.columns:
            if isinstance(column.type, JSON):
                column.type = JSON(none_as_null=True)
    return tables


def _is_postgresql(engine: Engine) -> bool:
    return engine.dialect.name == "postgresql"
