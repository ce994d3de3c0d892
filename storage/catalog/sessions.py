"""Engines, units of work, and the two basic statements: insert new rows, and update rows that are
still in the expected state."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import partial
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeVar, cast
from uuid import uuid4

from sqlalchemy import (
    Connection,
    CursorResult,
    Delete,
    Engine,
    Executable,
    Select,
    Table,
    Update,
    create_engine,
    event,
    func,
    select,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, OperationalError, StatementError
from sqlalchemy.orm import Session

from storage.catalog import schema
from storage.catalog.errors import BadNameError, CatalogUnavailableError, ConstraintError
from storage.catalog.tables import Base
from storage.os_errors import sqlite_sentence

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    RecordT = TypeVar("RecordT", bound=DataclassInstance)

ValueT = TypeVar("ValueT")
StateT = TypeVar("StateT", bound=StrEnum)

Clock = Callable[[], datetime]
"""Returns the current time, timezone-aware in UTC."""

BUSY_TIMEOUT_MS = 30_000
"""How long SQLite waits for another writer."""


ASK_SECONDS = 60.0
"""How often the database's time is read."""


def utc_now() -> datetime:
    """The current time, timezone-aware in UTC."""
    return datetime.now(UTC)


class DatabaseClock:
    """The time of a PostgreSQL server, so that workers whose clocks differ or jump agree on leases.
    Between two reads this process's monotonic clock is used."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._known: tuple[float, datetime] | None = None

    def __call__(self) -> datetime:
        known = self._known
        if known is None or time.monotonic() - known[0] > ASK_SECONDS:
            with typed_errors(self._engine), self._engine.connect() as connection:
                now = connection.execute(select(func.clock_timestamp())).scalar_one()
                known = self._known = time.monotonic(), now.astimezone(UTC)
        return known[1] + timedelta(seconds=time.monotonic() - known[0])


def new_id() -> str:
    """A fresh random id of 32 hex digits, for runs and leases."""
    return uuid4().hex


def sqlite_url(path: Path, driver: str = "sqlite") -> str:
    """The URL of an SQLite file, with any file name quoted for SQLAlchemy."""
    return URL.create(driver, database=str(path)).render_as_string()


def connect(url: str) -> Engine:
    """Make the engine for a catalog URL, without connecting.

    Raises:
        ValueError: the URL is neither an SQLite file nor PostgreSQL.
    """
    parsed = make_url(url)
    serializer = partial(json.dumps, allow_nan=False)  # PostgreSQL refuses NaN, so both do
    if parsed.get_backend_name() == "sqlite":
        if parsed.database in (None, "", ":memory:"):
            raise ValueError(f"the catalog needs a file that processes can share, got {url!r}")
        engine = create_engine(parsed, json_serializer=serializer)
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine
    if parsed.get_backend_name() == "postgresql":
        parsed = parsed.set(drivername="postgresql+psycopg")
        return create_engine(parsed, json_serializer=serializer, pool_pre_ping=True)
    raise ValueError(f"a catalog is sqlite:///... or postgresql+psycopg://..., got {parsed}")


def _prepare_sqlite(dbapi_connection: Any, _record: object) -> None:
    dbapi_connection.isolation_level = None  # `_begin_sqlite` sends BEGIN
    cursor = dbapi_connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    """Take the write lock at the start: a reader that later becomes a writer can fail without
    waiting."""
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


class Sessions:
    """Units of work on one database; the schema is checked before the first one."""

    def __init__(self, engine: Engine, *, clock: Clock | None = None) -> None:
        self.engine = engine
        is_shared = engine.dialect.name == "postgresql"  # SQLite's users share this machine's clock
        self.now: Clock = clock or (DatabaseClock(engine) if is_shared else utc_now)
        self._writer = engine.execution_options(writes=True)
        self._checked = False
        self._check_lock = Lock()

    @contextmanager
    def session(self) -> Iterator[Session]:
        """A unit of work that may write. Rolls back unless the caller commits; do no network or
        file access inside.

        Raises:
            CatalogNotMigratedError: see `migrate`.
            CatalogTooNewError: the database belongs to newer code.
            CatalogUnavailableError: the database is unreachable or stayed locked.
            ConstraintError: a row refers to a missing row, or breaks a unique constraint.
            ValueError: a value cannot be stored, e.g. NaN in JSON or a naive time.
        """
        with typed_errors(self.engine):
            self.check()
            with Session(self._writer, expire_on_commit=False) as session:
                yield session

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A unit of work that only reads; errors as in `session`."""
        with typed_errors(self.engine):
            self.check()
            with Session(self.engine) as session:
                yield session

    def get(
        self, record: type[RecordT], table: type[Base], key: Any, missing: Exception
    ) -> RecordT:
        """The record of the row with this primary key; without such a row, `missing` is raised."""
        with self.reading() as session:
            row = session.get(table, key)
            if row is None:
                raise missing
            return to_record(record, row)

    def records(self, record: type[RecordT], query: Select[Any]) -> list[RecordT]:
        """The rows of a query of one table, as records."""
        with self.reading() as session:
            return [to_record(record, row) for row in session.scalars(query)]

    def first(self, record: type[RecordT], query: Select[Any]) -> RecordT | None:
        """The first record of such a query, or None."""
        return next(iter(self.records(record, query.limit(1))), None)

    def values(self, query: Select[ValueT]) -> list[ValueT]:
        """The values of a query of one column."""
        with self.reading() as session:
            return list(session.scalars(query))

    def value(self, query: Select[ValueT]) -> ValueT | None:
        """The first value of such a query, or None."""
        with self.reading() as session:
            return session.scalar(query)

    def pairs(self, query: Executable) -> dict[Any, Any]:
        """The result of a query with two columns as a dict."""
        with self.reading() as session:
            return pairs(session, query)

    def counts(self, query: Executable, states: type[StateT]) -> dict[StateT, int]:
        """See the function `counts`."""
        with self.reading() as session:
            return counts(session, query, states)

    def change(self, statement: Update | Delete) -> int:
        """Run one UPDATE or DELETE as a unit of work; returns the number of rows it changed."""
        with self.session() as session:
            changed = count_changed(session, statement)
            session.commit()
            return changed

    def insert(self, table: type[Base], rows: Sequence[Mapping[str, Any]]) -> int:
        """Run `insert_new` as a unit of work; returns the number of new rows."""
        with self.session() as session:
            new = insert_new(session, table, rows)
            session.commit()
            return len(new)

    def check(self) -> None:
        """Check, once, that the database has this code's schema.

        Raises:
            CatalogNotMigratedError: it is missing, empty or older.
            CatalogTooNewError: it is newer.
        """
        if self._checked:
            return
        with self._check_lock:
            if not self._checked:
                schema.check(self.engine)
                self._checked = True

    def migrate(self) -> str:
        """Create or upgrade the tables; concurrent migrations wait for each other.

        Returns:
            The database's new revision.

        Raises:
            CatalogTooNewError: a newer version of this code migrated the database.
            CatalogUnavailableError: the database is unreachable or stayed locked.
        """
        with typed_errors(self.engine):
            found = schema.migrate(self.engine)
        self._checked = True
        return found

    def revision(self) -> str | None:
        """The database's schema revision; None if it has no catalog.

        Raises:
            CatalogUnavailableError: the database is unreachable.
        """
        with typed_errors(self.engine):
            return schema.revision(self.engine)

    def close(self) -> None:
        """Close all pooled connections."""
        self.engine.dispose()


