"""Shards of runs whose result is one file per shard: of rows (`storage.shard_rows`) or vectors."""

from __future__ import annotations

import time
from collections.abc import Callable, Sized
from typing import Any, Protocol, TypeVar

from prefect import Task

from flows.stages.shards import leased, renew, shard_task
from flows.workspace import progress
from flows.workspace.retry import retry_during_outage
from flows.workspace.workspace import Workspace
from storage.catalog import Run, Shard
from storage.layout import KeyKind
from storage.shard_rows import ShardRows

Made = TypeVar("Made", bound=Sized)
Given = TypeVar("Given", bound=Sized, contravariant=True)
MakeRows = Callable[[Workspace, Run, Shard, progress.Advance], list[dict[str, Any]]]
"""Returns the rows of a leased shard; advances by one image at a time."""


class ShardFiles(Protocol[Given]):
    """Files of one kind."""

    def count(self, run_id: str, shard: int) -> int | None:
        """Return the number of things in a shard's file; None if there is none."""
        ...

    def write(self, run_id: str, shard: int, things: Given, /) -> None:
        """Write a shard's file, unless it exists."""
        ...


def rows_task(name: str, kind: KeyKind, make: MakeRows) -> Task[[str, str], int | None]:
    """Return the Prefect task of that name, a run of which makes one shard's file of that kind."""

    def work(workspace: Workspace, run: Run, shard: Shard, advance: progress.Advance) -> None:
        files = ShardRows(workspace.objects, kind)
        commit_file(workspace, shard, files, lambda: make(workspace, run, shard, advance))

    return shard_task(name, work)


def commit_file(
    workspace: Workspace, shard: Shard, files: ShardFiles[Made], make: Callable[[], Made]
) -> None:
    """Make and write a leased shard's file, unless it is written, and mark the shard.

    Raises:
        LeaseLostError: another worker has the shard; its file counts.
    """
    began, outage_seconds = time.monotonic(), workspace.settings.outage_seconds
    run_id, number = shard.run_id, shard.shard
    with leased(workspace, shard):
        count = retry_during_outage(outage_seconds, lambda: files.count(run_id, number))
        if count is None:
            made = make()
            count = len(made)
            renew(workspace, shard)  # raises if the lease is lost: its new owner writes
            retry_during_outage(outage_seconds, lambda: files.write(run_id, number, made))
        retry_during_outage(
            outage_seconds,
            lambda: workspace.catalog.shards.commit(
                run_id,
                number,
                str(shard.lease_id),
                masks=count,
                table_version=None,
                seconds=time.monotonic() - began,
            ),
        )
