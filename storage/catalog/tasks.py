"""Tasks of the annotation queue as records, their results, and queries over them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import astuple, dataclass, field, fields
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Select, case, func, or_, select
from sqlalchemy.orm import aliased

from storage.catalog.errors import TaskNotFoundError
from storage.catalog.sessions import Clock, Repository, Sessions
from storage.catalog.states import RunKind, RunState, TaskKind, TaskState, VerdictKind
from storage.catalog.tables import RunRow, TaskRow

GOLD = "gold"
"""In the payload of a gold task: the run and round of the task in whose place it is."""

PAGE = 500
"""Tasks read at once by `submitted`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskVerdict:
    """A reviewer's verdict on one mask of a task; stored as a list of these fields."""

    mask_id: str
    verdict: VerdictKind
    seconds: float
    fixed_mask_id: str | None = None
    reason: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskLabel:
    """A label that was submitted with a task, for one of its masks; stored as a list of these
    fields. `category_id` None: the mask belongs to no category. `annotator_id`: who gave it, if it
    is not the task's annotator."""

    mask_id: str
    category_id: int | None
    seconds: float | None = None
    annotator_id: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskResult:
    """What was submitted for a task, beside its masks."""

    made: int = 0
    """Masks that the annotator drew."""
    clicks: int = 0
    strokes: int = 0
    seconds: float = 0.0
    """The annotator's time in seconds."""
    prefilled: int | None = None
    """Pre-filled masks of a `complete` task; None for other kinds."""
    prefilled_kept: int | None = None
    """The number of them that the annotator kept."""
    verdicts: tuple[TaskVerdict, ...] = ()
    """Of a `review` task; of a returned one, the masks that the annotator rejected."""
    labels: tuple[TaskLabel, ...] = ()
    """Of drawn, kept and judged masks."""
    returned: bool | None = None
    """Whether a `review` task was returned to the annotator instead of judged."""
    trajectories: str | None = None
    """Key of the object with the trajectories of the masks."""
    quarantined: str | None = None
    """Why the image could not be read; all other fields are empty then."""

    @property
    def masks(self) -> int:
        """Masks of stages 1 and 2: drawn ones and kept pre-filled ones."""
        return self.made + (self.prefilled_kept or 0)

    def to_json(self) -> dict[str, Any]:
        """The stored form. Fields without a value are left out."""
        if self.quarantined is not None:
            return {"quarantined": self.quarantined}
        values = {name: getattr(self, name) for name in _PLAIN}
        found = {name: value for name, value in values.items() if value is not None}
        if self.verdicts:
            found["verdicts"] = [
                [v.mask_id, str(v.verdict), v.seconds, v.fixed_mask_id, v.reason]
                for v in self.verdicts
            ]
        if self.labels:
            found["labels"] = [list(astuple(label)) for label in self.labels]
        return found

    @classmethod
    def from_json(cls, stored: Mapping[str, Any] | None) -> TaskResult:
        """Parse the stored form, which may lack fields; verdicts without a reason have four
        entries. None gives an empty result."""
        stored = stored or {}
        verdicts = tuple(
            TaskVerdict(
                mask_id=mask_id,
                verdict=VerdictKind(verdict),
                seconds=seconds,
                fixed_mask_id=fixed,
                reason=reason[0] if reason else None,
            )
            for mask_id, verdict, seconds, fixed, *reason in stored.get("verdicts", ())
        )
        names = [item.name for item in fields(TaskLabel)]
        labels = tuple(
            TaskLabel(**dict(zip(names, row, strict=True))) for row in stored.get("labels", ())
        )
        plain = {name: stored[name] for name in _PLAIN if name in stored}
        return cls(verdicts=verdicts, labels=labels, **plain)


_PLAIN = tuple(f.name for f in fields(TaskResult) if f.name not in ("verdicts", "labels"))


