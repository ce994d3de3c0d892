"""Runs that are cut into shards, which workers on any machine lease one at a time.

A worker does a shard's work, commits the result and then marks the shard. If it is killed in
between, the next worker finds the commit and only marks the shard.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial

from prefect import Task, task

from engine.core.batches import batches
from flows.stages import ray_shards
from flows.workspace import costs, logs, progress
from flows.workspace.retry import lease_heartbeat, retry_during_outage
from flows.workspace.run_lock import owner
from flows.workspace.workspace import Workspace, open_workspace
from storage.catalog import CatalogError, LeaseLostError, Run, Shard, ShardTotals

log = logging.getLogger(__name__)

Work = Callable[[Workspace, Run, Shard, progress.Advance], None]
"""Does and commits the work of a leased shard; advances by one image at a time."""


def plan_shards(workspace: Workspace, run_id: str, image_ids: Iterable[int]) -> ShardTotals:
    """Cut a run into shards, unless it has some; reads `image_ids` lazily."""
    shards = workspace.catalog.shards
    workspace = workspace.as_started(workspace.catalog.runs.get(run_id))
    shards.plan(run_id, batches(image_ids, workspace.settings.shard_images))
    return shards.totals(run_id)


def take_shard(workspace: Workspace, run_id: str, work: Work) -> int | None:
    """Lease the next free shard and do its work. A failure releases the lease.

    Returns:
        The number of its images; 0 if another worker took the shard over, None if none is free.
    """
    shards, run = workspace.catalog.shards, workspace.catalog.runs.get(run_id)
    workspace = workspace.as_started(run)
    shard = shards.lease(run_id, owner(), workspace.settings.lease_seconds)
    if shard is None:
        return None
    images = len(shard.image_ids)
    try:
        with progress.current().track(f"shard {shard.shard}", images, "image") as step:
            work(workspace, run, shard, step)
    except LeaseLostError as error:
        log.warning("shard left to another worker", extra={"run_id": run_id, "shard": shard.shard})
        progress.current().say(f"[yellow]{error}[/yellow]")
        return 0
    except BaseException:
        with contextlib.suppress(CatalogError):  # then the lease expires
            shards.release(run_id, shard.shard, str(shard.lease_id))
        raise
    return images


def shard_task(name: str, work: Work) -> Task[[str, str], int | None]:
    """Return the Prefect task of that name, a run of which takes and does one shard; its arguments
    are the workspace's folder and the run's id, its result is that of `take_shard`."""

    @task(name=name)
    def take(workspace: str, run_id: str) -> int | None:
        opened = open_workspace(workspace)
        return retry_during_outage(
            opened.settings.outage_seconds, lambda: take_shard(opened, run_id, work)
        )

    return take


def work_until_done(
    workspace: Workspace, run_id: str, one_shard: Task[[str, str], int | None], name: str
) -> ShardTotals:
    """Work on the shards of a planned run until all are committed: locally, or on Ray with
    `runner = "ray"`.

    Args:
        one_shard: as `shard_task` returns it.
        name: what the progress bar shows.

    Raises:
        ScaleOutError: Ray does not answer, or lost a shard's workers repeatedly.
        OutageError: the catalog or the store did not answer for `outage_seconds`.
    """
    shards, before = workspace.catalog.shards, workspace.catalog.shards.totals(run_id)
    root, outage_seconds = str(workspace.settings.root), workspace.settings.outage_seconds
    with progress.current().track(name, before.images, "image") as advance:
        advance(before.committed_images)
        if workspace.settings.runner == "ray":
            ray_shards.work_on_ray(workspace, run_id, one_shard)
        else:
            while retry_during_outage(outage_seconds, lambda: shards.remaining(run_id)):
                if one_shard(root, run_id) is None:
                    time.sleep(min(1.0, workspace.settings.lease_seconds / 4))
    return retry_during_outage(outage_seconds, lambda: shards.totals(run_id))


@contextlib.contextmanager
def leased(workspace: Workspace, shard: Shard) -> Iterator[None]:
    """Renew a shard's lease, count costs and mark log lines while the body works on it."""
    with (
        logs.bound(run_id=shard.run_id, shard=shard.shard),
        costs.spending(workspace, shard.run_id),
        lease_heartbeat(partial(renew, workspace, shard), workspace.settings.lease_seconds),
    ):
        yield


def renew(workspace: Workspace, shard: Shard) -> None:
    """Renew a shard's lease.

    Raises:
        LeaseLostError: another worker has it.
    """
    seconds, lease = workspace.settings.lease_seconds, str(shard.lease_id)
    workspace.catalog.shards.renew(shard.run_id, shard.shard, lease, seconds)
