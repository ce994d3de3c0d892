"""Rules of routes: role, rate and size of the body, checked before any of the body is read."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive

from engine.annotation.access import COOKIE, Access, Rate, Visitor, check_csrf
from engine.annotation.callers import address_of, is_foreign, is_local
from engine.annotation.errors import RefusedError

EndpointT = TypeVar("EndpointT", bound=Callable[..., Any])

LARGE = 1 << 20
"""Bytes from which a body counts as large: its Python objects may take 25 times that."""
LARGE_AT_ONCE = 2
"""Large bodies handled at once."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """What a route requires of a request. role: None admits everybody. max_body: bytes.
    all_datasets: admits only those who see all datasets."""

    role: str | None
    rate: Rate
    max_body: int = 0
    all_datasets: bool = False


def admits(
    role: str | None, rate: Rate, *, max_body: int = 0, all_datasets: bool = False
) -> Callable[[EndpointT], EndpointT]:
    """Attach a rule to a route's function."""
    rule = Rule(role=role, rate=rate, max_body=max_body, all_datasets=all_datasets)

    def given(endpoint: EndpointT) -> EndpointT:
        endpoint.rule = rule  # type: ignore[attr-defined]
        return endpoint

    return given


class GuardedRoute(APIRoute):
    """A route with a rule; a function without a rule raises AttributeError."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        self.rule: Rule = endpoint.rule  # type: ignore[attr-defined]
        super().__init__(path, endpoint, **options)

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """FastAPI's handler, which reads the body first, behind the rule."""
        handle, rule = super().get_route_handler(), self.rule

        async def guarded(request: Request) -> Response:
            await run_in_threadpool(_admit, request, rule)
            if not rule.max_body:
                return await handle(request)
            request = await _with_body(request, rule.max_body)
            if len(await request.body()) <= LARGE:
                return await handle(request)
            large: asyncio.Semaphore = request.app.state.large
            async with large:
                return await handle(request)

        return guarded


def _admit(request: Request, rule: Rule) -> None:
    """Check the request against the rule and store its visitor. Not async: the catalog blocks.

    Raises:
        RefusedError: the request breaks the rule.
    """
    if is_foreign(request):
        raise RefusedError(403, "foreign", "pages of other sites may not do this")
    state = request.app.state
    if rule.role is None:
        state.limits.spend(address_of(request), rule.rate)
        return
    visitor = _visitor(request)
    state.limits.spend(str(visitor.annotator.id), rule.rate)
    if request.method != "GET" and not visitor.is_script:
        check_csrf(visitor, request.headers.get("x-csrf-token"))
    visitor.need(rule.role)
    if rule.all_datasets:
        visitor.need_all_datasets()
    request.state.visitor = visitor


def _visitor(request: Request) -> Visitor:
    """Who makes the request: by the API token, if it has one, else by the cookie.

    Raises:
        RefusedError: nobody is signed in so.
    """
    access: Access = request.app.state.access
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":  # other schemes are between the browser and a proxy
        return access.script(token.strip())
    return access.visitor(request.cookies.get(COOKIE), is_local=is_local(request))


async def _with_body(request: Request, limit: int) -> Request:
    """The request with its body read.

    Raises:
        RefusedError: the body is larger, announced or not, or ends too early.
    """
    length = request.headers.get("content-length", "0")
    if not length.isdigit() or int(length) > limit:
        raise _too_large(limit)
    limited = Request(request.scope, _at_most(request.receive, limit))
    try:
        await limited.body()
    except ClientDisconnect as error:
        raise RefusedError(400, "cut_short", "the request ended too early") from error
    return limited


def _at_most(receive: Receive, limit: int) -> Receive:
    size = 0

    async def counted() -> Message:
        nonlocal size
        message = await receive()
        size += len(message.get("body", b""))
        if size > limit:
            raise _too_large(limit)
        return message

    return counted


def _too_large(limit: int) -> RefusedError:
    size = f"{limit >> 20} MiB" if limit >= 1 << 20 else f"{limit >> 10} KiB"
    return RefusedError(413, "too_large", f"this request may have at most {size}")
