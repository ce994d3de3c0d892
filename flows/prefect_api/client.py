"""Which Prefect server a workspace uses: PREFECT_API_URL, or the one of its `dataengine up`."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from engine.core.errors import DataEngineError
from flows.workspace.settings import SERVICES

STATE_FILE = f"{SERVICES}/state.json"
"""What `dataengine up` says of its services while it runs."""
SERVER_LOGIN = "PREFECT_SERVER_API_AUTH_STRING"
"""Variable that tells a Prefect server what user and password it wants."""
AUTH_FILE = f"{SERVICES}/prefect.auth"
"""User and password of that server, as `user:password`; readable by its user only."""
LOCK_FILE = f"{SERVICES}/up.lock"
LOOK_SECONDS = 2.0
KNOCK_SECONDS = 10.0


class UnreachableError(DataEngineError):
    """There is no Prefect server to talk to, or it refuses. Start one with `dataengine up`, or name
    one in PREFECT_API_URL."""


def api_url(root: Path) -> str | None:
    """The server's URL as this process has it: in Prefect's settings where Prefect is loaded (they
    know of temporary servers), in the environment, or from a `dataengine up` that is running."""
    named = _told("PREFECT_API_URL")
    return named.rstrip("/") if named else url_of_services(root)


def _told(name: str) -> str:
    """A setting of Prefect's that holds in this process; empty where there is none."""
    if "prefect.settings" in sys.modules:
        from prefect import settings

        value = getattr(settings, name).value()
        if value:
            return str(value.get_secret_value() if hasattr(value, "get_secret_value") else value)
    return os.environ.get(name, "")


def auth_string(root: Path) -> str:
    """`user:password` for the server that `api_url` finds; empty where it wants none. That of a
    `dataengine up` is sent to its own server only."""
    return _told("PREFECT_API_AUTH_STRING") if _told("PREFECT_API_URL") else own_auth(root)


def own_auth(root: Path) -> str:
    """`user:password` of this workspace's `dataengine up`; empty before the first one."""
    try:
        return (root / AUTH_FILE).read_text()
    except FileNotFoundError:
        return ""


def auth_to_want(known: str = "") -> str:
    """`user:password` for a server that is about to start: that of PREFECT_SERVER_API_AUTH_STRING,
    else the known one, else a fresh one."""
    return os.environ.get(SERVER_LOGIN) or known or f"dataengine:{secrets.token_urlsafe(24)}"


def basic(auth: str) -> tuple[str, str] | None:
    """`user:password` for httpx; None where it is none."""
    user, found, password = auth.partition(":")
    return (user, password) if found else None


def login(root: Path) -> dict[str, Any]:
    """For httpx, what the server in use wants: user and password, or PREFECT_API_KEY."""
    key = os.environ.get("PREFECT_API_KEY")
    return {
        "headers": {"Authorization": f"Bearer {key}"} if key else {},
        "auth": basic(auth_string(root)),
    }


def url_of_services(root: Path) -> str | None:
    """The URL of the server that `dataengine up` has started here, while that answers."""
    url = services_state(root).get("prefect_api_url")
    try:
        if url and httpx.get(f"{url}/health", timeout=LOOK_SECONDS).is_success:
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
    with using(url, auth_string(root)), refused_in_a_line():
        # Prefect's client tries for minutes, which is right where a server is busy only.
        httpx.get(f"{url}/health", timeout=KNOCK_SECONDS, **login(root))
        yield url


@contextmanager
def using(url: str, auth: str) -> Iterator[None]:
    """Run the body with Prefect's client on this server, with this `user:password` or without."""
    from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

    told: dict[Any, Any] = {PREFECT_API_URL: url, PREFECT_API_AUTH_STRING: auth or None}
    with temporary_settings(told):
        yield


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
        if error.response.status_code == httpx.codes.UNAUTHORIZED:
            raise UnreachableError(
                "Prefect's server wants another user and password: set PREFECT_API_AUTH_STRING to "
                f"user:password (a `dataengine up` keeps its own in {AUTH_FILE})"
            ) from error
        raise UnreachableError(f"Prefect refuses: {error.response.text[:300]}") from error
    except httpx.HTTPError as error:
        raise UnreachableError(
            f"Prefect's server does not answer ({type(error).__name__}); is `dataengine up` "
            "running, is PREFECT_API_URL right?"
        ) from error
