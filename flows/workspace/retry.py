"""Living through an outage: a catalog or a store that does not answer is asked again.

Everything a job does may be done again, so it waits as long as the settings' `outage_seconds` say
before it ends. What cannot get better by itself (a wrong password, a full disk) ends it at once.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from engine.core.errors import DataEngineError
from flows.workspace import progress
from storage.catalog import CatalogUnavailableError
from storage.objects import StorageUnavailableError

log = logging.getLogger(__name__)

UNAVAILABLE = (CatalogUnavailableError, StorageUnavailableError)
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 15.0
"""Seconds between two tries; each is twice as long as the one before."""

T = TypeVar("T")


class OutageError(DataEngineError):
    """The catalog or the store did not answer for `outage_seconds`. What is committed stays: see
    what is wrong with it (`dataengine doctor`), then give the same command again."""


def patiently(seconds: float, call: Callable[[], T]) -> T:
    """What the call returns; where the catalog or the store does not answer, it is made again.

    Args:
        seconds: how long an outage may last. One that ended, so that the call worked for longer
            than this before it failed again, is forgotten.
        call: may be made again at any time.

    Raises:
        OutageError: it lasted longer.
    """
    began: float | None = None
    pause = FIRST_PAUSE
    while True:
        called = time.monotonic()
        try:
            return call()
        except UNAVAILABLE as error:
            now = time.monotonic()
            if began is None or now - called > seconds:
                began, pause = now, FIRST_PAUSE
            if (left := began + seconds - now) <= 0:
                raise OutageError(f"given up after {seconds:.0f} s: {error}") from error
            log.warning("no answer, trying again: %s", error)
            progress.current().say(f"[yellow]{error}; trying again for {left:.0f} s[/yellow]")
            time.sleep(min(pause, left))
            pause = min(2 * pause, LONGEST_PAUSE)


@contextmanager
def kept_alive(renew: Callable[[], object], seconds: float) -> Iterator[None]:
    """Call `renew` every third of `seconds` from a thread while the body runs, so that long work
    on one item does not lose its lease. While the catalog does not answer it is called again and
    again; another failure ends the renewing. Whether the lease still holds is decided where the
    result is handed in."""
    stop = threading.Event()

    def beat() -> None:
        while not stop.wait(seconds / 3):
            try:
                renew()
            except CatalogUnavailableError as error:
                log.warning("a lease could not be renewed yet: %s", error)
            except Exception as error:
                progress.current().say(f"[yellow]a lease could not be renewed: {error}[/yellow]")
                return

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
