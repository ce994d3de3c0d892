"""Server-sent events: the queue, jobs and the overview, as they change.

The catalog is looked at once a second at most, however many pages listen.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Collection
from typing import Any

EVERY_SECONDS = 1.0
KEEP_ALIVE_SECONDS = 15.0


class Live:
    """Streams of events; one instance a server, used on its event loop."""

    def __init__(self, state: Callable[[], dict[str, Any]]) -> None:
        """
        Args:
            state: event name to its data, as it is now; called in a thread.
        """
        self._state = state
        self._lock = asyncio.Lock()
        self._seen: dict[str, str] = {}
        self._seen_at = float("-inf")

    async def stream(self, only: Collection[str] | None = None) -> AsyncIterator[str]:
        """Everything as it is now, then what changes, as text/event-stream.

        Args:
            only: names of the events that are told; None: all.
        """
        told: dict[str, str] = {}
        last = time.monotonic()
        while True:
            for name, data in (await self._now()).items():
                if told.get(name) != data and (only is None or name in only):
                    told[name] = data
                    last = time.monotonic()
                    yield f"event: {name.partition(':')[0]}\ndata: {data}\n\n"
            if time.monotonic() - last > KEEP_ALIVE_SECONDS:
                last = time.monotonic()
                yield ": still here\n\n"
            await asyncio.sleep(EVERY_SECONDS)

    async def _now(self) -> dict[str, str]:
        async with self._lock:
            if time.monotonic() - self._seen_at >= EVERY_SECONDS:
                found = await asyncio.to_thread(self._state)
                self._seen = {name: json.dumps(data, default=str) for name, data in found.items()}
                self._seen_at = time.monotonic()
            return self._seen
