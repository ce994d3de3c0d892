"""Data files and log entries of a mask table, flushed to disk before they are used."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from deltalake import DeltaTable
from deltalake.transaction import AddAction

from storage.mask_rows import ROW_GROUP_ROWS
from storage.objects import ObjectStore

STATISTICS = (
    *("mask_id", "image_id", "dataset", "stage", "round", "run_id", "source"),
    *("predicted_iou", "supersedes"),
)
"""Columns whose ranges the log keeps per file: those that scans filter by."""


LOOK_BACK = 8
"""Log entries read one by one before the whole log is read."""


def write_file(store: ObjectStore, prefix: str, rows: pa.Table, *, data_change: bool) -> AddAction:
    """Write rows as a data file of the table under `prefix`; returns the action that adds it to the
    log.

    Args:
        data_change: the rows are new, not copied from other files.
    """
    sink = pa.BufferOutputStream()
    pq.write_table(
        rows,
        sink,
        compression="zstd",
        compression_level=3,
        row_group_size=ROW_GROUP_ROWS,
        write_page_index=True,
    )
    data, name = bytes(sink.getvalue()), f"part-{uuid.uuid4()}-c000.zstd.parquet"
    store.put(f"{prefix}/{name}", data)
    now = int(datetime.now(UTC).timestamp() * 1000)
    stats = json.dumps(_statistics(rows))
    return AddAction(name, len(data), {}, now, data_change=data_change, stats=stats)


def _statistics(rows: pa.Table) -> dict[str, Any]:
    """The file's statistics in the log, by which scans skip it."""
    least: dict[str, Any] = {}
    most: dict[str, Any] = {}
    for name in STATISTICS:
        found = pc.min_max(rows.column(name)).as_py()
        if found["min"] is not None:
            least[name], most[name] = found["min"], found["max"]
    return {
        "numRecords": rows.num_rows,
        "minValues": least,
        "maxValues": most,
        "nullCount": {name: rows.column(name).null_count for name in STATISTICS},
    }


def version_of(store: ObjectStore, prefix: str, table: DeltaTable, run_id: str, shard: int) -> int:
    """The version in which a shard was committed, searched backwards from the table's version."""
    newest = table.version()
    for version in range(newest, max(-1, newest - LOOK_BACK), -1):
        info = _commit_info(store, prefix, version)
        if (info.get("run_id"), info.get("shard")) == (run_id, shard):
            return version
    # `history` includes commits made after the table was opened, but counts from its version.
    entries = table.history()
    for place, entry in enumerate(entries, 1):
        if (entry.get("run_id"), entry.get("shard")) == (run_id, shard):
            return len(entries) - place
    return newest


def _commit_info(store: ObjectStore, prefix: str, version: int) -> dict[str, Any]:
    log = store.get(f"{prefix}/_delta_log/{version:020}.json")
    actions = (json.loads(line) for line in log.splitlines() if line.strip())
    return next((action["commitInfo"] for action in actions if "commitInfo" in action), {})


def sync_log(store: ObjectStore, prefix: str, versions: Iterable[int]) -> None:
    """Flush the log entries of these versions and the newest checkpoint to disk. `write_file` has
    flushed their data files; deltalake itself flushes nothing."""
    log = f"{prefix}/_delta_log"
    entries = [f"{log}/{version:020}" for version in versions]
    files = [f"{entry}{end}" for entry in entries for end in (".json", ".checkpoint.parquet")]
    store.sync([*files, f"{log}/_last_checkpoint"])
