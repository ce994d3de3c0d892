"""`dataengine generate` survives an outage of Prefect's server: the catalog has the remaining
work."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.faults.conftest import Report
from tests.faults.crew import Crew
from tests.faults.services import AWAY_SECONDS, Undisturbed, timed
from tests.production.running import environment, until
from tests.services import free_ports

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


class PrefectServer:
    """A server that can be killed and restarted with its data."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._port = folder, free_ports(1)[0]
        self.url = f"http://127.0.0.1:{self._port}/api"
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        with (self._folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "flows.prefect_api.temporary_server", str(self._port)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env={**environment(), "PREFECT_HOME": str(self._folder)},
            )
        until(self._answers, "Prefect's server")

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}/health", timeout=5).is_success
        except httpx.HTTPError:
            return False


@pytest.fixture
def prefect(tmp_path: Path) -> Iterator[PrefectServer]:
    folder = tmp_path / "prefect"
    folder.mkdir()
    server = PrefectServer(folder)
    try:
        yield server
    finally:
        server.kill()


def test_a_server_that_is_killed_and_started_again_costs_nothing(
    crew: Crew, prefect: PrefectServer, undisturbed: Undisturbed, report: Report
) -> None:
    root = crew.workspace.settings.root
    command = [sys.executable, "-m", "flows.cli.main", "generate", "--resume", "run", "--json"]
    variables = {**environment(), "PREFECT_API_URL": prefect.url}
    generating = subprocess.Popen(
        command, cwd=root, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )

    def work() -> None:
        crew.until_committed(1)
        prefect.kill()
        time.sleep(AWAY_SECONDS)
        prefect.start()
        generating.wait(120)

    seconds = timed(work)
    output, errors = generating.communicate()
    assert generating.returncode == 0, errors
    assert json.loads(output)["masks"] == undisturbed.masks.total()
    crew.assert_undisturbed(undisturbed.masks)
    report(f"Prefect's server killed, away {AWAY_SECONDS:.0f} s (start-up included)", seconds)
