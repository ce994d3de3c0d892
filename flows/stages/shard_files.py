"""Shards of runs whose result is a file of rows per shard (`storage.shard_rows`)."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from flows.stages.shards import leased, renew
from flows.workspace.retry import retry_during_outage
from flows.workspace.workspace import Workspace
from storage.catalog import Shard
from storage.shard_rows import ShardRows


def commit_rows(
    workspace: Workspace,
    shard: Shard,
    files: ShardRows,
    make: Callable[[], list[dict[str, Any]]],
) -> None:
    """Make and write a leased shard's rows, unless they are written, and mark the shard.

    Raises:
        LeaseLostError: another worker has the shard; its rows count.
    """
    began, outage_seconds = time.monotonic(), workspace.settings.outage_seconds
    run_id, number = shard.run_id, shard.shard
    with leased(workspace, shard):
        count = retry_during_outage(outage_seconds, lambda: files.count(run_id, number))
        if count is None:
            rows = make()
            count = len(rows)
            renew(workspace, shard)  # raises if the lease is lost: its new owner writes
            retry_during_outage(outage_seconds, lambda: files.write(run_id, number, rows))
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