@dataclass(frozen=True, kw_only=True, slots=True)
class NewTask:
    """One image to work on. `payload` has what the page needs, e.g. ids and keys of masks that are
    pre-filled or under review."""

    dataset_id: int
    image_id: int
    kind: TaskKind
    run_id: str
    round_id: int | None = None
    priority: int = 0
    """Higher comes first."""
    copy_of: int | None = None
    """Id of the task of whose image this is another annotator's copy, in a run of its own."""
    reserved_for: int | None = None
    """Id of the only annotator who may take it."""
    payload: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """A task in its current state. While it is leased, `lease_id` renews and submits it."""

    id: int
    dataset_id: int
    image_id: int
    kind: TaskKind
    round_id: int | None
    run_id: str | None
    copy_of: int | None
    reserved_for: int | None
    state: TaskState
    priority: int
    skips: int
    skipped_by: list[int] | None
    """Ids of the annotators who skipped it."""
    lease_id: str | None
    annotator_id: int | None
    lease_expires_at: datetime | None
    attempts: int
    expiries: int
    """How often a lease on it expired."""
    payload: dict[str, Any]
    result_key: str | None
    result: TaskResult
    """Empty before submission."""
    shard: int | None
    """Shard of the mask table for its masks (`assign_shards`)."""
    created_at: datetime
    leased_at: datetime | None
    submitted_at: datetime | None


@dataclass(frozen=True, kw_only=True, slots=True)
class AnnotatorWork:
    """The submitted work of an annotator."""

    tasks: int = 0
    """Of stages 1 and 2, like `masks` and `seconds`."""
    masks: int = 0
    seconds: float = 0.0
    reviews: int = 0
    """Review tasks."""
    last_seen: datetime | None = None


def task_of(row: TaskRow) -> Task:
    """Copy a row into its record."""
    values = {item.name: getattr(row, item.name) for item in fields(Task)}
    return Task(**values | {"result": TaskResult.from_json(row.result)})


def submitted_masks() -> ColumnElement[int]:
    """`TaskResult.masks` in SQL."""
    made, kept = TaskRow.result["made"], TaskRow.result["prefilled_kept"]
    return func.coalesce(made.as_integer(), 0) + func.coalesce(kept.as_integer(), 0)


def not_gold() -> ColumnElement[bool]:
    """The condition that a task is no gold task; gold tasks count as nobody's work."""
    run = aliased(RunRow)
    gold = select(run.id).where(run.id == TaskRow.run_id, run.kind == RunKind.GOLD)
    return ~gold.exists()


