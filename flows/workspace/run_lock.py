"""Locks on work that only one process at a time may do, and heartbeats of runs.

A run that is done once has a single shard, whose lease is the lock (`exclusive_run`). A step that
is repeated, such as the loop's next one, has a lock of its own (`named_lock`). Every run is wrapped
in `tracked_run`.
"""

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
from flows.workspace.retry import lease_heartbeat
from flows.workspace.workspace import Workspace
from storage.catalog import CatalogError, LeaseLostError, Lock, Run, RunState

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.5

_held: ContextVar[frozenset[str]] = ContextVar("held", default=frozenset())
"""Names of the locks that this thread holds, so that a step may be part of a larger one."""


class BusyError(DataEngineError):
    """Another process runs this step; nothing was changed."""


def owner() -> str:
    """Name of this process: host and process id."""
    return f"{socket.gethostname()}:{os.getpid()}"


def loop_lock(dataset_id: int) -> str:
    """Name of the lock on a dataset's loop: on its rounds and its retrains."""
    return f"loop/{dataset_id}"


def review_lock(dataset_id: int) -> str:
    """Name of the lock on drawing masks of a dataset for a review."""
    return f"review/{dataset_id}"


def release_lock(name: str) -> str:
    """Name of the lock on building a release."""
    return f"release/{name}"


@contextmanager
def named_lock(workspace: Workspace, name: str, *, wait: bool = True) -> Iterator[None]:
    """Hold the lock of that name while the body runs. A thread that already holds it keeps it; a
    holder without a heartbeat for `lease_seconds` loses it.

    Raises:
        BusyError: another process holds it, and `wait` is off.
    """
    held = _held.get()
    if name in held:
        yield
        return
    locks, seconds = workspace.catalog.locks, workspace.settings.lease_seconds
    lock = _acquire(workspace, name, wait)
    before = _held.set(held | {name})
    try:
        with lease_heartbeat(partial(locks.renew, lock, seconds), seconds):
            yield
    finally:
        _held.reset(before)
        try:
            locks.release(lock)
        except CatalogError as error:  # its lease expires by itself
            log.warning("the lock %s was not released: %s", name, error)


def _acquire(workspace: Workspace, name: str, wait: bool) -> Lock:
    locks, seconds = workspace.catalog.locks, workspace.settings.lease_seconds
    is_reported = False
    while (lock := locks.take(name, owner(), seconds)) is None:
        holder = locks.holder(name)
        if holder is not None and not wait:
            raise BusyError(f"process {holder.owner} runs this step")
        if holder is not None and not is_reported:
            progress.current().say(f"waiting for process {holder.owner}, which runs this step")
            is_reported = True
        time.sleep(min(LOOK_SECONDS, seconds / 4))
    return lock


@contextmanager
def tracked_run(workspace: Workspace, run_id: str) -> Iterator[None]:
    """Wraps all work of a run: while the body runs, heartbeats in the catalog show that a process
    works on the run; if it ends with an error, the run is marked as failed, with the reason.

    A run that is stopped (Ctrl-C) stays marked as running if it has shards or tasks to resume. A
    failed run is marked as running when it is started again.
    """
    runs, seconds = workspace.catalog.runs, workspace.settings.lease_seconds
    beat = partial(runs.beat, run_id, seconds)
    try:
        beat()
        with lease_heartbeat(beat, seconds):
            yield
    except BaseException as error:
        try:
            if isinstance(error, Exception) or not _can_resume(workspace, run_id):
                runs.fail(run_id, reason_of(error))
        except CatalogError as failure:
            log.warning("run %s: its failure could not be stored: %s", run_id, failure)
        raise


def reason_of(error: BaseException) -> str:
    """The reason of a failure, for the run's row."""
    if not isinstance(error, Exception):
        return "stopped"
    return str(error) or type(error).__name__


def _can_resume(workspace: Workspace, run_id: str) -> bool:
    in_shards = workspace.catalog.shards.totals(run_id).images
    return in_shards > 0 or any(workspace.queue.counts(run_id=run_id).values())


@contextmanager
def exclusive_run(workspace: Workspace, run_id: str) -> Iterator[bool]:
    """Hold the run while the body runs. Waits for another process that holds it, and takes the run
    over if that has no heartbeat.

    Yields:
        True if the body is to do the work; False if the work is already done.

    Raises:
        LeaseLostError: another process took over, as this one had no heartbeat for too long.
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
            with lease_heartbeat(renew, seconds):
                yield True
        except BaseException:
            _release(workspace, run_id, lease)
            raise
        took = time.monotonic() - began
        shards.commit(run_id, 0, lease, masks=0, table_version=None, seconds=took)
        return
    yield False


def at_work(workspace: Workspace, run: Run) -> bool:
    """Whether a process works on the run, by its leases and heartbeats: a killed process leaves the
    run marked as running. Without a heartbeat for `outage_seconds` it counts as dead."""
    if run.state != RunState.RUNNING:
        return False
    since = workspace.catalog.now() - timedelta(seconds=workspace.settings.outage_seconds)
    signs = (run.started_at, run.alive_until, workspace.catalog.shards.leased_until(run.id))
    return any(sign is not None and sign > since for sign in signs)


def _release(workspace: Workspace, run_id: str, lease: str) -> None:
    try:
        workspace.catalog.shards.release(run_id, 0, lease)
    except LeaseLostError:  # another process already holds it
        return
