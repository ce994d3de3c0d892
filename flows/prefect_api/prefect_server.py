"""Prefect's server as an app: with access control, and a fix for SQLAlchemy 2.1.

Clients of Prefect's API can run code: a deployment's pull steps are shell commands, which every
worker of its pool runs. So the server requires the login of PREFECT_SERVER_API_AUTH_STRING, answers
to its own host names only, and refuses requests that pages of other origins send from a browser.

Prefect 3.8.8 schedules runs with bulk INSERTs whose rows also name hybrid properties (`data`,
`state`). SQLAlchemy 2.0 ignores those; 2.1 calls the `bulk_dml` function of each, which Prefect
does not define, so no schedule ever fires: "Can't evaluate bulk DML statement". This module makes
such properties ignored again. With SQLAlchemy 2.0, and for properties with the function, nothing
changes. A server that is started in another way needs `sqlalchemy<2.1`.

`python -m flows.prefect_api.prefect_server --host 0.0.0.0 --name prefect.example` serves it.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse

from flows.prefect_api.client import SERVER_LOGIN

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

LOOPBACK = ("127.0.0.1", "localhost", "::1")
POLICY_VIOLATION = 1008


def create_app(names: Iterable[str] = ()) -> OwnPagesOnly:
    """The app of `prefect server start`, for requests to 127.0.0.1, localhost or one of `names`.

    Pages of the server itself and of PREFECT_SERVER_CORS_ALLOWED_ORIGINS may send requests; its
    default, `*`, counts as none.
    """
    ignore_hybrid_properties()
    from prefect.server.api.server import create_app as create
    from prefect.settings import PREFECT_SERVER_CORS_ALLOWED_ORIGINS

    origins = frozenset(PREFECT_SERVER_CORS_ALLOWED_ORIGINS.value().split(",")) - {"*"}
    # Around the app, not in it: the server also calls itself, by another host name.
    return OwnPagesOnly(create(), frozenset([*LOOPBACK, *names]), origins)


class OwnPagesOnly:
    """Refuses requests to other host names, and those that pages of other origins send."""

    def __init__(self, app: ASGIApp, names: frozenset[str], origins: frozenset[str]) -> None:
        self._app, self._names, self._origins = app, names, origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forward the request, or refuse it."""
        if scope["type"] == "lifespan" or self._is_own(Headers(scope=scope)):
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": POLICY_VIOLATION})
        else:
            refused = PlainTextResponse("not for this Host or Origin", status_code=403)
            await refused(scope, receive, send)

    def _is_own(self, headers: Headers) -> bool:
        try:
            host = urlsplit(f"//{headers.get('host', '')}")
            origin = headers.get("origin")
            if host.hostname not in self._names or origin is None or origin in self._origins:
                return host.hostname in self._names
            page = urlsplit(origin)
            return page.hostname in self._names and page.port == host.port
        except ValueError:  # not an address
            return False


def ignore_hybrid_properties() -> None:
    """Make bulk INSERTs ignore hybrid properties that have no `bulk_dml` function."""
    from sqlalchemy.ext import hybrid

    comparator: Any = hybrid.ExprComparator
    original = getattr(comparator, "_bulk_dml_setter", None)
    if original is None:  # SQLAlchemy 2.0
        return

    def setter(self: Any, key: str) -> Callable[..., Any] | None:
        if self.hybrid.bulk_dml_setter is None:
            return None
        found: Callable[..., Any] | None = original(self, key)
        return found

    comparator._bulk_dml_setter = setter


def main() -> None:
    """Serve until the process gets a signal."""
    import uvicorn

    parser = argparse.ArgumentParser(prog="python -m flows.prefect_api.prefect_server")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=4200)
    parser.add_argument(
        "--name", action="append", default=[], help="further host name to answer to"
    )
    given = parser.parse_args()
    if ":" not in os.environ.get(SERVER_LOGIN, ""):
        sys.exit(f"set {SERVER_LOGIN} to user:password: clients of this server can run code")
    uvicorn.run(
        create_app([given.host, *given.name]),
        host=given.host,
        port=given.port,
        log_level="warning",
        timeout_keep_alive=5,
    )


if __name__ == "__main__":
    main()
