"""Which Prefect server a workspace uses: PREFECT_API_URL, or the one of its `dataengine up`."""

from __future__ import annotations

import fcntl
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from flows.settings import SERVICES

STATE_FILE = f"{SERVICES}/state.json"
"""What `dataengine up` says of its services while it runs."""
LOCK_FILE = f"{SERVICES}/up.lock"
LOOK_SECONDS = 2.0
KNOCK_SECONDS = 10.0


class UnreachableError(Exception):
    """There is no Prefect server to talk to, or it refuses. Start one with `dataengine up`, or name
    one in PREFECT_API_URL."""


def api_url(root: Path) -> str | None:
    """The server's URL as this process has it: in Prefect's settings where Prefect is loaded (they
    know of temporary servers), in the environment, or from a `dataengine up` that is running."""
    if "prefect.settings" in sys.modules:
        from prefect.settings import PREFECT_API_URL

        if PREFECT_API_URL.value():
            return str(PREFECT_API_URL.value()).rstrip("/")
    named = os.environ.get("PREFECT_API_URL")
    return named.rstrip("/") if named else url_of_services(root)


def login() -> dict[str, Any]:
    """For httpx, what a server with a password or key wants: PREFECT_API_AUTH_STRING,
    PREFECT_API_KEY."""
    key = os.environ.get("PREFECT_API_KEY")
    name, found, password = os.environ.get("PREFECT_API_AUTH_STRING", "").partition(":")
    return {
        "headers": {"Authorization": f"Bearer {key}"} if key else {},
        "auth": (name, password) if found else None,
    }


def url_of_services(root: Path) -> str | None:
    """The URL of the server that `dataengine up` has started here, while that answers."""
    url = services_state(root).get("prefect_api_url")
    try:
        if url and httpx.get(f"{url}/health", timeout=LOOK_SECONDS, **login()).is_success:
            return str(url)
    except httpx.HTTPError:
        return None
    return None


def is_up(root: Path) -> bool:
    """Whether a `dataengine up` runs in the workspace: it holds a lock, however it ends."""
    try:
        with (root / LOCK_FILE).open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def services_state(root: Path) -> dict[str, Any]:
    """What `dataengine up` wrote about itself; empty where it does not run."""
    if not is_up(root):
        return {}
    try:
        found: dict[str, Any] = json.loads((root / STATE_FILE).read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return found


@contextmanager
def connected(root: Path) -> Iterator[str]:
    """Run the body with the server that the workspace uses; no temporary one is started.

    Raises:
        UnreachableError: there is none, or it does not answer.
    """
    url = api_url(root)
    if url is None:
        raise UnreachableError(
            "no Prefect server: start one with `dataengine up` in this workspace, or set "
            "PREFECT_API_URL"
        )
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: url}), refused_in_a_line():
        # Prefect's client tries for minutes, which is right where a server is busy only.
        httpx.get(f"{url}/health", timeout=KNOCK_SECONDS, **login())
        yield url


@contextmanager
def refused_in_a_line() -> Iterator[None]:
    """Turn what Prefect's client raises into one line.

    Raises:
        UnreachableError: the server does not answer, or refuses.
    """
    from prefect.exceptions import PrefectHTTPStatusError

    try:
        yield
    except PrefectHTTPStatusError as error:
        raise UnreachableError(f"Prefect refuses: {error.response.text[:300]}") from error
    except httpx.HTTPError as error:
        raise UnreachableError(
            f"Prefect's server does not answer ({type(error).__name__}); is `dataengine up` "
            "running, is PREFECT_API_URL right?"
        ) from error
