"""The annotation queue: tasks are leased to one annotator at a time.

The order is: fewest skips, then highest priority, then first in; when enough people have skipped a
task it leaves the queue. A lease that expires makes its task free again, but counts until somebody
else has taken the task: late work is not thrown away while nobody else has begun.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, and_, case, func, or_, select, update
from sqlalchemy.orm import Session

from storage.catalog.database import Catalog
from storage.catalog.errors import LeaseLostError, TaskNotFoundError
from storage.catalog.sessions import (
    Clock,
    count_changed,
    insert_new,
    new_id,
    pairs,
    to_record,
)
from storage.catalog.states import RunState, TaskKind, TaskState
from storage.catalog.tables import RunRow, TaskRow

PAGE = 500
"""Tasks read at once by `submitted`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NewTask:
    """One image to work on. `payload` tells the page what it needs, e.g. masks that are
    pre-filled or under review; it carries ids and keys, not pixels."""

    dataset_id: int
    image_id: int
    kind: TaskKind
    run_id: str
    round_id: int | None = None
    priority: int = 0
    """Higher comes first."""
    payload: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """A task as it stands. While it is leased, `lease_id` renews and submits it."""

    id: int
    dataset_id: int
    image_id: int
    kind: TaskKind
    round_id: int | None
    run_id: str | None
    state: TaskState
    priority: int
    skips: int
    skipped_by: list[int] | None
    """Ids of the annotators who passed it on."""
    lease_id: str | None
    annotator_id: int | None
    lease_expires_at: datetime | None
    attempts: int
    expiries: int
    """How often a lease on it ran out."""
    payload: dict[str, Any]
    result_key: str | None
    result: dict[str, Any] | None
    shard: int | None
    """Of the mask table, in which the answer is committed (`assign_shards`)."""
    created_at: datetime
    leased_at: datetime | None
    submitted_at: datetime | None


