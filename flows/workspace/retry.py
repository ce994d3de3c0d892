"""Retries during outages: calls that the catalog or the store does not answer are repeated.

All work may be repeated, so a flow retries for the settings' `outage_seconds` before it fails. An
error that does not go away by itself (a wrong password, a full disk) fails at once.
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
"""Seconds between two tries; each pause is twice the one before."""

T = TypeVar("T")


class OutageError(DataEngineError):
    """The catalog or the store did not answer for `outage_seconds`. Committed work is kept: find
    the cause (`dataengine doctor`), then repeat the command."""


def retry_during_outage(seconds: float, call: Callable[[], T]) -> T:
    """Return the result of the call; repeat it while the catalog or the store does not answer.

    Args:
        seconds: how long an outage may last. If the call works for longer than this before it fails
            again, that counts as a new outage.
        call: may be repeated at any time.

    Raises:
        OutageError: the outage lasted longer.
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
def lease_heartbeat(renew: Callable[[], object], seconds: float) -> Iterator[None]:
    """Call `renew` every third of `seconds` from a thread while the body runs, so that long work on
    one item does not lose its lease. While the catalog does not answer, the calls continue; another
    error ends them. The commit of the result checks whether the lease still holds."""
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
