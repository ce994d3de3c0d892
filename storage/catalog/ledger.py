"""Sums over all rows, for the cost ledger and the metrics: work of annotators, reviewers and
workers, and failures."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import case, func, select
from sqlalchemy.orm import Session

from storage.catalog.sessions import Repository
from storage.catalog.states import (
    AnnotatorKind,
    RunKind,
    RunState,
    ShardState,
    TaskKind,
    TaskState,
    VerdictKind,
)
from storage.catalog.tables import (
    AnnotatorRow,
    AuditRow,
    ImageRow,
    QuarantineRow,
    RunRow,
    ShardRow,
    TaskRow,
    VerdictRow,
)
from storage.catalog.tasks import not_gold, submitted_masks
from storage.catalog.verdicts import latest_verdict


@dataclass(slots=True)
class RunSums:
    """Sums over the rows of one run; seconds are people's, the simulated annotator's and the
    machine's time."""

    tasks: int = 0
    task_masks: int = 0
    people_seconds: float = 0.0
    simulated_seconds: float = 0.0
    shard_images: int = 0
    shard_masks: int = 0
    machine_seconds: float = 0.0
    accepted: int = 0
    rejected: int = 0
    fixed: int = 0
    """Masks of the run, by their latest verdict."""

    @property
    def judged(self) -> int:
        """The number of its judged masks."""
        return self.accepted + self.rejected + self.fixed


@dataclass(frozen=True, kw_only=True, slots=True)
class SubmittedWork:
    """Submitted work on a dataset's images. `masks`: those that are not in the mask table yet."""

    images: int = 0
    masks: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class QueueLine:
    """Tasks of one kind in one state, and when the oldest was created."""

    kind: TaskKind
    state: TaskState
    tasks: int
    oldest: datetime


class Ledger(Repository):
    """Reached as `catalog.ledger`. Each method reads whole tables: do not call it per request."""

    def by_run(self) -> dict[str, RunSums]:
        """The sums of every run with tasks, shards or judged masks, by run id."""
        found: dict[str, RunSums] = defaultdict(RunSums)
        with self._sessions.reading() as session:
            _add_tasks(session, found)
            _add_reviews(session, found)
            _add_shards(session, found)
            _add_verdicts(session, found)
        return dict(found)

    def submitted_work(self) -> dict[int, SubmittedWork]:
        """Submitted annotation work by dataset id; datasets without any are left out."""
        is_open = RunRow.state != RunState.FINISHED
        query = (
            select(
                TaskRow.dataset_id,
                func.count(TaskRow.image_id.distinct()),
                func.sum(case((is_open, submitted_masks()), else_=0)),
            )
            .outerjoin(RunRow, RunRow.id == TaskRow.run_id)
            .where(TaskRow.state == TaskState.SUBMITTED, TaskRow.kind != TaskKind.REVIEW)
            .where(not_gold())
            .group_by(TaskRow.dataset_id)
        )
        with self._sessions.reading() as session:
            return {
                dataset_id: SubmittedWork(images=images, masks=int(masks))
                for dataset_id, images, masks in session.execute(query)
            }

    def people_since(self, since: datetime) -> dict[int, int]:
        """How many people have submitted tasks since a time, by dataset id; datasets without any
        are left out."""
        query = (
            select(TaskRow.dataset_id, func.count(TaskRow.annotator_id.distinct()))
            .join(AnnotatorRow, AnnotatorRow.id == TaskRow.annotator_id)
            .where(TaskRow.state == TaskState.SUBMITTED, TaskRow.submitted_at >= since)
            .where(AnnotatorRow.kind == AnnotatorKind.PERSON)
            .group_by(TaskRow.dataset_id)
        )
        return self._sessions.pairs(query)

    def expiries(self) -> dict[str, int]:
        """How often leases expired, of `task`s and `shard`s."""
        with self._sessions.reading() as session:
            tasks = session.scalar(select(func.coalesce(func.sum(TaskRow.expiries), 0)))
            shards = session.scalar(select(func.coalesce(func.sum(ShardRow.expiries), 0)))
        return {"task": int(tasks or 0), "shard": int(shards or 0)}

    def overdue(self, now: datetime) -> dict[str, int]:
        """The number of expired leases of `task`s and `shard`s that were not taken over."""
        tasks = select(func.count()).where(
            TaskRow.state == TaskState.LEASED, TaskRow.lease_expires_at <= now
        )
        shards = select(func.count()).where(
            ShardRow.state == ShardState.LEASED, ShardRow.lease_expires_at <= now
        )
        with self._sessions.reading() as session:
            return {"task": session.scalar(tasks) or 0, "shard": session.scalar(shards) or 0}

    def queue(self) -> list[QueueLine]:
        """The queue by kind and state, without empty lines."""
        query = select(TaskRow.kind, TaskRow.state, func.count(), func.min(TaskRow.created_at))
        with self._sessions.reading() as session:
            rows = session.execute(query.group_by(TaskRow.kind, TaskRow.state)).all()
        return [QueueLine(kind=k, state=s, tasks=n, oldest=oldest) for k, s, n, oldest in rows]

    def runs(self) -> dict[tuple[RunKind, RunState], int]:
        """The number of runs by kind and state."""
        query = select(RunRow.kind, RunRow.state, func.count())
        with self._sessions.reading() as session:
            rows = session.execute(query.group_by(RunRow.kind, RunRow.state)).all()
        return {(kind, state): count for kind, state, count in rows}

    def shards(self) -> dict[ShardState, int]:
        """The number of shards of running runs by state."""
        query = select(ShardRow.state, func.count()).join(RunRow, RunRow.id == ShardRow.run_id)
        query = query.where(RunRow.state == RunState.RUNNING).group_by(ShardRow.state)
        return self._sessions.counts(query, ShardState)

    def quarantined(self) -> dict[str, int]:
        """The number of quarantined files by stage."""
        query = select(QuarantineRow.stage, func.count()).group_by(QuarantineRow.stage)
        return self._sessions.pairs(query)

    def images(self) -> int:
        """The number of images in all datasets."""
        return self._sessions.value(select(func.count()).select_from(ImageRow)) or 0

    def last_image(self) -> int:
        """The highest image id; 0 without images."""
        return self._sessions.value(select(func.max(ImageRow.id))) or 0

    def last(self, action: str) -> datetime | None:
        """When the audit log last has the action."""
        return self._sessions.value(select(func.max(AuditRow.at)).where(AuditRow.action == action))

    def database_time(self) -> datetime | None:
        """The database's clock, in UTC; None for SQLite, which uses this machine's."""
        if self._sessions.engine.dialect.name == "sqlite":
            return None
        return self._sessions.value(select(func.clock_timestamp()))