class TaskQueries(Repository):
    """Queries on the annotation queue that change nothing."""

    def __init__(self, sessions: Sessions, clock: Clock) -> None:
        super().__init__(sessions)
        self._clock = clock

    def get(self, task_id: int) -> Task:
        """The task of that id.

        Raises:
            TaskNotFoundError: no such task.
        """
        found = self._tasks(select(TaskRow).where(TaskRow.id == task_id))
        if not found:
            raise TaskNotFoundError(f"no task with id {task_id}")
        return found[0]

    def held(self, annotator_id: int, *, kinds: Collection[TaskKind]) -> Task | None:
        """The task the annotator holds, or None; the last taken one if there are several."""
        query = select(TaskRow).where(
            TaskRow.annotator_id == annotator_id,
            TaskRow.state == TaskState.LEASED,
            TaskRow.kind.in_(kinds),
            TaskRow.lease_expires_at > self._clock(),
        )
        found = self._tasks(query.order_by(TaskRow.leased_at.desc()).limit(1))
        return found[0] if found else None

    def upcoming(
        self, *, kinds: Collection[TaskKind], limit: int, dataset_ids: Collection[int] | None = None
    ) -> list[Task]:
        """The next open tasks in the queue's order, of these datasets or all."""
        query = select(TaskRow).where(
            TaskRow.state == TaskState.OPEN,
            TaskRow.kind.in_(kinds),
            *of_datasets(dataset_ids),
        )
        order = (TaskRow.skips, TaskRow.priority.desc(), TaskRow.id)
        return self._tasks(query.order_by(*order).limit(limit))

    def latest(self, limit: int, *, kinds: Collection[TaskKind]) -> list[Task]:
        """The last submitted tasks of these kinds, newest first, without gold tasks."""
        query = select(TaskRow).where(
            TaskRow.state == TaskState.SUBMITTED, TaskRow.kind.in_(kinds), not_gold()
        )
        order = (TaskRow.submitted_at.desc(), TaskRow.id.desc())
        return self._tasks(query.order_by(*order).limit(limit))

    def submitted(self, run_id: str) -> Iterator[Task]:
        """The run's submitted tasks by id. No transaction stays open between pages."""
        query = select(TaskRow).where(
            TaskRow.run_id == run_id, TaskRow.state == TaskState.SUBMITTED
        )
        query, last = query.order_by(TaskRow.id).limit(PAGE), 0
        while page := self._tasks(query.where(TaskRow.id > last)):
            yield from page
            if len(page) < PAGE:
                return
            last = page[-1].id

    def waiting_images(self, dataset_id: int, *, kinds: Collection[TaskKind]) -> set[int]:
        """The images of the dataset's open and leased tasks of these kinds."""
        return self.images(dataset_id, kinds=kinds, states=(TaskState.OPEN, TaskState.LEASED))

    def images(
        self, dataset_id: int, *, kinds: Collection[TaskKind], states: Collection[TaskState]
    ) -> set[int]:
        """The images of the dataset's tasks of these kinds in these states."""
        query = select(TaskRow.image_id).where(
            TaskRow.dataset_id == dataset_id, TaskRow.state.in_(states), TaskRow.kind.in_(kinds)
        )
        return set(self._sessions.values(query))

    def completed(self, dataset_id: int) -> list[Task]:
        """The tasks of finished runs in which somebody saw an image with masks and could add what
        was missing, by id; without gold tasks, copies and images that could not be read."""
        query = select(TaskRow).join(RunRow, RunRow.id == TaskRow.run_id)
        query = query.where(
            TaskRow.dataset_id == dataset_id,
            TaskRow.kind == TaskKind.COMPLETE,
            TaskRow.state == TaskState.SUBMITTED,
            TaskRow.copy_of.is_(None),
            TaskRow.result["quarantined"].as_string().is_(None),
            RunRow.state == RunState.FINISHED,
            RunRow.kind != RunKind.GOLD,
        )
        return self._tasks(query.order_by(TaskRow.id))

    def of_run(self, run_id: str, *, image_ids: Collection[int] | None = None) -> list[Task]:
        """The tasks of a run, by id: on these images, or all of a run that has few."""
        query = select(TaskRow).where(TaskRow.run_id == run_id)
        if image_ids is not None:
            query = query.where(TaskRow.image_id.in_(image_ids))
        return self._tasks(query.order_by(TaskRow.id))

    def has_worked(self, annotator_id: int, image_id: int) -> bool:
        """Whether the annotator has submitted a task on the image, or holds one."""
        query = select(TaskRow.id).where(
            TaskRow.image_id == image_id,
            TaskRow.annotator_id == annotator_id,
            TaskRow.state.in_([TaskState.LEASED, TaskState.SUBMITTED]),
        )
        return self._sessions.value(query.limit(1)) is not None

    def worked_since(self, annotator_id: int, since: datetime) -> bool:
        """Whether the annotator has submitted a task since then."""
        query = select(TaskRow.id).where(
            TaskRow.annotator_id == annotator_id,
            TaskRow.state == TaskState.SUBMITTED,
            TaskRow.submitted_at > since,
        )
        return self._sessions.value(query.limit(1)) is not None

    def reserved(self) -> dict[int, int]:
        """How many open tasks are reserved for annotators, by their ids; without gold tasks."""
        query = select(TaskRow.reserved_for, func.count()).where(
            TaskRow.state == TaskState.OPEN, TaskRow.reserved_for.is_not(None), not_gold()
        )
        with self._sessions.reading() as session:
            rows = session.execute(query.group_by(TaskRow.reserved_for))
            return {int(found or 0): tasks for found, tasks in rows}

    def counts(
        self,
        *,
        round_id: int | None = None,
        run_id: str | None = None,
    ) -> dict[TaskState, int]:
        """How many tasks are in each state."""
        within = of_work(round_id=round_id, run_id=run_id)
        query = select(TaskRow.state, func.count()).where(*within).group_by(TaskRow.state)
        return self._sessions.counts(query, TaskState)

    def pending(self, run_id: str) -> int:
        """The number of the run's tasks that are open or leased."""
        counts = self.counts(run_id=run_id)
        return counts[TaskState.OPEN] + counts[TaskState.LEASED]

    def by_kind(
        self, *, dataset_ids: Collection[int] | None = None
    ) -> dict[TaskKind, dict[str, int]]:
        """By kind, the number of tasks by state, and the age in seconds of the oldest open one
        (`oldest_seconds`, 0 if there is none); of these datasets or all, without gold tasks."""
        within = [*of_datasets(dataset_ids), not_gold()]
        counted = select(TaskRow.kind, TaskRow.state, func.count()).where(*within)
        oldest = select(TaskRow.kind, func.min(TaskRow.created_at)).where(*within)
        oldest = oldest.where(TaskRow.state == TaskState.OPEN).group_by(TaskRow.kind)
        found: dict[TaskKind, dict[str, int]] = {
            kind: {**dict.fromkeys(map(str, TaskState), 0), "oldest_seconds": 0}
            for kind in TaskKind
        }
        with self._sessions.reading() as session:
            for kind, state, count in session.execute(
                counted.group_by(TaskRow.kind, TaskRow.state)
            ):
                found[kind][str(state)] = count
            for kind, first in session.execute(oldest):
                age = (self._clock() - first).total_seconds()
                found[kind]["oldest_seconds"] = max(0, int(age))
        return found

    def by_annotator(self) -> dict[int, AnnotatorWork]:
        """The work of the annotators who have submitted tasks, by id; gold tasks count as seen."""
        is_review = TaskRow.kind == TaskKind.REVIEW
        is_other = or_(is_review, ~not_gold())
        seconds = TaskRow.result["seconds"].as_float()
        query = (
            select(
                TaskRow.annotator_id,
                func.sum(case((is_other, 0), else_=1)),
                func.sum(case((is_other, 0), else_=submitted_masks())),
                func.coalesce(func.sum(case((is_other, 0.0), else_=seconds)), 0.0),
                func.sum(case((is_review, 1), else_=0)),
                func.max(TaskRow.submitted_at),
            )
            .where(TaskRow.state == TaskState.SUBMITTED, TaskRow.annotator_id.is_not(None))
            .group_by(TaskRow.annotator_id)
        )
        with self._sessions.reading() as session:
            return {
                annotator_id: AnnotatorWork(
                    tasks=tasks, masks=masks, seconds=spent, reviews=reviews, last_seen=last_seen
                )
                for annotator_id, tasks, masks, spent, reviews, last_seen in session.execute(query)
            }

    def _tasks(self, query: Select[TaskRow]) -> list[Task]:
        with self._sessions.reading() as session:
            return [task_of(row) for row in session.scalars(query)]


def of_work(*, round_id: int | None = None, run_id: str | None = None) -> list[ColumnElement[bool]]:
    """Conditions for the tasks of a round or run, where it is given."""
    given = ((TaskRow.round_id, round_id), (TaskRow.run_id, run_id))
    return [column == value for column, value in given if value is not None]


def of_datasets(dataset_ids: Collection[int] | None) -> list[ColumnElement[bool]]:
    """Conditions for the tasks of these datasets, or all."""
    return [] if dataset_ids is None else [TaskRow.dataset_id.in_(dataset_ids)]
