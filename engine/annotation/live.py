"""Server-sent events: the queue, jobs and the overview, as they change.

The catalog is looked at once a second at most, however many pages listen: once for who is still
signed in, and once for each kind of sight among them.
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
"""Of one session, that is: tabs of one browser."""


@dataclass(frozen=True, slots=True)
class _Seen:
    """What was found, and when."""

    at: float
    found: Any

    @property
    def is_fresh(self) -> bool:
        return time.monotonic() - self.at < EVERY_SECONDS


class Live:
    """Streams of events; one instance a server, used on its event loop."""

    def __init__(
        self,
        state: Callable[[Sight], dict[str, Any]],
        still_there: Callable[[Collection[str]], dict[str, Annotator]],
    ) -> None:
        """
        Args:
            state: event name to its data as it is now, for those who see that much.
            still_there: who has these sessions, as `Access` tells. Both are called in threads.
        """
        self._state, self._still_there = state, still_there
        self._lock = asyncio.Lock()
        self._events: dict[Sight, _Seen] = {}
        self._people = _Seen(float("-inf"), {})
        self._open: Counter[str] = Counter()

    async def stream(self, session: str) -> AsyncIterator[ServerSentEvent]:
        """Everything as it is now, then what changes, until the session is over. One stream too
        many ends at once.

        Args:
            session: whose, as `Visitor` has it.
        """
        if self._open[session] >= STREAMS:
            return
        self._open[session] += 1
        try:
            async for event in self._changes(session):
                yield event
        finally:
            self._open[session] -= 1
            self._open += Counter()  # forgets those who have none left

    async def _changes(self, session: str) -> AsyncIterator[ServerSentEvent]:
        told: dict[str, str] = {}
        while (person := await self._person(session)) is not None:
            for name, data in (await self._now(sight_of(person))).items():
                if told.get(name) != data:
                    told[name] = data
                    yield ServerSentEvent(event=name.partition(":")[0], raw_data=data)
            await asyncio.sleep(EVERY_SECONDS)

    async def _person(self, session: str) -> Annotator | None:
        """Who has the session, with the rights of now."""
        async with self._lock:
            if not self._people.is_fresh or session not in self._people.found:
                found = await asyncio.to_thread(self._still_there, list(self._open))
                self._people = _Seen(time.monotonic(), found)
            person: Annotator | None = self._people.found.get(session)
            return person

    async def _now(self, sight: Sight) -> dict[str, str]:
        async with self._lock:
            seen = self._events.get(sight)
            if seen is None or not seen.is_fresh:
                found = await asyncio.to_thread(self._state, sight)
                told = {name: json.dumps(data, default=str) for name, data in found.items()}
                seen = _Seen(time.monotonic(), told)
                fresh = {one: kept for one, kept in self._events.items() if kept.is_fresh}
                self._events = {**fresh, sight: seen}
            events: dict[str, str] = seen.found
            return events
