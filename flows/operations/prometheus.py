"""Prometheus metrics of a workspace, read from the catalog at each scrape."""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections.abc import Iterator
from datetime import datetime

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from flows.workspace.costs import CostLedger, ledger
from flows.workspace.workspace import Workspace
from storage.catalog import CatalogError, RunKind, RunState, TaskKind, TaskState, utc_now
from storage.objects import StorageError

log = logging.getLogger(__name__)

KEPT_SECONDS = 10.0
"""How long a result is reused before the catalog is read again."""

WAITING = (TaskState.OPEN, TaskState.LEASED)
"""States of tasks whose age is reported."""


class WorkspaceCollector(Collector):
    """Metrics from the rows of the catalog; `dataengine_up` is 0 if it does not answer."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._lock = threading.Lock()
        self._kept: list[Metric] = []
        self._kept_at = float("-inf")

    def describe(self) -> list[Metric]:
        """Nothing: the names require reading the catalog, which start-up should not wait for."""
        return []

    def collect(self) -> Iterator[Metric]:
        """All metric families."""
        with self._lock:
            if time.monotonic() - self._kept_at >= KEPT_SECONDS:
                self._kept = self._read()
                self._kept_at = time.monotonic()
            yield from self._kept

    def _read(self) -> list[Metric]:
        found: list[Metric] = [*_disk(self._workspace), *_gpu()]
        try:
            found += self._catalog()
            is_up = 1
        except (CatalogError, StorageError) as error:
            log.warning("no metrics of the catalog: %s", error)
            is_up = 0
        text = "Whether catalog and object store answer."
        return [GaugeMetricFamily("dataengine_up", text, is_up), *found]

    def _catalog(self) -> list[Metric]:
        workspace, now = self._workspace, utc_now()
        rows = workspace.catalog.ledger
        expiries = CounterMetricFamily(
            "dataengine_lease_expiries", "Leases that ran out, of tasks and shards.", labels=["of"]
        )
        for kind, count in rows.expiries().items():
            expiries.add_metric([kind], count)
        overdue = GaugeMetricFamily(
            "dataengine_leases_overdue", "Leases that have run out, not taken over.", labels=["of"]
        )
        for kind, count in rows.overdue(now).items():
            overdue.add_metric([kind], count)
        quarantined = GaugeMetricFamily(
            "dataengine_quarantined",
            "Quarantined files, by the stage in which they failed.",
            labels=["stage"],
        )
        for stage, count in rows.quarantined().items():
            quarantined.add_metric([stage], count)
        runs = GaugeMetricFamily("dataengine_runs", "Runs.", labels=["kind", "state"])
        counts = rows.runs()
        for run_kind in RunKind:
            for state in RunState:
                runs.add_metric([run_kind, state], counts.get((run_kind, state), 0))
        shards = GaugeMetricFamily("dataengine_shards", "Shards of running runs.", labels=["state"])
        for shard_state, count in rows.shards().items():
            shards.add_metric([shard_state], count)
        images = GaugeMetricFamily(
            "dataengine_images", "Images in all datasets.", value=rows.images()
        )
        last = GaugeMetricFamily(
            "dataengine_last_backup_timestamp_seconds",
            "When the catalog was last backed up; 0: never.",
            value=_stamp(rows.last("backup")),
        )
        metrics: list[Metric] = [expiries, overdue, quarantined, runs, shards, images, last]
        return [*metrics, *self._queue(now), *_costs(ledger(workspace, now))]

    def _queue(self, now: datetime) -> list[Metric]:
        tasks = GaugeMetricFamily(
            "dataengine_queue_tasks", "Tasks in the queue.", labels=["kind", "state"]
        )
        oldest = GaugeMetricFamily(
            "dataengine_queue_oldest_seconds",
            "Age of the oldest waiting task; 0: none.",
            labels=["kind", "state"],
        )
        lines = {(row.kind, row.state): row for row in self._workspace.catalog.ledger.queue()}
        for kind in TaskKind:
            for state in TaskState:
                line = lines.get((kind, state))
                tasks.add_metric([kind, state], line.tasks if line else 0)
                if state in WAITING:
                    age = (now - line.oldest).total_seconds() if line else 0.0
                    oldest.add_metric([kind, state], max(0.0, age))
        return [tasks, oldest]


def _costs(found: CostLedger) -> list[Metric]:
    made = CounterMetricFamily("dataengine_masks", "Masks made.", labels=["stage", "model"])
    done = CounterMetricFamily(
        "dataengine_images_done", "Images worked on.", labels=["stage", "model"]
    )
    seconds = CounterMetricFamily(
        "dataengine_spent_seconds", "Seconds spent.", labels=["stage", "model", "of"]
    )
    cost = GaugeMetricFamily(
        "dataengine_cost", "Cost so far, by the settings' prices.", labels=["stage", "model"]
    )
    each = GaugeMetricFamily(
        "dataengine_cost_per_accepted_mask",
        "Cost of a mask that is accepted, over all runs; NaN: none is.",
        value=float("nan")
        if found.total.cost_per_accepted_mask is None
        else found.total.cost_per_accepted_mask,
    )
    accepted = GaugeMetricFamily(
        "dataengine_accepted_masks", "Accepted masks, estimated from the reviewed share."
    )
    accepted.add_metric([], found.total.accepted_masks or 0)
    for row in found.stages:
        labels = [row["stage"], row["model"] or ""]
        made.add_metric(labels, row["masks"])
        done.add_metric(labels, row["images"])
        cost.add_metric(labels, row["cost"])
        for of in ("cpu", "gpu", "people"):
            seconds.add_metric([*labels, of], row[f"{of}_seconds"])
    return [made, done, seconds, cost, each, accepted]


def _disk(workspace: Workspace) -> list[Metric]:
    free = shutil.disk_usage(workspace.settings.root).free
    return [GaugeMetricFamily("dataengine_disk_free_bytes", "Of the workspace's disk.", value=free)]


def _gpu() -> list[Metric]:
    """Memory of the GPUs; no samples without a GPU."""
    import torch

    memory = GaugeMetricFamily(
        "dataengine_gpu_memory_bytes", "Memory of the GPUs.", labels=["device", "of"]
    )
    if torch.cuda.is_available():
        for device in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(device)
            memory.add_metric([str(device), "used"], total - free)
            memory.add_metric([str(device), "total"], total)
    return [memory]


def _stamp(time: datetime | None) -> float:
    return 0.0 if time is None else time.timestamp()
