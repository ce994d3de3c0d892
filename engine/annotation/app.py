"""The web app: FastAPI over `AnnotationService`; `create_app` takes its dependencies."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from importlib import resources
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, RedirectResponse, Response
from fastapi.staticfiles import StaticFiles
from prometheus_client.registry import Collector
from starlette.exceptions import HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from engine.annotation import (
    browse_routes,
    guideline_routes,
    release_routes,
    routes,
    setting_routes,
    team_routes,
    webhook_routes,
    work_routes,
)
from engine.annotation.access import COOKIE, Access, RateLimits, Sight
from engine.annotation.actions import Actions, Choices, Reports
from engine.annotation.admission import LARGE_AT_ONCE
from engine.annotation.callers import is_local
from engine.annotation.errors import RefusedError, sentence
from engine.annotation.guards import SecurityHeaders
from engine.annotation.guidelines import GuidelineBook
from engine.annotation.live import Live
from engine.annotation.metrics import add_metrics
from engine.annotation.schemas import Problem
from engine.annotation.service import AnnotationService
from engine.annotation.webhook_desk import WebhookDesk
from engine.annotation.webhook_sending import WebhookSender
from storage.catalog import CatalogUnavailableError, DatasetNotFoundError
from storage.objects import StorageUnavailableError

log = logging.getLogger(__name__)

HTTP = {
    404: ("not_found", "nothing has this address"),
    405: ("method", "this address takes another HTTP method"),
}
"""Answers to requests that match no route."""

ROUTERS = {
    "/api": routes.router,
    "/api/browse": browse_routes.router,
    "/api/guidelines": guideline_routes.router,
    "/api/releases": release_routes.router,
    "/api/settings": setting_routes.router,
    "/api/team": team_routes.router,
    "/api/webhooks": webhook_routes.router,
    "/api/work": work_routes.router,
}
"""The HTTP interface, by the start of its addresses."""

PAGES = {
    "/work": "work.html",
    "/guidelines": "guidelines.html",
    "/team": "team.html",
    "/annotate": "annotate.html",
    "/review": "review.html",
    "/browse": "browse.html",
    "/dashboard": "dashboard.html",
    "/sign-in": "sign_in.html",
}


def create_app(
    service: AnnotationService,
    access: Access,
    *,
    actions: Actions,
    reports: Reports,
    choices: Choices,
    guidelines: str,
    sender: WebhookSender,
    hosts: Sequence[str] = ("127.0.0.1", "localhost"),
    proxies: Sequence[str] = (),
    collectors: Sequence[Collector] = (),
    metrics_token: str | None = None,
) -> FastAPI:
    """The app of one workspace.

    Args:
        service: the rules of tasks.
        access: sign-ins and roles.
        actions: what an admin can start.
        reports: the figures of the dashboard.
        choices: settings that an admin can change.
        guidelines: Markdown for annotators of datasets without guidelines of their own.
        sender: sends events to webhooks while the app runs.
        hosts: accepted host names; others are refused, so that no other site's name can be made
            to point here (DNS rebinding).
        proxies: addresses and networks of proxies whose X-Forwarded-For and X-Forwarded-Proto are
            trusted.
        collectors: metrics that `/metrics` serves beside click times.
        metrics_token: lets other machines read `/metrics`.
    """
    app = FastAPI(
        title="open data engine: annotation",
        version="1",
        lifespan=_sending(sender),
        openapi_url="/api/openapi.json",
        docs_url=None,
        redoc_url=None,
        responses={
            status: {"model": Problem, "description": text}
            for status, text in routes.REFUSALS.items()
        },
    )
    state: Any = app.state
    state.service, state.access, state.limits = service, access, RateLimits()
    state.actions, state.reports, state.choices = actions, reports, choices
    state.guidelines = GuidelineBook(service.catalog, service.objects, guidelines)
    state.webhooks = WebhookDesk(service.catalog, sender)
    state.large = asyncio.Semaphore(LARGE_AT_ONCE)
    state.live = Live(lambda sight: _live_state(service, actions, sight), access.find_active)
    for prefix, router in ROUTERS.items():
        app.include_router(router, prefix=prefix)
    add_metrics(app, collectors, metrics_token)
    _add_pages(app)
    _add_error_handlers(app)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(hosts), www_redirect=False)
    app.add_middleware(SecurityHeaders)
    app.add_middleware(ProxyHeadersMiddleware, trusted_hosts=list(proxies))
    return app


def _sending(sender: WebhookSender) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    """Sends webhooks from the server's start to its end."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        sender.start()
        yield
        await asyncio.to_thread(sender.stop)

    return lifespan


