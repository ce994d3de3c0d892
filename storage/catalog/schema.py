"""Migrate a database to this code's schema (Alembic), and refuse any other schema."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import OperationalError

from storage.catalog.errors import CatalogNotMigratedError, CatalogTooNewError
from storage.catalog.network_drives import check_drive

MIGRATIONS = Path(__file__).parent / "migrations"
_MIGRATION_LOCK = 7_240_315_001
"""Number of PostgreSQL's advisory lock that one migrating process holds."""
WAL_WAIT_SECONDS = 30.0
"""How long a process waits for others that switch the same SQLite file to WAL."""


def migrate(engine: Engine) -> str:
    """Create or upgrade the tables; concurrent migrations wait for each other.

    Returns:
        The database's new revision.

    Raises:
        CatalogTooNewError: a newer version of this code migrated the database.
    """
    with migrating(engine) as (_, upgrade):
        return upgrade("head")


@contextmanager
def migrating(engine: Engine) -> Iterator[tuple[Connection, Callable[[str], str]]]:
    """A transaction in which no other process migrates, and a function that migrates the tables to
    a revision (or `head`) in it; that returns the revision and raises as `migrate`.

    Raises:
        NetworkDriveError: an SQLite file would be made on a network drive.
    """
    if engine.dialect.name == "sqlite":
        path = Path(str(engine.url.database))
        check_drive(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        _use_write_ahead_log(engine)
    with engine.execution_options(writes=True).begin() as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(text(f"SELECT pg_advisory_xact_lock({_MIGRATION_LOCK})"))
        config = Config(attributes={"connection": connection})
        config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))

        def upgrade(target: str) -> str:
            wanted = head() if target == "head" else target
            for found in (_current(connection), wanted):
                _refuse_newer(found, engine)
            command.upgrade(config, wanted)
            return wanted

        yield connection, upgrade


def revision(engine: Engine) -> str | None:
    """The database's schema revision; None if it has no catalog."""
    if engine.dialect.name == "sqlite" and not Path(str(engine.url.database)).exists():
        return None  # connecting would create an empty file
    with engine.connect() as connection:
        return _current(connection)


def head() -> str:
    """The revision that this code needs."""
    return _known_revisions()[0]


def is_known(found: str) -> bool:
    """Whether this code has a migration to that revision."""
    return found in _known_revisions()


def check(engine: Engine) -> None:
    """Check that the database has exactly this code's schema.

    Raises:
        CatalogNotMigratedError: it is missing, empty or older.
        CatalogTooNewError: it is newer.
    """
    found = revision(engine)
    _refuse_newer(found, engine)
    if found != head():
        raise CatalogNotMigratedError(
            f"the catalog {engine.url} is at revision {found}, this code needs {head()}: "
            "migrate it first (catalog.migrate())"
        )


def _current(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


@cache  # Alembic executes every migration's file to list them
def _known_revisions() -> tuple[str, ...]:
    """All revisions of this code, the newest first."""
    scripts = ScriptDirectory(str(MIGRATIONS)).walk_revisions()
    return tuple(script.revision for script in scripts)


def _refuse_newer(found: str | None, engine: Engine) -> None:
    if found is not None and not is_known(found):
        raise CatalogTooNewError(
            f"the catalog {engine.url} is at revision {found}, which this code does not know "
            f"(it knows up to {head()}): use the newer version of the code"
        )


def _use_write_ahead_log(engine: Engine) -> None:
    """Switch an SQLite file to WAL for good. SQLite's busy timeout does not cover this switch,
    so this waits for other processes."""
    deadline = time.monotonic() + WAL_WAIT_SECONDS
    while True:
        raw = engine.raw_connection()
        try:
            raw.cursor().execute("PRAGMA journal_mode = WAL")
        except engine.dialect.loaded_dbapi.OperationalError as error:
            if time.monotonic() > deadline:
                raise OperationalError("PRAGMA journal_mode = WAL", None, error) from error
            time.sleep(0.05)
        else:
            return
        finally:
            raw.close()
