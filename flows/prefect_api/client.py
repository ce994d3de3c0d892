"""Finds the Prefect server of a workspace: PREFECT_API_URL, or that of its `dataengine up`."""

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
"""Written by `dataengine up` while it runs: addresses and health of its services."""
SERVER_LOGIN = "PREFECT_SERVER_API_AUTH_STRING"
"""Environment variable with the user and password that a Prefect server requires."""
AUTH_FILE = f"{SERVICES}/prefect.auth"
"""File with `user:password` of the server of `dataengine up`; readable by its user only."""
LOCK_FILE = f"{SERVICES}/up.lock"
LOOK_SECONDS = 2.0
CONNECT_SECONDS = 10.0


class UnreachableError(DataEngineError):
    """There is no Prefect server, or it refuses the request. Start one with `dataengine up`, or set
    PREFECT_API_URL."""


def api_url(root: Path) -> str | None:
    """The server's URL: from Prefect's settings if Prefect is loaded (they include temporary
    servers), else from the environment, else of a running `dataengine up`; None: there is none."""
    configured = _prefect_setting("PREFECT_API_URL")
    return configured.rstrip("/") if configured else url_of_services(root)


def _prefect_setting(name: str) -> str:
    """The value of a Prefect setting in this process; empty if it is not set."""
    if "prefect.settings" in sys.modules:
        from prefect import settings

        value = getattr(settings, name).value()
        if value:
            return str(value.get_secret_value() if hasattr(value, "get_secret_value") else value)
    return os.environ.get(name, "")


def auth_string(root: Path) -> str:
    """`user:password` for the server that `api_url` finds; empty if it requires none. The password
    of a `dataengine up` is only used for its own server."""
    return (
        _prefect_setting("PREFECT_API_AUTH_STRING")
        if _prefect_setting("PREFECT_API_URL")
        else own_auth(root)
    )


def own_auth(root: Path) -> str:
    """`user:password` of this workspace's `dataengine up`; empty before the first one."""
    try:
        return (root / AUTH_FILE).read_text()
    except FileNotFoundError:
        return ""


def auth_to_require(known: str = "") -> str:
    """`user:password` for a server that is about to start: that of PREFECT_SERVER_API_AUTH_STRING,
    else the known one, else a new one."""
    return os.environ.get(SERVER_LOGIN) or known or f"dataengine:{secrets.token_urlsafe(24)}"


def basic(auth: str) -> tuple[str, str] | None:
    """`user:password` as a pair for httpx; None if it is not of that form."""
    user, found, password = auth.partition(":")
    return (user, password) if found else None


def login(root: Path) -> dict[str, Any]:
    """Arguments of httpx that log in to the server: user and password, or PREFECT_API_KEY."""
    key = os.environ.get("PREFECT_API_KEY")
    return {
        "headers": {"Authorization": f"Bearer {key}"} if key else {},
        "auth": basic(auth_string(root)),
    }


def url_of_services(root: Path) -> str | None:
    """The URL of the server of this workspace's `dataengine up`, if it answers."""
    url = services_state(root).get("prefect_api_url")
    try:
        if url and httpx.get(f"{url}/health", timeout=LOOK_SECONDS).is_success:
            return str(url)
    except httpx.HTTPError:
        return None
    return None


def is_up(root: Path) -> bool:
    """Whether a `dataengine up` runs in the workspace: it holds a lock, which any end releases."""
    try:
        with (root / LOCK_FILE).open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def services_state(root: Path) -> dict[str, Any]:
    """The content of STATE_FILE; empty if no `dataengine up` runs."""
    if not is_up(root):
        return {}
    try:
        found: dict[str, Any] = json.loads((root / STATE_FILE).read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return found


@contextmanager
def connected(root: Path) -> Iterator[str]:
    """Run the body with the workspace's server; does not start a temporary one.

    Raises:
        UnreachableError: there is no server, or it does not answer.
    """
    url = api_url(root)
    if url is None:
        raise UnreachableError(
            "no Prefect server: start one with `dataengine up` in this workspace, or set "
            "PREFECT_API_URL"
        )
    with using(url, auth_string(root)), errors_as_unreachable():
        # Prefect's client retries for minutes, which suits a busy server only.
        httpx.get(f"{url}/health", timeout=CONNECT_SECONDS, **login(root))
        yield url


@contextmanager
def using(url: str, auth: str) -> Iterator[None]:
    """Run the body with Prefect's client on this server; an empty `auth` means no login."""
    from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

    values: dict[Any, Any] = {PREFECT_API_URL: url, PREFECT_API_AUTH_STRING: auth or None}
    with temporary_settings(values):
        yield


@contextmanager
def errors_as_unreachable() -> Iterator[None]:
    """Convert errors of Prefect's client to UnreachableError with a message of one line.

    Raises:
        UnreachableError: the server does not answer, or refuses the request.
    """
    from prefect.exceptions import PrefectHTTPStatusError

    try:
        yield
    except PrefectHTTPStatusError as error:
        if error.response.status_code == httpx.codes.UNAUTHORIZED:
            raise UnreachableError(
                "Prefect's server requires another user and password: set PREFECT_API_AUTH_STRING "
                f"to user:password (that of a `dataengine up` is in {AUTH_FILE})"
            ) from error
        raise UnreachableError(
            f"Prefect's server refuses the request: {error.response.text[:300]}"
        ) from error
    except httpx.HTTPError as error:
        raise UnreachableError(
            f"Prefect's server does not answer ({type(error).__name__}); is `dataengine up` "
            "running, is PREFECT_API_URL right?"
        ) from error