def _live_state(service: AnnotationService, actions: Actions, sight: Sight) -> dict[str, Any]:
    queue = service.queue.by_kind(dataset_ids=sight.datasets)
    # ages change by themselves and are not events
    events = {"queue": {kind: {**row, "oldest_seconds": 0} for kind, row in queue.items()}}
    if not sight.dashboard:
        if service.gold.rules.is_on:  # a gold task is not counted before it is taken
            counts = events["queue"].items()
            events = {"queue": {kind: {"open": min(row["open"], 1)} for kind, row in counts}}
        return events
    jobs = {f"job:{job.id}": job.model_dump(mode="json") for job in actions.jobs()}
    summary = service.catalog.summary()
    stamp = [summary.runs, summary.rounds, summary.models, summary.releases, summary.images]
    return {**events, "overview": {"stamp": str(stamp)}, **jobs}


def _add_pages(app: FastAPI) -> None:
    web = Path(str(resources.files("engine.annotation") / "web"))

    def page(name: str) -> Any:
        async def serve() -> Response:
            html = (web / name).read_bytes()
            return Response(html, media_type="text/html", headers={"Cache-Control": "no-cache"})

        return serve

    for path, name in PAGES.items():
        app.add_api_route(path, page(name), include_in_schema=False)

    @app.get("/", include_in_schema=False)
    def home(request: Request) -> Response:
        try:
            visitor = app.state.access.visitor(
                request.cookies.get(COOKIE), is_local=is_local(request)
            )
        except RefusedError:
            return RedirectResponse("/sign-in", 303)
        first = {"annotator": "/annotate", "reviewer": "/review"}
        return RedirectResponse(first.get(visitor.annotator.role, "/dashboard"), 303)

    @app.get("/favicon.ico", include_in_schema=False)
    async def icon() -> Response:
        return Response(status_code=204)

    app.mount("/static", StaticFiles(directory=web), name="static")


def _problem(status: int, error: str, message: str, headers: Any = None) -> JSONResponse:
    body = Problem(error=error, message=sentence(message)).model_dump()
    return JSONResponse(body, status, headers=headers)


def _add_error_handlers(app: FastAPI) -> None:
    """One handler per error type: each answers with a `Problem`."""

    @app.exception_handler(RefusedError)
    async def refused(request: Request, error: RefusedError) -> JSONResponse:
        headers = {"Retry-After": "1"} if error.status == 429 else None
        return _problem(error.status, error.error, error.message, headers)

    @app.exception_handler(RequestValidationError)
    async def wrong(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        return _problem(422, "invalid", f"the request's {place} is wrong: {first['msg']}")

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> JSONResponse:
        word, message = HTTP.get(error.status_code, ("refused", str(error.detail)))
        return _problem(error.status_code, word, message, error.headers)

    @app.exception_handler(DatasetNotFoundError)
    async def no_dataset(request: Request, error: DatasetNotFoundError) -> JSONResponse:
        return _problem(404, "not_found", "there is no such dataset")

    async def unavailable(request: Request, error: Exception) -> JSONResponse:
        log.error("%s %s: %s", request.method, request.url.path, error)
        message = "the server cannot reach its data now; your work is kept, try again"
        return _problem(503, "unavailable", message, {"Retry-After": "2"})

    app.add_exception_handler(CatalogUnavailableError, unavailable)
    app.add_exception_handler(StorageUnavailableError, unavailable)
