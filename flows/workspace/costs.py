"""The cost ledger: processor time, people's time and storage of each run, stage and model, and the
cost of an accepted mask. Prices are the settings' `[costs]`.

Processor time is measured while runs work (`spending`) and added to the run's row when a piece of
work ends: what a killed process has used since then is lost. The page's server counts for no run.
Only people at the page cost money; the simulated annotator's seconds are shown but cost nothing.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime
from functools import lru_cache
from typing import Any

from flows.workspace.setting_sections import CostSettings
from flows.workspace.workspace import Workspace
from storage.catalog import CatalogError, Model, Run, RunKind, utc_now
from storage.catalog.ledger import RunSums
from storage.compaction import table_size
from storage.objects import ObjectNotFoundError

log = logging.getLogger(__name__)

RUNS = 10_000
"""The ledger covers this many runs, the latest."""
LATEST_RUNS = 20
"""`CostLedger.as_dict` lists this many runs, the latest."""

MONTH_SECONDS = 30 * 24 * 3600.0
AUTOMATIC = (RunKind.FULLY_AUTOMATIC, RunKind.WORDS)
"""Runs of stage 3."""
PEOPLES = (RunKind.ASSISTED_MANUAL, RunKind.SEMI_AUTOMATIC)
"""Kinds of runs whose masks people made or confirmed: accepted unless a reviewer rejects them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Spent:
    """What work used and produced. `accepted_masks`: people's masks that no reviewer rejected, and
    automatic masks times the share accepted among the reviewed ones, None if none was reviewed;
    `accepted_is_estimate`: not all were reviewed. `cost` is in the currency of the prices."""

    cpu_seconds: float = 0.0
    gpu_seconds: float = 0.0
    people_seconds: float = 0.0
    simulated_seconds: float = 0.0
    bytes: int = 0
    images: int = 0
    masks: int = 0
    judged_masks: int = 0
    accepted_masks: int | None = None
    accepted_is_estimate: bool = False
    cost: float = 0.0

    @property
    def cost_per_accepted_mask(self) -> float | None:
        """None if no mask is known to be accepted."""
        return self.cost / self.accepted_masks if self.accepted_masks else None

    def row(self, **names: Any) -> dict[str, Any]:
        """The values as a row of a table, after the given names."""
        return {**names, **asdict(self), "cost_per_accepted_mask": self.cost_per_accepted_mask}


