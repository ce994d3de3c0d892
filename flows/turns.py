"""Work that one process at a time may do: a run with a single shard, whose lease decides."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial

from flows.patience import kept_alive
from flows.wiring import Workspace
from storage.catalog import LeaseLostError, Run, RunState

LOOK_SECONDS = 0.5


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
        shard = shards.lease(run_id, f"{socket.gethostname()}:{os.getpid()}", seconds)
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
    """Whether a process is at the run. Its leases decide: a process that is killed leaves the run
    as running. One that was silent for `outage_seconds` is taken for dead."""
    if run.state != RunState.RUNNING:
        return False
    since = workspace.catalog.now() - timedelta(seconds=workspace.settings.outage_seconds)
    until = workspace.catalog.shards.leased_until(run.id)
    return run.started_at > since or (until is not None and until > since)


def _give_back(workspace: Workspace, run_id: str, lease: str) -> None:
    try:
        workspace.catalog.shards.release(run_id, 0, lease)
    except LeaseLostError:  # whoever has it now needs nothing from us
        return