SumsByRun = dict[str, RunSums]


def _add_tasks(session: Session, found: SumsByRun) -> None:
    seconds = TaskRow.result["seconds"].as_float()
    query = (
        select(
            TaskRow.run_id,
            AnnotatorRow.kind,
            func.count(),
            func.sum(submitted_masks()),
            func.coalesce(func.sum(seconds), 0.0),
        )
        .outerjoin(AnnotatorRow, AnnotatorRow.id == TaskRow.annotator_id)
        .where(TaskRow.state == TaskState.SUBMITTED, TaskRow.kind != TaskKind.REVIEW)
        .group_by(TaskRow.run_id, AnnotatorRow.kind)
    )
    for run_id, kind, tasks, masks, spent in session.execute(query):
        row = found[str(run_id)]
        row.tasks += tasks
        row.task_masks += int(masks)
        _add_seconds(row, kind, spent)


def _add_reviews(session: Session, found: SumsByRun) -> None:
    query = (
        select(TaskRow.run_id, AnnotatorRow.kind, func.sum(VerdictRow.seconds))
        .join(TaskRow, TaskRow.id == VerdictRow.task_id)
        .join(AnnotatorRow, AnnotatorRow.id == VerdictRow.annotator_id)
        .group_by(TaskRow.run_id, AnnotatorRow.kind)
    )
    for run_id, kind, seconds in session.execute(query):
        _add_seconds(found[str(run_id)], kind, seconds)


def _add_seconds(row: RunSums, kind: AnnotatorKind | None, seconds: float) -> None:
    if kind == AnnotatorKind.SIMULATED:
        row.simulated_seconds += seconds
    else:
        row.people_seconds += seconds


def _add_shards(session: Session, found: SumsByRun) -> None:
    query = (
        select(
            ShardRow.run_id,
            func.sum(func.json_array_length(ShardRow.image_ids)),
            func.coalesce(func.sum(ShardRow.masks), 0),
            func.coalesce(func.sum(ShardRow.seconds), 0.0),
        )
        .where(ShardRow.state == ShardState.COMMITTED)
        .group_by(ShardRow.run_id)
    )
    for run_id, images, masks, seconds in session.execute(query):
        row = found[str(run_id)]
        row.shard_images, row.shard_masks = int(images), int(masks)
        row.machine_seconds = float(seconds)


def _add_verdicts(session: Session, found: SumsByRun) -> None:
    """Group verdicts by run: a mask's id begins with its run's, `RUN/IMAGE/...`."""
    is_sqlite = session.get_bind().dialect.name == "sqlite"
    place: Any = (func.instr if is_sqlite else func.strpos)(VerdictRow.mask_id, "/")
    run_id = func.substr(VerdictRow.mask_id, 1, place - 1).label("run_id")
    latest = select(latest_verdict()).group_by(VerdictRow.mask_id)
    query = (
        select(run_id, VerdictRow.verdict, func.count())
        .where(VerdictRow.id.in_(latest), place > 1)
        .group_by(run_id, VerdictRow.verdict)
    )
    for run, verdict, count in session.execute(query):
        row = found[str(run)]
        if verdict == VerdictKind.ACCEPT:
            row.accepted += count
        elif verdict == VerdictKind.FIX:
            row.fixed += count
        else:
            row.rejected += count