SUMMED = {field.name for field in fields(Spent)} - {"accepted_masks", "accepted_is_estimate"}
"""Fields whose total is the plain sum."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunCost:
    """One run in the ledger. `stage` is its kind, `model` the one that it used."""

    run: str
    stage: str
    model: str | None
    dataset_id: int
    state: str
    started_at: datetime
    spent: Spent


@dataclass(frozen=True, slots=True)
class CostLedger:
    """Every run; sums by stage and model, and over all."""

    runs: list[RunCost]

    @property
    def stages(self) -> list[dict[str, Any]]:
        """One row per stage and model, in the order of their first runs."""
        groups: dict[tuple[str, str | None], list[Spent]] = {}
        for item in sorted(self.runs, key=lambda item: item.started_at):
            groups.setdefault((item.stage, item.model), []).append(item.spent)
        return [
            total(group).row(stage=stage, model=model, runs=len(group))
            for (stage, model), group in groups.items()
        ]

    @property
    def total(self) -> Spent:
        """The sum over all runs, trainings and releases included; ingested images do not count as
        processed."""
        found = total([item.spent for item in self.runs])
        ingested = [item.spent.images for item in self.runs if item.stage == RunKind.INGEST]
        return replace(found, images=found.images - sum(ingested))

    def as_dict(self) -> dict[str, Any]:
        """What `dataengine status --json` shows: the latest runs, all stages, the total."""
        latest = sorted(self.runs, key=lambda item: item.started_at, reverse=True)[:LATEST_RUNS]
        return {
            "runs": [
                item.spent.row(
                    run=item.run,
                    stage=item.stage,
                    model=item.model,
                    state=item.state,
                    started_at=item.started_at,
                )
                for item in latest
            ],
            "stages": self.stages,
            "total": self.total.row(),
        }


def total(parts: Sequence[Spent]) -> Spent:
    """The sum."""
    accepted = [part.accepted_masks for part in parts if part.accepted_masks is not None]
    return Spent(
        **{name: sum(getattr(part, name) for part in parts) for name in SUMMED},
        accepted_masks=sum(accepted) if accepted else None,
        accepted_is_estimate=any(part.accepted_is_estimate for part in parts),
    )


def ledger(workspace: Workspace, now: datetime | None = None) -> CostLedger:
    """The cost of the workspace's runs so far. Reads whole tables, so it is not for each request.

    Raises:
        CatalogError, StorageError: the catalog or the store does not answer.
    """
    now = now or utc_now()
    sums = workspace.catalog.ledger.by_run()
    models = {model.version: model for model in workspace.catalog.models.all()}
    size = table_size(workspace.objects)
    mask_bytes = size.bytes / size.rows if size.rows else 0.0
    prices = workspace.settings.costs
    return CostLedger(
        [
            RunCost(
                run=run.id,
                stage=str(run.kind),
                model=run.model,
                dataset_id=run.dataset_id,
                state=str(run.state),
                started_at=run.started_at,
                spent=_spent(
                    workspace, run, sums.get(run.id, RunSums()), models, mask_bytes, prices, now
                ),
            )
            for run in workspace.catalog.runs.all(limit=RUNS)
        ]
    )


def cost_rows(workspace: Workspace) -> list[dict[str, Any]]:
    """The ledger for the dashboard: one row per stage and model, then the total."""
    found = ledger(workspace)
    return [*found.stages, found.total.row(stage="total", model=None, runs=len(found.runs))]


def _spent(
    workspace: Workspace,
    run: Run,
    sums: RunSums,
    models: dict[str, Model],
    mask_bytes: float,
    prices: CostSettings,
    now: datetime,
) -> Spent:
    card = models[v].card if (v := str(run.metrics.get("version"))) in models else {}
    gpu = max(run.gpu_seconds, float(card.get("gpu_seconds") or 0.0))
    # old runs have no processor time, only the machine's time
    cpu = run.cpu_seconds or sums.machine_seconds or float(card.get("seconds") or 0.0)
    images, masks = _made(run, sums)
    held = int(masks * mask_bytes) + _objects_bytes(workspace, run, models)
    months = (now - run.started_at).total_seconds() / MONTH_SECONDS
    cost = (cpu * prices.cpu_hour + gpu * prices.gpu_hour) / 3600
    cost += sums.people_seconds * prices.person_hour / 3600
    cost += held / 1e9 * max(months, 0.0) * prices.gb_month
    return Spent(
        cpu_seconds=cpu,
        gpu_seconds=gpu,
        people_seconds=sums.people_seconds,
        simulated_seconds=sums.simulated_seconds,
        bytes=held,
        images=images,
        masks=masks,
        judged_masks=sums.judged,
        accepted_masks=_accepted(run, sums, masks),
        accepted_is_estimate=run.kind in AUTOMATIC and 0 < sums.judged < masks,
        cost=cost,
    )


def _made(run: Run, sums: RunSums) -> tuple[int, int]:
    """Images and masks that a run has processed so far."""
    if "copy_of" in run.config:  # its answers are merged into masks of the run that it copies
        return 0, 0
    if run.kind in PEOPLES:
        return sums.tasks, sums.task_masks
    if run.kind in AUTOMATIC:
        return sums.shard_images, sums.shard_masks
    if run.kind == RunKind.REVIEW:
        return 0, int(run.metrics.get("fix") or 0)
    if run.kind == RunKind.INGEST:
        masks = int(run.metrics.get("masks") or 0) if _is_work(run) else 0
        return int(run.metrics.get("added") or 0), masks
    return 0, 0


def _is_work(run: Run) -> bool:
    """Whether it is an ingest of annotations as masks of people."""
    return run.kind == RunKind.INGEST and run.config.get("annotations_as") == "masks"


def _accepted(run: Run, sums: RunSums, masks: int) -> int | None:
    if run.kind in PEOPLES or run.kind == RunKind.REVIEW or _is_work(run):
        return max(0, masks - sums.rejected - sums.fixed)
    if run.kind in AUTOMATIC and sums.judged:
        return round(masks * sums.accepted / sums.judged)
    return None


def _objects_bytes(workspace: Workspace, run: Run, models: dict[str, Model]) -> int:
    """Bytes of a run's objects besides masks."""
    if run.kind == RunKind.INGEST:
        added, known = (int(run.metrics.get(name) or 0) for name in ("added", "known"))
        share = added / (added + known) if added else 0.0  # known images were stored before
        return int(share * int(run.metrics.get("bytes") or 0))
    if run.kind == RunKind.RETRAIN and (version := str(run.metrics.get("version"))) in models:
        return _size(workspace, models[version].key)
    return 0


@lru_cache(maxsize=4096)
def _size(workspace: Workspace, key: str) -> int:
    try:
        return workspace.objects.size(key)
    except ObjectNotFoundError:
        return 0


class _Meter:
    """Divides this process's processor time among the pieces of work that are active in it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._active: dict[object, list[float]] = {}
        self._cpu, self._wall = time.process_time(), time.monotonic()

    def begin(self) -> object:
        """Start a piece of work; returns its key."""
        key = object()
        with self._lock:
            self._share()
            self._active[key] = [0.0, 0.0]
        return key

    def end(self, key: object) -> tuple[float, float]:
        """End a piece of work; returns its seconds of processor time and of wall time."""
        with self._lock:
            self._share()
            cpu, wall = self._active.pop(key)
            return cpu, wall

    def _share(self) -> None:
        cpu, wall = time.process_time(), time.monotonic()
        for spent in self._active.values():
            spent[0] += (cpu - self._cpu) / len(self._active)
            spent[1] += (wall - self._wall) / len(self._active)
        self._cpu, self._wall = cpu, wall


_meter = _Meter()


@contextmanager
def spending(workspace: Workspace, run_id: str) -> Iterator[None]:
    """Add the block's processor time to the run, and on a GPU the time that it held the GPU.
    Concurrent blocks share the time; do not nest blocks of one run."""
    key = _meter.begin()
    try:
        yield
    finally:
        cpu, wall = _meter.end(key)
        gpu = wall if workspace.device().startswith("cuda") else 0.0
        try:
            workspace.catalog.runs.spend(run_id, cpu_seconds=cpu, gpu_seconds=gpu)
        except CatalogError as error:  # bookkeeping must not fail finished work
            log.warning("the cost of a run was not stored: %s", error, extra={"run_id": run_id})
