"""Server-sent events: the queue, jobs and the overview, as they change.

The catalog is read at most once per second, however many pages listen: once for the active
sessions, and once per `Sight` among them.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection
from dataclasses import dataclass
from typing import Any

from fastapi.sse import ServerSentEvent

from engine.annotation.access import Sight, sight_of
from storage.catalog import Annotator

EVERY_SECONDS = 1.0
STREAMS = 20
"""Of one session, i.e. tabs of one browser."""


@dataclass(frozen=True, slots=True)
class _Cached:
    """A value, and when it was read (monotonic seconds)."""

    at: float
    value: Any

    @property
    def is_fresh(self) -> bool:
        return time.monotonic() - self.at < EVERY_SECONDS


class Live:
    """Streams of events; one instance per server, used on its event loop."""

    def __init__(
        self,
        state: Callable[[Sight], dict[str, Any]],
        find_active: Callable[[Collection[str]], dict[str, Annotator]],
    ) -> None:
        """
        Args:
            state: returns current data by event name, limited to a `Sight`.
            find_active: `Access.find_active`. Both are called in threads.
        """
        self._state, self._find_active = state, find_active
        self._lock = asyncio.Lock()
        self._events: dict[Sight, _Cached] = {}
        self._people = _Cached(float("-inf"), {})
        self._open: Counter[str] = Counter()

    async def stream(self, session: str) -> AsyncIterator[ServerSentEvent]:
        """Yield the current state, then changes, until the session ends. A stream beyond STREAMS
        ends at once.

        Args:
            session: `Visitor.session`.
        """
        if self._open[session] >= STREAMS:
            return
        self._open[session] += 1
        try:
            async for event in self._changes(session):
                yield event
        finally:
            self._open[session] -= 1
            self._open += Counter()  # drops sessions without streams

    async def _changes(self, session: str) -> AsyncIterator[ServerSentEvent]:
        sent: dict[str, str] = {}
        while (person := await self._person(session)) is not None:
            for name, data in (await self._now(sight_of(person))).items():
                if sent.get(name) != data:
                    sent[name] = data
                    yield ServerSentEvent(event=name.partition(":")[0], raw_data=data)
            await asyncio.sleep(EVERY_SECONDS)

    async def _person(self, session: str) -> Annotator | None:
        """The annotator of the session, with current rights."""
        async with self._lock:
            if not self._people.is_fresh or session not in self._people.value:
                found = await asyncio.to_thread(self._find_active, list(self._open))
                self._people = _Cached(time.monotonic(), found)
            person: Annotator | None = self._people.value.get(session)
            return person

    async def _now(self, sight: Sight) -> dict[str, str]:
        async with self._lock:
            cached = self._events.get(sight)
            if cached is None or not cached.is_fresh:
                found = await asyncio.to_thread(self._state, sight)
                texts = {name: json.dumps(data, default=str) for name, data in found.items()}
                cached = _Cached(time.monotonic(), texts)
                fresh = {one: kept for one, kept in self._events.items() if kept.is_fresh}
                self._events = {**fresh, sight: cached}
            events: dict[str, str] = cached.value
            return events
