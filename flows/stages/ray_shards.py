"""Runs stage 3's shards on a Ray cluster, through Prefect's Ray task runner.

A task carries the workspace's folder and the run's id, and takes any free shard: the lease in the
catalog decides who works on what, Ray and Prefect only where. Every node needs this package and,
under the same path, the workspace's folder with settings that name the shared catalog and store. A
worker process opens the workspace and loads the model once.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from prefect import Task, flow

from engine.core.errors import DataEngineError
from flows.workspace import progress
from flows.workspace.retry import retry_during_outage
from flows.workspace.setting_sections import RaySettings
from flows.workspace.settings import WorkspaceError
from flows.workspace.workspace import Workspace, open_workspace

if TYPE_CHECKING:
    from prefect_ray import RayTaskRunner
    from prefect_ray.task_runners import PrefectRayFuture

log = logging.getLogger(__name__)

CONNECT_SECONDS = 10.0
LOOK_SECONDS = 5.0
"""Seconds between two queries of the catalog while no task ends."""
LAST_SECONDS = 10.0
"""Seconds that remaining tasks get to end once every shard is committed."""


class ScaleOutError(DataEngineError):
    """Ray does not answer, or a shard lost its process more often than `retries` in `[ray]`.
    Committed shards stay; repair the cluster and repeat the command."""


def work_on_ray(
    workspace: Workspace, run_id: str, shard_task: Task[[str, str], int | None]
) -> None:
    """Run `shard_task` on Ray until every shard of the run is committed, `max_in_flight` at a
    time. Several processes can do so for the same run.

    Raises:
        WorkspaceError: Ray is not installed.
        ScaleOutError: Ray does not answer, or lost a shard's process too often.
        Exception: a shard's error after its retries, raised once the others in flight end.
    """
    chosen = workspace.settings.ray
    with _ray_errors(chosen):
        _check_connection(chosen.address)
        runner = _runner(chosen)

        @flow(name="generate-on-ray", task_runner=runner, validate_parameters=False)
        def on_ray(workspace: str, run_id: str) -> None:
            retried = shard_task.with_options(
                retries=chosen.retries, retry_delay_seconds=chosen.retry_seconds
            )
            opened = open_workspace(workspace)
            _keep_submitting(opened, run_id, lambda: retried.submit(workspace, run_id))

        on_ray(str(workspace.settings.root), run_id)


def _check_connection(address: str) -> None:
    """Raise at once if nothing listens: Ray tries for minutes, then ends the process."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon:
        try:
            socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
        except OSError as error:
            raise ScaleOutError(f"Ray at {address} does not answer: {error}") from error


def _runner(chosen: RaySettings) -> RayTaskRunner[Any]:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    from prefect_ray import RayTaskRunner

    options: dict[str, Any] = {"address": chosen.address}
    options |= {"log_to_driver": False, "configure_logging": False}
    if chosen.address == "local":
        options |= {"include_dashboard": False}
    return RayTaskRunner(init_kwargs=options)


def _keep_submitting(
    workspace: Workspace, run_id: str, submit: Callable[[], PrefectRayFuture[Any]]
) -> None:
    """Keep tasks in flight while shards are left."""
    import ray
    from prefect_ray.context import remote_options

    chosen, shards = workspace.settings.ray, workspace.catalog.shards
    outage_seconds = workspace.settings.outage_seconds
    pending: list[PrefectRayFuture[Any]] = []
    # With GPUs Ray ends a process, and its loaded model, after one task, unless max_calls is 0.
    resources = {"num_cpus": chosen.cpus_per_shard, "num_gpus": chosen.gpus_per_shard}
    with (
        remote_options(**resources, max_calls=0, max_retries=chosen.retries),
        progress.current().track("shards", None, "image") as advance,
    ):
        done = (totals := shards.totals(run_id)).committed_images
        while left := totals.shards - totals.committed:
            # A frozen process keeps its task: further tasks take the shards it lost.
            expired = retry_during_outage(outage_seconds, lambda: shards.expired(run_id))
            target = min(left, chosen.max_in_flight) + expired
            pending += [submit() for _ in range(target - len(pending))]
            ended, pending = _wait(ray, pending, LOOK_SECONDS)
            try:
                images = [future.result() for future in ended]
            except Exception:
                _let_finish(ray, workspace, run_id, pending)
                raise
            if images and not any(images):  # others lease the rest
                time.sleep(min(LOOK_SECONDS, workspace.settings.lease_seconds / 4))
            totals = retry_during_outage(outage_seconds, lambda: shards.totals(run_id))
            advance(totals.committed_images - done)
            done = totals.committed_images
    _cancel_rest(ray, pending)


def _wait(
    ray: Any, pending: Sequence[PrefectRayFuture[Any]], seconds: float
) -> tuple[list[PrefectRayFuture[Any]], list[PrefectRayFuture[Any]]]:
    """Wait at most `seconds` for one to end; return those that have ended and those that have
    not."""
    refs = [future.wrapped_future for future in pending]
    ready, _ = ray.wait(refs, num_returns=1, timeout=seconds)
    ready, _ = ray.wait(refs, num_returns=len(refs), timeout=0) if ready else (ready, [])
    done = set(ready)
    return (
        [future for future in pending if future.wrapped_future in done],
        [future for future in pending if future.wrapped_future not in done],
    )


def _let_finish(
    ray: Any, workspace: Workspace, run_id: str, pending: Sequence[PrefectRayFuture[Any]]
) -> None:
    """Wait until the tasks in flight commit their shards or their leases expire."""
    refs = [future.wrapped_future for future in pending]
    while refs and workspace.catalog.shards.expired(run_id) < len(refs):
        _, refs = ray.wait(refs, num_returns=len(refs), timeout=LOOK_SECONDS)


def _cancel_rest(ray: Any, pending: Sequence[PrefectRayFuture[Any]]) -> None:
    """Wait for tasks without work to end, then cancel the rest."""
    if not pending:
        return
    refs = [future.wrapped_future for future in pending]
    _, silent = ray.wait(refs, num_returns=len(refs), timeout=LAST_SECONDS)
    for ref in silent:
        log.warning("a shard's process does not answer; its task is cancelled")
        ray.cancel(ref, force=True)


@contextmanager
def _ray_errors(chosen: RaySettings) -> Iterator[None]:
    try:
        from ray.exceptions import RayError
    except ImportError as error:
        raise WorkspaceError(
            "runner is ray, but Ray is not installed: pip install 'open-data-engine[ray]'"
        ) from error
    try:
        yield
    except (RayError, ConnectionError) as error:
        raise ScaleOutError(f"Ray at {chosen.address}: {error}") from error
