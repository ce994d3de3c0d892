"""A Prefect server that runs as long as one command.

Prefect starts a temporary server itself if none is configured, but that one outlives a command that
is killed. This one reads its standard input and ends when that closes, which the operating system
does when the command dies in any way. State is kept in the workspace, so finished runs can be
inspected later.
"""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from engine.core.errors import DataEngineError
from flows.prefect_api.client import SERVER_LOGIN, auth_to_require, own_auth, url_of_services, using
from flows.workspace.processes import environment, python

START_SECONDS = 120.0


class OrchestratorError(DataEngineError):
    """Prefect's server did not start, or stopped answering while a command ran. A temporary server
    logs to `.prefect/server.log` in the workspace. Finished work is kept."""


def configure(root: Path) -> None:
    """Set defaults of Prefect's settings for this process; call before the first import of Prefect.
    Variables that are already set are kept."""
    defaults = {
        "PREFECT_HOME": str(root / ".prefect"),
        "PREFECT_LOGGING_LEVEL": "CRITICAL",
        "PREFECT_LOGGING_TO_API_ENABLED": "false",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_CLI_COLORS": "false",
    }
    for name, value in defaults.items():
        os.environ.setdefault(name, value)


def database_of_home() -> dict[str, str]:
    """Environment of Prefect's server: the URL of the database in its home if that needs quoting.
    Prefect does not quote it, and would open another file."""
    named = ("PREFECT_SERVER_DATABASE_", "PREFECT_API_DATABASE_")
    chosen = any(
        name.startswith(named) and name.endswith(("_CONNECTION_URL", "_DRIVER"))
        for name in os.environ
    )
    if chosen or "PREFECT_HOME" not in os.environ:
        return {}
    from storage.catalog import sqlite_url

    path, driver = Path(os.environ["PREFECT_HOME"]).expanduser() / "prefect.db", "sqlite+aiosqlite"
    url = sqlite_url(path, driver)
    return {"PREFECT_SERVER_DATABASE_CONNECTION_URL": url} if url != f"{driver}:///{path}" else {}


@contextmanager
def server(root: Path) -> Iterator[None]:
    """Run the body with a server: the one in PREFECT_API_URL, that of a running `dataengine up`,
    else a temporary one.

    Raises:
        OrchestratorError: the temporary one did not start, or the server stopped answering.
    """
    with _started(root):
        try:
            yield
        except httpx.TransportError as error:  # of Prefect's client, after its retries
            raise OrchestratorError(
                f"Prefect's server no longer answers ({error}); finished work is kept, give the "
                "same command again"
            ) from error


@contextmanager
def _started(root: Path) -> Iterator[None]:
    configure(root)
    if os.environ.get("PREFECT_API_URL"):
        yield
        return
    if running := url_of_services(root):
        with using(running, own_auth(root)):
            yield
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}/api"
    # A worker of a later `dataengine up` runs what clients submit here, so it requires a login.
    auth = auth_to_require()
    more = {"PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1", SERVER_LOGIN: auth}
    log = root / ".prefect" / "server.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        process = subprocess.Popen(
            python("flows.prefect_api.temporary_server", str(port)),
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            env=environment(root, **database_of_home(), **more),
            start_new_session=True,  # Ctrl-C reaches only the command, which then stops the server
        )
    try:
        _wait(url, process, log)
        with using(url, auth):
            yield
    finally:
        # It would complain of events that were not sent, which nobody reads once the server ends.
        logging.getLogger("prefect._internal.concurrency").disabled = True
        assert process.stdin is not None
        process.stdin.close()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if (code := process.poll()) is not None:
            last = log.read_text(errors="replace").strip().rpartition("\n")[2] or "no message"
            raise OrchestratorError(
                f"Prefect's server ended at start with code {code}: {last}; see {log}"
            )
        try:
            if httpx.get(f"{url}/health", timeout=5).status_code == 200:
                return
        except httpx.HTTPError:
            time.sleep(0.1)
    raise OrchestratorError(
        f"Prefect's server did not start within {START_SECONDS:.0f} s; see {log}"
    )


def _serve(port: int) -> None:
    """Run the server in this process until standard input closes."""
    import uvicorn

    from flows.prefect_api.prefect_server import create_app

    def end_with_parent() -> None:
        sys.stdin.buffer.read()
        os._exit(0)

    threading.Thread(target=end_with_parent, daemon=True).start()
    uvicorn.run(create_app(), host="127.0.0.1", port=port, log_level="error")


if __name__ == "__main__":
    _serve(int(sys.argv[1]))
