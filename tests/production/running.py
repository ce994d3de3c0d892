"""`dataengine up` as a process of its own, and queries to its Prefect server."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx

from flows.prefect_api.client import basic, own_auth, using
from flows.workspace.processes import python

START_SECONDS = 150.0
TIMEOUT_SECONDS = 240.0

Found = TypeVar("Found")

ENVIRONMENT = {"OMP_NUM_THREADS": "1", "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
FORGOTTEN = ("PREFECT_", "DATAENGINE_")
"""Variables of the tests' own server and workspace."""


def until(look: Callable[[], Found], what: str, seconds: float = TIMEOUT_SECONDS) -> Found:
    """The first true result of `look`.

    Raises:
        AssertionError: it is not, within `seconds`.
    """
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, f"{what}: not within {seconds:.0f} s"
        time.sleep(0.2)
    return found


def environment() -> dict[str, str]:
    """This process's environment, without variables that select a server or workspace."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(FORGOTTEN)}
    return {**kept, **ENVIRONMENT}


def dataengine(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command in the workspace."""
    return subprocess.run(
        python("flows.cli.main", *arguments),
        cwd=root,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def processes_of(root: Path) -> dict[int, str]:
    """Processes whose command line or environment contains the workspace's folder, except those of
    this test."""
    found = {}
    name = str(root).encode()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes()
            state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
            around = (folder / "environ").read_bytes()
        except OSError:
            continue
        is_his = name in command or b"DATAENGINE_WORKSPACE=" + name in around
        if is_his and state != "Z" and int(folder.name) != os.getpid():
            found[int(folder.name)] = command.replace(b"\0", b" ").decode()
    return found


@dataclass(frozen=True)
class Production:
    """A running `dataengine up`."""

    root: Path
    process: subprocess.Popen[bytes]
    services: dict[str, dict[str, Any]]

    @property
    def api(self) -> str:
        """URL of Prefect's API."""
        return f"{self.services['prefect']['url']}/api"

    @property
    def login(self) -> tuple[str, str] | None:
        """User and password of Prefect's API."""
        return basic(own_auth(self.root))

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Run the body with this process's flows on its Prefect server."""
        with using(self.api, own_auth(self.root)):
            yield

    @property
    def page(self) -> str:
        """URL of the annotation page."""
        return str(self.services["page"]["url"])

    def runs(self, deployment: str) -> list[dict[str, Any]]:
        """The flow runs of a deployment, by its full name."""
        with httpx.Client(auth=self.login, timeout=10) as client:
            made = client.get(f"{self.api}/deployments/name/{deployment}").json()
            wanted = {"deployments": {"id": {"any_": [made["id"]]}}, "limit": 100}
            answer = client.post(f"{self.api}/flow_runs/filter", json=wanted)
        found: list[dict[str, Any]] = answer.json()
        return found

    def triggered(self, deployment: str) -> list[dict[str, Any]]:
        """The finished flow runs that an automation has started."""
        return [
            run
            for run in self.runs(deployment)
            if (run["created_by"] or {}).get("type") == "AUTOMATION"
            and run["state"]["type"] in ("COMPLETED", "FAILED", "CRASHED")
        ]

    def end(self, number: signal.Signals) -> None:
        """Send a signal, and wait until all its processes have ended."""
        self.process.send_signal(number)
        self.process.wait(timeout=60)
        until(lambda: not processes_of(self.root), f"gone after {number.name}", 40)


@contextmanager
def running(
    root: Path, *arguments: str, variables: Mapping[str, str] | None = None
) -> Iterator[Production]:
    """Start `dataengine up --json` in the workspace with additional environment variables; it is
    killed at the end if it still runs."""
    out, log = root / "up.json", root / "up.log"
    with out.open("wb") as output, log.open("ab") as errors:
        process = subprocess.Popen(
            python("flows.cli.main", "up", "--json", *arguments),
            cwd=root,
            env={**environment(), **(variables or {})},
            stdout=output,
            stderr=errors,
            start_new_session=True,
        )
    try:
        until(
            lambda: out.read_text().endswith("\n") or process.poll() is not None,
            f"services: {log}",
            START_SECONDS,
        )
        assert process.poll() is None, log.read_text()
        rows = json.loads(out.read_text())["services"]
        yield Production(root, process, {row["service"]: row for row in rows})
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
