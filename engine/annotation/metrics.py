"""`/metrics` of the annotation server, in Prometheus' text format: response times of clicks and
the caller's collectors.

Only this machine and holders of the token may read it: queue and costs are confidential.
"""

from __future__ import annotations

import hmac
import threading
from collections.abc import Sequence

from cachetools import LRUCache
from fastapi import FastAPI, Request
from fastapi.responses import PlainTextResponse, Response
from prometheus_client import CollectorRegistry, Histogram, PlatformCollector, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from engine.annotation.callers import is_direct

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.5, 5.0, 10.0)
"""Upper bounds of the histogram buckets, in seconds."""

REMEMBERED = 10_000
"""Tasks remembered as having had their first click."""


class ClickTimes:
    """How long the server took to answer prompts. Thread-safe."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._all = Histogram(
            "dataengine_click_seconds",
            "Time to answer a prompt.",
            buckets=SECONDS,
            registry=registry,
        )
        self._first = Histogram(
            "dataengine_first_click_seconds",
            "Time to answer the first prompt of a task.",
            buckets=SECONDS,
            registry=registry,
        )
        self._lock = threading.Lock()
        self._seen: LRUCache[int, None] = LRUCache(REMEMBERED)

    def add(self, task_id: int, seconds: float) -> None:
        """Count an answered prompt."""
        with self._lock:
            is_first = task_id not in self._seen
            self._seen[task_id] = None
        self._all.observe(seconds)
        if is_first:
            self._first.observe(seconds)


def add_metrics(app: FastAPI, collectors: Sequence[Collector], token: str | None) -> None:
    """Serve `/metrics`, and count clicks in `app.state.clicks`.

    Args:
        collectors: further metrics to serve.
        token: bearer token that admits other machines; None admits none.
    """
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    for collector in collectors:
        registry.register(collector)
    app.state.clicks = ClickTimes(registry)

    @app.get("/metrics", include_in_schema=False)
    def metrics(request: Request) -> Response:
        """Not async: collectors read the catalog."""
        if not may_read(request, token):
            return PlainTextResponse("metrics are for this machine or holders of the token\n", 403)
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)


def may_read(request: Request, token: str | None) -> bool:
    """Whether the request has the token or comes from this machine without a proxy."""
    given = request.headers.get("authorization", "")
    scheme, _, value = given.partition(" ")
    if token and scheme.lower() == "bearer":
        return hmac.compare_digest(value.strip().encode(), token.encode())
    return is_direct(request)
