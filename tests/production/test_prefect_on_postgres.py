"""`dataengine up` with Prefect's server on Debian's PostgreSQL, configured as a user would: a URL
with a password in Prefect's own variable, and a database of `infra/postgres/prefect.sql`."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, LiteralString

import psycopg
import pytest

from flows.prefect_api import events
from flows.workspace.settings import FILE_NAME
from flows.workspace.workspace import open_workspace
from tests.debian import files_of
from tests.flows.conftest import TOML
from tests.production.conftest import PRODUCTION
from tests.production.running import dataengine, running, until
from tests.services import free_ports

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SQL = Path(__file__).parents[2] / "infra" / "postgres"
ROLES = {"prefect": "prefect.sql", "dataengine": "catalog.sql"}
"""What makes each role, and its database of the same name."""
DEBIANS = Path("/usr/lib/postgresql")
SUPERUSER = "postgres"
WITHOUT = ("--without", "postgres", "--without", "s3", "--without", "page")


@dataclass(frozen=True, slots=True)
class Database:
    """A running server, for Prefect."""

    port: int
    password: str

    @property
    def url(self) -> str:
        """The URL for Prefect."""
        return f"postgresql+asyncpg://prefect:{self.password}@127.0.0.1:{self.port}/prefect"

    def ask(self, question: LiteralString, database: str = "prefect", user: str = SUPERUSER) -> Any:
        """The first value of the first row."""
        with psycopg.connect(
            f"host=127.0.0.1 port={self.port} user={user} dbname={database} connect_timeout=3",
            password=self.password,
        ) as connection:
            row = connection.execute(question).fetchone()
        assert row is not None
        return row[0]

    def answers(self) -> bool:
        """Whether the server answers."""
        try:
            return bool(self.ask("SELECT 1", "postgres"))
        except psycopg.OperationalError:
            return False


def programs() -> Path:
    """The folder of Debian's newest PostgreSQL."""
    found = files_of("postgresql", DEBIANS, "*/bin/initdb")
    return max((path.parent for path in found), key=lambda folder: float(folder.parts[-2]))


@contextmanager
def running_cluster() -> Iterator[Database]:
    """A fresh cluster of Debian's, its data gone afterwards. PostgreSQL does not run as root: where
    the tests do, it is the package's user who owns and runs it."""
    folder_of_programs, user = programs(), "postgres" if os.geteuid() == 0 else None
    database = Database(free_ports(1)[0], secrets.token_hex(12))
    with tempfile.TemporaryDirectory(prefix="debian-pg") as name:
        folder = Path(name)
        word, data, log = folder / "password", folder / "data", folder / "log"
        word.write_text(database.password)
        if user:
            shutil.chown(folder, user, user)
            word.chmod(0o644)  # in a folder that only that user can access
        subprocess.run(
            [
                *(folder_of_programs / "initdb", f"--pgdata={data}", f"--username={SUPERUSER}"),
                *(f"--pwfile={word}", "--auth=scram-sha-256", "--encoding=UTF8", "--no-sync"),
            ],
            cwd=folder,
            user=user,
            group=user,
            check=True,
            capture_output=True,
        )
        places = [f"-D{data}", f"-k{folder}", "-h127.0.0.1", f"-p{database.port}"]
        with log.open("wb") as output:
            server = subprocess.Popen(
                [folder_of_programs / "postgres", *places, "-F"],  # without fsync
                cwd=folder,
                user=user,
                group=user,
                stdout=output,
                stderr=output,
            )
        try:
            until(lambda: database.answers() or server.poll() is not None, "PostgreSQL", 30)
            assert server.poll() is None, log.read_text()
            yield database
        finally:
            server.send_signal(signal.SIGINT)  # ends its connections
            server.wait(timeout=30)


def make_databases(database: Database, folder: Path) -> None:
    """Create roles and databases as compose does, by the files that it mounts."""
    address = f"host=127.0.0.1 port={database.port} user={SUPERUSER} dbname=postgres"
    (folder / "password").write_text(database.password)
    secret = {"PGPASSWORD": database.password, "PASSWORD_FILE": str(folder / "password")}
    for file in ROLES.values():
        subprocess.run(
            [programs() / "psql", "-v", "ON_ERROR_STOP=1", "-f", SQL / file, address],
            env={**os.environ, **secret},
            check=True,
            capture_output=True,
        )


def test_each_role_has_its_own_database_and_no_other(tmp_path: Path) -> None:
    with running_cluster() as database:
        make_databases(database, tmp_path)
        for role in ROLES:
            assert database.ask("SELECT 1", role, user=role) == 1
            is_super = "SELECT rolsuper OR rolcreatedb OR rolcreaterole FROM pg_roles "
            assert database.ask(is_super + "WHERE rolname = current_user", role, user=role) is False
            for other in set(ROLES) - {role}:
                with pytest.raises(psycopg.OperationalError, match="permission denied"):
                    database.ask("SELECT 1", other, user=role)


def test_prefect_on_debians_postgresql_runs_what_triggers_and_schedules_start(
    tmp_path: Path,
) -> None:
    root = tmp_path / "ws"
    root.mkdir()
    (root / FILE_NAME).write_text(TOML + PRODUCTION)
    with running_cluster() as database:
        (tmp_path / "sql").mkdir()
        make_databases(database, tmp_path / "sql")
        address = {"PREFECT_SERVER_DATABASE_CONNECTION_URL": database.url}
        with running(root, *WITHOUT, variables=address) as production:
            assert "Debian" in database.ask("SELECT version()")
            assert database.ask("SELECT count(*) FROM deployment") > 5
            assert not list(root.glob(".prefect/*.db"))

            workspace = open_workspace(str(root))
            with production.in_use():
                assert events.emit(workspace, events.MODEL_PROMOTED, {"version": "lite"})
            done = dataengine(root, "schedule", "sweep", "--cron", "0 4 * * 0", "--json")
            assert done.returncode == 0, done.stderr

            until(lambda: production.triggered("rescore-masks/tested"), "the flow run's end")
            (run,) = production.triggered("rescore-masks/tested")
            assert run["state"]["type"] == "COMPLETED"
            planned = until(lambda: production.runs("sweep-workspace/tested"), "planned runs")
            assert {row["state"]["type"] for row in planned} == {"SCHEDULED"}
            finished = "SELECT count(*) FROM flow_run WHERE state_type = 'COMPLETED'"
            assert database.ask(finished) == 1

            written = [path for path in root.rglob("*") if path.is_file()]
            told = [path for path in written if database.password.encode() in path.read_bytes()]
            assert told == []
            production.end(signal.SIGINT)