class Repository:
    """Base of the catalog's parts: queries and changes of some tables."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions


@contextmanager
def typed_errors(engine: Engine) -> Iterator[None]:
    """Turn SQLAlchemy's errors into the catalog's, see `Sessions.session`."""
    try:
        yield
    except IntegrityError as error:
        raise ConstraintError(f"the database refused a row: {error.orig}") from error
    except OperationalError as error:
        message = sqlite_sentence(f"the catalog {engine.url}", str(error.orig))
        raise CatalogUnavailableError(message) from error
    except DataError as error:
        raise ValueError(f"a value cannot be stored: {error.orig}") from error
    except UnicodeEncodeError as error:
        raise BadNameError(f"{error.object!r} has bytes that are not UTF-8 text") from error
    except DBAPIError:
        raise
    except StatementError as error:
        raise ValueError(f"a value cannot be stored: {error.orig}") from error


def insert_new(
    session: Session, table: type[Base], rows: Sequence[Mapping[str, Any]]
) -> list[tuple[Any, ...]]:
    """Insert the rows that break no unique constraint; all rows have the same columns.

    Returns:
        The primary keys of the inserted rows, in no particular order.
    """
    if not rows:
        return []
    core = cast("Table", table.__table__)
    if session.get_bind().dialect.name == "postgresql":
        on_postgres = postgresql.insert(core).on_conflict_do_nothing()
        found = session.execute(on_postgres.returning(*core.primary_key), rows)
    else:
        on_sqlite = sqlite.insert(core).on_conflict_do_nothing()
        found = session.execute(on_sqlite.returning(*core.primary_key), rows)
    return [tuple(row) for row in found]


def count_changed(session: Session, statement: Update | Delete) -> int:
    """Run a conditional UPDATE or DELETE; returns the number of rows that met its condition."""
    result = session.execute(statement.execution_options(synchronize_session=False))
    return cast("CursorResult[Any]", result).rowcount


def pairs(session: Session, query: Executable) -> dict[Any, Any]:
    """The result of a query with two columns as a dict."""
    return {row[0]: row[1] for row in session.execute(query)}


def counts(session: Session, query: Executable, states: type[StateT]) -> dict[StateT, int]:
    """The result of a query of states and their counts; every state is included, if only with 0."""
    found = pairs(session, query)
    return {state: found.get(state, 0) for state in states}


def to_record(record: type[RecordT], row: object) -> RecordT:
    """Copy a row into the frozen record with fields of the same names."""
    return record(**{field.name: getattr(row, field.name) for field in fields(record)})
