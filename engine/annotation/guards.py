"""What every request passes: limits of size, security headers. Plain ASGI."""

from __future__ import annotations

import json
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_BODY = 64 << 20
"""Bytes of a request; 5,000 masks take about 10 MB."""

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; img-src 'self' blob: data:; style-src 'self'; script-src 'self'; "
        "object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; "
        "worker-src 'self' blob:"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}


class SecurityHeaders:
    """Adds HEADERS to every answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                if scope["path"].startswith("/api/"):
                    headers.setdefault("Cache-Control", "no-store")
            await send(message)

        await self._app(scope, receive, sent)


class BodyLimit:
    """Refuses requests of more than MAX_BODY bytes, whether they say so first or not."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        said = headers.get(b"content-length", b"0")
        if not said.isdigit() or int(said) > MAX_BODY:
            await _too_large(send)
            return
        body: list[Message] = []
        size = 0
        if b"content-length" not in headers and scope["method"] not in ("GET", "HEAD"):
            # read it here: once the app has begun to answer it is too late to refuse
            while True:
                message = await receive()
                body.append(message)
                size += len(message.get("body", b""))
                if size > MAX_BODY:
                    await _too_large(send)
                    return
                if not message.get("more_body", False):
                    break

        async def again() -> Message:
            return body.pop(0) if body else await receive()

        await self._app(scope, again, send)


async def _too_large(send: Send) -> None:
    problem: dict[str, Any] = {
        "error": "too_large",
        "message": f"A request may have at most {MAX_BODY >> 20} MiB.",
    }
    start = {
        "type": "http.response.start",
        "status": 413,
        "headers": [(b"content-type", b"application/json"), (b"connection", b"close")],
    }
    await send(start)
    await send({"type": "http.response.body", "body": json.dumps(problem).encode()})
