"""Whose turn it is: work that one process at a time may do, and runs that somebody is at.

A run that is done once has a single shard, whose lease decides (`only_one`). A step that may be
taken again and again, such as the loop's next one, has a lock (`turn`). Every run is `guarded`."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import timedelta
from functools import partial

from engine.core.errors import DataEngineError
from flows.workspace import progress
from flows.workspace.retry import kept_alive
from flows.workspace.workspace import Workspace
from storage.catalog import CatalogError, LeaseLostError, Lock, Run, RunState

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.5

_held: ContextVar[frozenset[str]] = ContextVar("held", default=frozenset())
"""Names of the locks that the calling thread has, so that a step may be a part of a larger one."""


class BusyError(DataEngineError):
    """Another process is at this step, which can wait: nothing was changed."""


def owner() -> str:
    """This process, for people to read."""
    return f"{socket.gethostname()}:{os.getpid()}"


def loop_turn(dataset_id: int) -> str:
    """Name of the lock on a dataset's loop: on its rounds and its retrains."""
    return f"loop/{dataset_id}"


def review_turn(dataset_id: int) -> str:
    """Name of the lock on drawing masks of a dataset for a review."""
    return f"review/{dataset_id}"


def release_turn(name: str) -> str:
    """Name of the lock on building a release."""
    return f"release/{name}"


@contextmanager
def turn(workspace: Workspace, name: str, *, wait: bool = True) -> Iterator[None]:
    """Hold the lock of that name while the body works. A thread that has it already keeps it; a
    holder that falls silent for `lease_seconds` loses it.

    Raises:
        BusyError: another process has it, and `wait` is off.
    """
    held = _held.get()
    if name in held:
        yield
        return
    locks, seconds = workspace.catalog.locks, workspace.settings.lease_seconds
    lock = _take(workspace, name, wait)
    before = _held.set(held | {name})
    try:
        with kept_alive(partial(locks.renew, lock, seconds), seconds):
            yield
    finally:
        _held.reset(before)
        try:
            locks.release(lock)
        except CatalogError as error:  # then it is free when its lease runs out
            log.warning("the lock %s was not given back: %s", name, error)


def _take(workspace: Workspace, name: str, wait: bool) -> Lock:
    locks, seconds = workspace.catalog.locks, workspace.settings.lease_seconds
    is_said = False
    while (lock := locks.take(name, owner(), seconds)) is None:
        holder = locks.holder(name)
        if holder is not None and not wait:
            raise BusyError(f"process {holder.owner} is at it")
        if holder is not None and not is_said:
            progress.current().say(f"waiting for process {holder.owner}, which is at it")
            is_said = True
        time.sleep(min(LOOK_SECONDS, seconds / 4))
    return lock


@contextmanager
def guarded(workspace: Workspace, run_id: str) -> Iterator[None]:
    """Around everything that a run does: as long as the body works the catalog knows that somebody
    is at the run, and where it ends with an error the run has failed, with the reason.

    A run that is stopped (Ctrl-C) stays running where it has shards or tasks to go on with. A
    failed run is running again when it is started again.
    """
    runs, seconds = workspace.catalog.runs, workspace.settings.lease_seconds
    beat = partial(runs.beat, run_id, seconds)
    try:
        beat()
        with kept_alive(beat, seconds):
            yield
    except BaseException as error:
        try:
            if isinstance(error, Exception) or not _can_go_on(workspace, run_id):
                runs.fail(run_id, reason_of(error))
        except CatalogError as trouble:
            log.warning("run %s: that it failed could not be noted: %s", run_id, trouble)
        raise


def reason_of(error: BaseException) -> str:
    """Why a run failed, for its row."""
    if not isinstance(error, Exception):
        return "stopped"
    return str(error) or type(error).__name__


def _can_go_on(workspace: Workspace, run_id: str) -> bool:
    in_shards = workspace.catalog.shards.totals(run_id).images
    return in_shards > 0 or any(workspace.queue.counts(run_id=run_id).values())


@contextmanager
def only_one(workspace: Workspace, run_id: str) -> Iterator[bool]:
    """Hold the run while the body works; another process that is at it is waited for, and taken
    over from where it falls silent.

    Yields:
        True where the body is to do the work; False where it was done before, by whomever.

    Raises:
        LeaseLostError: another process took over, because this one was silent for too long.
    """
    shards, seconds = workspace.catalog.shards, workspace.settings.lease_seconds
    shards.plan(run_id, [[]])
    began = time.monotonic()
    while shards.remaining(run_id):
        shard = shards.lease(run_id, owner(), seconds)
        if shard is None:
            time.sleep(min(LOOK_SECONDS, seconds / 4))
            continue
        lease = str(shard.lease_id)
        try:
            renew = partial(shards.renew, run_id, 0, lease, seconds)
            with kept_alive(renew, seconds):
                yield True
        except BaseException:
            _give_back(workspace, run_id, lease)
            raise
        took = time.monotonic() - began
        shards.commit(run_id, 0, lease, masks=0, table_version=None, seconds=took)
        return
    yield False


def at_work(workspace: Workspace, run: Run) -> bool:
    """Whether a process is at the run. Its leases and signs of life decide: a process that is
    killed leaves the run as running. One that was silent for `outage_seconds` is taken for dead."""
    if run.state != RunState.RUNNING:
        return False
    since = workspace.catalog.now() - timedelta(seconds=workspace.settings.outage_seconds)
    signs = (run.started_at, run.alive_until, workspace.catalog.shards.leased_until(run.id))
    return any(sign is not None and sign > since for sign in signs)


def _give_back(workspace: Workspace, run_id: str, lease: str) -> None:
    try:
        workspace.catalog.shards.release(run_id, 0, lease)
    except LeaseLostError:  # whoever has it now needs nothing from us
        return