class AnnotationQueue:
    """Tasks in the catalog's database; safe for any number of threads and processes."""

    def __init__(self, catalog: Catalog, *, clock: Clock | None = None, max_skips: int = 3) -> None:
        """
        Args:
            clock: the catalog's by default.
            max_skips: a task that so many people have skipped leaves the queue (`skipped`).

        Raises:
            ValueError: max_skips is below 1.
        """
        if max_skips < 1:
            raise ValueError(f"max_skips must be at least 1, got {max_skips}")
        self._catalog = catalog
        self._clock: Clock = clock or catalog.now
        self._max_skips = max_skips

    def add(self, tasks: Sequence[NewTask]) -> int:
        """Put tasks in the queue; a run has at most one task of a kind per image, so repeating
        this changes nothing.

        Returns:
            How many were new.

        Raises:
            ConstraintError: no such dataset, image, run or round.
        """
        common = {
            "state": TaskState.OPEN,
            "skips": 0,
            "attempts": 0,
            "created_at": self._clock(),
        }
        with self._catalog.session() as session:
            new = insert_new(session, TaskRow, [asdict(task) | common for task in tasks])
            session.commit()
            return len(new)

    def get(self, task_id: int) -> Task:
        """The task of that id.

        Raises:
            TaskNotFoundError: there is none.
        """
        with self._catalog.reading() as session:
            row = session.get(TaskRow, task_id)
            if row is None:
                raise TaskNotFoundError(f"no task with id {task_id}")
            return to_record(Task, row)

    def lease(
        self,
        annotator_id: int,
        *,
        kinds: Collection[TaskKind],
        seconds: float = 600,
        dataset_id: int | None = None,
        dataset_ids: Collection[int] | None = None,
        round_id: int | None = None,
        run_id: str | None = None,
    ) -> Task | None:
        """Take the first task in the queue's order, for one annotator alone. One that was theirs
        until the lease ran out comes before others: they may have begun it.

        Args:
            dataset_ids: only of these datasets; None: of all.

        Returns:
            The task with its `lease_id`; None when nothing is free.

        Raises:
            ValueError: no kinds, or seconds is not positive.
            ConstraintError: no such annotator.
        """
        if not kinds or seconds <= 0:
            raise ValueError(f"a lease needs kinds and a time, got {kinds} and {seconds} s")
        self.expire()
        free = [
            TaskRow.state == TaskState.OPEN,
            TaskRow.kind.in_(kinds),
            *_within(dataset_id=dataset_id, round_id=round_id, run_id=run_id),
            *_of_datasets(dataset_ids),
        ]
        first = select(TaskRow.id).where(*free).limit(1).with_for_update(skip_locked=True)
        first = first.order_by(TaskRow.skips, TaskRow.priority.desc(), TaskRow.id)
        mine = first.where(TaskRow.annotator_id == annotator_id)
        now = self._clock()
        with self._catalog.session() as session:
            while (task_id := session.scalar(mine) or session.scalar(first)) is not None:
                taken = update(TaskRow).where(*free, TaskRow.id == task_id)
                leased = count_changed(
                    session,
                    taken.values(
                        state=TaskState.LEASED,
                        lease_id=new_id(),
                        annotator_id=annotator_id,
                        lease_expires_at=now + timedelta(seconds=seconds),
                        leased_at=now,
                        attempts=TaskRow.attempts + 1,
                    ),
                )
                if leased:  # else somebody else was faster: look for the next one
                    task = to_record(Task, session.get_one(TaskRow, task_id))
                    session.commit()
                    return task
        return None

    def held(self, annotator_id: int, *, kinds: Collection[TaskKind]) -> Task | None:
        """The task the annotator holds, the one taken last where there are several."""
        query = select(TaskRow).where(
            TaskRow.annotator_id == annotator_id,
            TaskRow.state == TaskState.LEASED,
            TaskRow.kind.in_(kinds),
            TaskRow.lease_expires_at > self._clock(),
        )
        with self._catalog.reading() as session:
            row = session.scalars(query.order_by(TaskRow.leased_at.desc()).limit(1)).first()
            return None if row is None else to_record(Task, row)

    def upcoming(
        self, *, kinds: Collection[TaskKind], limit: int, dataset_ids: Collection[int] | None = None
    ) -> list[Task]:
        """The open tasks that will be handed out next, in the queue's order; of these datasets, or
        of all."""
        query = select(TaskRow).where(
            TaskRow.state == TaskState.OPEN,
            TaskRow.kind.in_(kinds),
            *_of_datasets(dataset_ids),
        )
        query = query.order_by(TaskRow.skips, TaskRow.priority.desc(), TaskRow.id).limit(limit)
        with self._catalog.reading() as session:
            return [to_record(Task, row) for row in session.scalars(query)]

    def renew(self, task_id: int, lease_id: str, seconds: float = 600) -> datetime:
        """Hold the lease for so many seconds from now.

        Returns:
            When it expires.

        Raises:
            LeaseLostError: somebody else has the task, or it was handed in.
            TaskNotFoundError: no such task.
        """
        expires = self._clock() + timedelta(seconds=seconds)
        values = {"state": TaskState.LEASED, "lease_expires_at": expires}
        self._change(task_id, lease_id, values)
        return expires

    def submit(
        self,
        task_id: int,
        lease_id: str,
        result_key: str | None = None,
        result: dict[str, Any] | None = None,
    ) -> Task:
        """Hand in a task. Submitting twice with the same lease and key keeps the first result.

        Args:
            result_key: where the object store has the result, written before this call.
            result: a small result, kept in the row.

        Returns:
            The task as it was submitted, by this call or the first one.

        Raises:
            LeaseLostError: somebody else has the task, or handed it in with another result.
            TaskNotFoundError: no such task.
        """
        values = {
            "state": TaskState.SUBMITTED,
            "result_key": result_key,
            "result": result,
            "submitted_at": self._clock(),
            "lease_expires_at": None,
        }
        try:
            self._change(task_id, lease_id, values)
        except LeaseLostError:
            task = self.get(task_id)
            same = (TaskState.SUBMITTED, lease_id, result_key)
            if (task.state, task.lease_id, task.result_key) != same:
                raise
            return task
        return self.get(task_id)

    def skip(self, task_id: int, lease_id: str) -> TaskState:
        """Send a task to the back of the queue, behind all that were skipped less often; when
        `max_skips` people have done so, however often each, it leaves the queue.

        Returns:
            `open`, or `skipped` if it has left the queue.

        Raises:
            LeaseLostError: somebody else has the task, or it was handed in.
            TaskNotFoundError: no such task.
        """
        task = self.get(task_id)  # while the lease holds, nobody else skips it
        people = sorted({*(task.skipped_by or ()), task.annotator_id or 0})
        over = len(people) >= self._max_skips
        state = TaskState.SKIPPED if over else TaskState.OPEN
        values = {"state": state, "skips": TaskRow.skips + 1, "skipped_by": people}
        self._change(task_id, lease_id, values | _GIVEN_BACK)
        return state

    def release(self, task_id: int, lease_id: str) -> None:
        """Give a task back to its place in the queue.

        Raises:
            LeaseLostError: somebody else has the task, or it was handed in.
            TaskNotFoundError: no such task.
        """
        self._change(task_id, lease_id, {"state": TaskState.OPEN} | _GIVEN_BACK)

    def requeue(self, dataset_id: int) -> int:
        """Open the tasks again that left the queue without an answer: those that too many people
        have skipped, and those whose image was quarantined. Runs that have ended stay as they are.

        Returns:
            How many.
        """
        going_on = select(RunRow.id).where(RunRow.state != RunState.FINISHED)
        quarantined = and_(
            TaskRow.state == TaskState.SUBMITTED,
            TaskRow.shard.is_(None),
            TaskRow.result["quarantined"].as_string().is_not(None),
        )
        statement = update(TaskRow).where(
            TaskRow.dataset_id == dataset_id,
            TaskRow.run_id.in_(going_on),
            or_(TaskRow.state == TaskState.SKIPPED, quarantined),
        )
        fresh = {"state": TaskState.OPEN, "skips": 0, "submitted_at": None}
        unanswered = dict.fromkeys(("skipped_by", "result_key", "result"))
        with self._catalog.session() as session:
            values = fresh | unanswered | _GIVEN_BACK
            count = count_changed(session, statement.values(**values))
            session.commit()
            return count

    def assign_shards(self, run_id: str, size: int) -> None:
        """Say which shard of the mask table each submitted answer of the run belongs to: `size` of
        them to one, in the order of their ids. Said once: an answer that has a shard keeps it, and
        those that came in later get shards of their own.
        """
        of_run = TaskRow.run_id == run_id
        waiting = and_(of_run, TaskRow.state == TaskState.SUBMITTED, TaskRow.shard.is_(None))
        with self._catalog.session() as session:
            # One at a time: two with different sizes must not mix their shards.
            session.scalar(select(RunRow.id).where(RunRow.id == run_id).with_for_update())
            last = session.scalar(select(func.max(TaskRow.shard)).where(of_run))
            ids = session.scalars(select(TaskRow.id).where(waiting).order_by(TaskRow.id)).all()
            first = 0 if last is None else last + 1
            for shard, start in enumerate(range(0, len(ids), size), first):
                part = ids[start : start + size]
                chosen = TaskRow.id.between(part[0], part[-1])
                count_changed(session, update(TaskRow).where(waiting, chosen).values(shard=shard))
            session.commit()

    def _change(self, task_id: int, lease_id: str, values: dict[str, Any]) -> None:
        statement = update(TaskRow).where(
            TaskRow.id == task_id,
            TaskRow.lease_id == lease_id,
            TaskRow.state.in_([TaskState.LEASED, TaskState.OPEN]),  # open: expired, not taken
        )
        with self._catalog.session() as session:
            if not count_changed(session, statement.values(**values)):
                row = session.get(TaskRow, task_id)
                if row is None:
                    raise TaskNotFoundError(f"no task with id {task_id}")
                raise LeaseLostError(
                    f"the lease {lease_id} on task {task_id} ({row.state}) is lost"
                )
            session.commit()

    def expire(self, now: datetime | None = None) -> int:
        """Free the tasks whose lease has run out. `lease` does so itself; call it to have right
        counts.

        Returns:
            How many were freed.
        """
        run_out = (
            TaskRow.state == TaskState.LEASED,
            TaskRow.lease_expires_at <= (now or self._clock()),
        )
        # In the order of ids and past locked rows, so that two of these never wait in a circle.
        ids = select(TaskRow.id).where(*run_out).order_by(TaskRow.id)
        with self._catalog.session() as session:
            freed = session.scalars(ids.with_for_update(skip_locked=True)).all()
            if freed:
                statement = update(TaskRow).where(*run_out, TaskRow.id.in_(freed))
                count_changed(
                    session,
                    statement.values(state=TaskState.OPEN, expiries=TaskRow.expiries + 1),
                )
                session.commit()
            return len(freed)

    def counts(
        self,
        *,
        dataset_id: int | None = None,
        round_id: int | None = None,
        run_id: str | None = None,
    ) -> dict[TaskState, int]:
        """How many tasks are in each state."""
        within = _within(dataset_id=dataset_id, round_id=round_id, run_id=run_id)
        query = select(TaskRow.state, func.count()).where(*within).group_by(TaskRow.state)
        with self._catalog.reading() as session:
            found = pairs(session, query)
            return {state: found.get(state, 0) for state in TaskState}

    def by_kind(
        self, *, dataset_ids: Collection[int] | None = None
    ) -> dict[TaskKind, dict[str, int]]:
        """For each kind how many tasks are in each state, and how many seconds ago the oldest open
        one was made (`oldest_seconds`, 0 where there is none); of these datasets, or of all."""
        within = _of_datasets(dataset_ids)
        counted = select(TaskRow.kind, TaskRow.state, func.count()).where(*within)
        oldest = select(TaskRow.kind, func.min(TaskRow.created_at)).where(*within)
        oldest = oldest.where(TaskRow.state == TaskState.OPEN).group_by(TaskRow.kind)
        found: dict[TaskKind, dict[str, int]] = {
            kind: {**dict.fromkeys(map(str, TaskState), 0), "oldest_seconds": 0}
            for kind in TaskKind
        }
        with self._catalog.reading() as session:
            for kind, state, count in session.execute(
                counted.group_by(TaskRow.kind, TaskRow.state)
            ):
                found[kind][str(state)] = count
            for kind, first in session.execute(oldest):
                age = (self._clock() - first).total_seconds()
                found[kind]["oldest_seconds"] = max(0, int(age))
        return found

    def by_annotator(self) -> list[dict[str, Any]]:
        """For each annotator who has handed tasks in: `annotator_id`, `tasks`, `masks` and
        `seconds` over those of stages 1 and 2, `reviews` (tasks of review), and `last_seen`."""
        is_review = TaskRow.kind == TaskKind.REVIEW
        made = TaskRow.result["made"].as_integer()
        kept = TaskRow.result["prefilled_kept"].as_integer()
        seconds = TaskRow.result["seconds"].as_float()
        query = (
            select(
                TaskRow.annotator_id,
                func.sum(case((is_review, 0), else_=1)),
                func.coalesce(func.sum(case((is_review, 0), else_=made)), 0)
                + func.coalesce(func.sum(case((is_review, 0), else_=kept)), 0),
                func.coalesce(func.sum(case((is_review, 0.0), else_=seconds)), 0.0),
                func.sum(case((is_review, 1), else_=0)),
                func.max(TaskRow.submitted_at),
            )
            .where(TaskRow.state == TaskState.SUBMITTED, TaskRow.annotator_id.is_not(None))
            .group_by(TaskRow.annotator_id)
        )
        names = ("annotator_id", "tasks", "masks", "seconds", "reviews", "last_seen")
        with self._catalog.reading() as session:
            return [dict(zip(names, row, strict=True)) for row in session.execute(query)]

    def latest(self, limit: int, *, kinds: Collection[TaskKind]) -> list[Task]:
        """The tasks of these kinds that were handed in last, the newest first."""
        query = select(TaskRow).where(TaskRow.state == TaskState.SUBMITTED, TaskRow.kind.in_(kinds))
        query = query.order_by(TaskRow.submitted_at.desc(), TaskRow.id.desc()).limit(limit)
        with self._catalog.reading() as session:
            return [to_record(Task, row) for row in session.scalars(query)]

    def pending(self, run_id: str) -> int:
        """How many tasks of the run still wait for somebody or are being worked on."""
        counts = self.counts(run_id=run_id)
        return counts[TaskState.OPEN] + counts[TaskState.LEASED]

    def submitted(self, run_id: str) -> Iterator[Task]:
        """The run's submitted tasks by id. No transaction is open between two of them."""
        query = select(TaskRow).where(
            TaskRow.run_id == run_id, TaskRow.state == TaskState.SUBMITTED
        )
        last = 0
        while True:
            with self._catalog.reading() as session:
                page = self._page(session, query.where(TaskRow.id > last))
            yield from page
            if len(page) < PAGE:
                return
            last = page[-1].id

    @staticmethod
    def _page(session: Session, query: Any) -> list[Task]:
        rows = session.scalars(query.order_by(TaskRow.id).limit(PAGE))
        return [to_record(Task, row) for row in rows]


_GIVEN_BACK: dict[str, Any] = {"lease_id": None, "annotator_id": None, "lease_expires_at": None}


def _within(
    *, dataset_id: int | None, round_id: int | None, run_id: str | None
) -> list[ColumnElement[bool]]:
    given = (
        (TaskRow.dataset_id, dataset_id),
        (TaskRow.round_id, round_id),
        (TaskRow.run_id, run_id),
    )
    return [column == value for column, value in given if value is not None]


def _of_datasets(dataset_ids: Collection[int] | None) -> list[ColumnElement[bool]]:
    return [] if dataset_ids is None else [TaskRow.dataset_id.in_(dataset_ids)]
