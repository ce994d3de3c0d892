"""The annotation queue: tasks are leased to one annotator at a time.

The order is: fewest skips, then highest priority, then lowest id. A task that enough annotators
have skipped leaves the queue. An expired lease frees its task, but stays valid until somebody else
takes the task, so late work is kept while nobody else has begun.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, func, or_, select, update
from sqlalchemy.orm import Session, aliased

from engine.core.batches import batches
from storage.catalog.database import Catalog
from storage.catalog.errors import LeaseLostError, TaskNotFoundError
from storage.catalog.sessions import Clock, count_changed, insert_new, new_id
from storage.catalog.states import RunState, TaskKind, TaskState
from storage.catalog.tables import AnnotatorRow, RunRow, TaskRow
from storage.catalog.tasks import (
    GOLD,
    NewTask,
    Task,
    TaskQueries,
    TaskResult,
    not_gold,
    of_datasets,
    of_work,
    task_of,
)

MAX_SKIPS = 3
"""A task that this many annotators have skipped leaves the queue (`skipped`)."""

BATCH = 500
"""Ids in one statement."""


class AnnotationQueue(TaskQueries):
    """Tasks in the catalog's database. Safe for threads and processes."""

    def __init__(self, catalog: Catalog, *, clock: Clock | None = None) -> None:
        """The clock is the catalog's by default."""
        super().__init__(catalog, clock or catalog.now)

    def add(self, tasks: Sequence[NewTask]) -> int:
        """Add tasks to the queue. A run has at most one task of a kind per image, so repeating this
        changes nothing.

        Returns:
            The number of new tasks.

        Raises:
            ConstraintError: no such dataset, image, run or round.
        """
        common = {
            "state": TaskState.OPEN,
            "skips": 0,
            "attempts": 0,
            "created_at": self._clock(),
        }
        return self._sessions.insert(TaskRow, [asdict(task) | common for task in tasks])

    def lease(
        self,
        annotator_id: int,
        *,
        kinds: Collection[TaskKind],
        seconds: float = 600,
        dataset_ids: Collection[int] | None = None,
        run_id: str | None = None,
        task_id: int | None = None,
    ) -> Task | None:
        """Lease the first task in the queue's order to one annotator. Tasks that are reserved for
        them, and those whose lease they let expire, come before others. Nobody gets a second copy
        of an image.

        Args:
            seconds: duration of the lease.
            dataset_ids: only tasks of these datasets; None: of all.
            task_id: only this task.

        Returns:
            The task with its `lease_id`; None if none is free.

        Raises:
            ValueError: no kinds, or seconds is not positive.
            ConstraintError: no such annotator.
        """
        if not kinds or seconds <= 0:
            raise ValueError(f"a lease needs kinds and a time, got {kinds} and {seconds} s")
        self.expire()
        free = [
            *free_for(annotator_id, kinds),
            *of_work(run_id=run_id),
            *of_datasets(dataset_ids),
            *([] if task_id is None else [TaskRow.id == task_id]),
        ]
        choices = _in_order(annotator_id, free)
        now = self._clock()
        with self._sessions.session() as session:
            # one lease of an annotator at a time: two must not get two copies of an image
            mine_only = select(AnnotatorRow.id).where(AnnotatorRow.id == annotator_id)
            session.scalar(mine_only.with_for_update(key_share=True))
            while (found := _first_of(session, choices)) is not None:
                taken = update(TaskRow).where(*free, TaskRow.id == found)
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
                if leased:  # else somebody else was faster: try the next one
                    task = task_of(session.get_one(TaskRow, found))
                    session.commit()
                    return task
        return None

    def next_fresh(
        self,
        annotator_id: int,
        *,
        kinds: Collection[TaskKind],
        dataset_ids: Collection[int] | None = None,
    ) -> Task | None:
        """The task that `lease` would give the annotator, if `exchange` takes it, else None."""
        self.expire()
        free = [*free_for(annotator_id, kinds), *of_datasets(dataset_ids)]
        with self._sessions.session() as session:
            task_id = _first_of(session, _in_order(annotator_id, free))
            fresh = select(TaskRow).where(TaskRow.id == task_id, *_fresh())
            row = None if task_id is None else session.scalar(fresh)
            return None if row is None else task_of(row)

    def exchange(self, task_id: int, other: NewTask) -> bool:
        """Put another task in the place of an open one, under its id; the open one gets a new id.
        Only a task that nobody has ever taken, is reserved or copied can be exchanged.

        Returns:
            Whether it was exchanged.

        Raises:
            ConstraintError: the other task's run has one of its kind on its image already.
        """
        instead = update(TaskRow).where(TaskRow.id == task_id, *_fresh())
        with self._sessions.session() as session:
            row = session.get(TaskRow, task_id, with_for_update=True)
            if row is None:
                return False
            names = [column.name for column in TaskRow.__table__.columns if column.name != "id"]
            moved = {name: getattr(row, name) for name in names}
            if not count_changed(session, instead.values(**asdict(other))):
                return False
            insert_new(session, TaskRow, [moved])
            session.commit()
            return True

    def renew(self, task_id: int, lease_id: str, seconds: float = 600) -> datetime:
        """Renew the lease for this many seconds from now.

        Returns:
            When it expires.

        Raises:
            LeaseLostError: somebody else has the task, or it was submitted.
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
        result: TaskResult | None = None,
    ) -> Task:
        """Submit a task. Submitting twice with the same lease and key keeps the first result.

        Args:
            result_key: key of the result in the object store, written before this call.
            result: stored in the row.

        Returns:
            The task as submitted, by this call or the first one.

        Raises:
            LeaseLostError: somebody else has the task, or submitted it with another result.
            TaskNotFoundError: no such task.
        """
        values = {
            "state": TaskState.SUBMITTED,
            "result_key": result_key,
            "result": None if result is None else result.to_json(),
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
        """Send a task to the back of the queue, behind all with fewer skips. Once MAX_SKIPS
        different annotators have skipped it, it leaves the queue; a gold task at once.

        Returns:
            `open`; `skipped` if it has left the queue; `submitted` if it was reopened.

        Raises:
            LeaseLostError: somebody else has the task, or it was submitted.
            TaskNotFoundError: no such task.
        """
        task = self.get(task_id)  # while the lease holds, nobody else skips it
        if task.result_key is not None:
            return self.release(task_id, lease_id)
        people = sorted({*(task.skipped_by or ()), task.annotator_id or 0})
        over = len(people) >= MAX_SKIPS or GOLD in task.payload
        state = TaskState.SKIPPED if over else TaskState.OPEN
        values = {"state": state, "skips": TaskRow.skips + 1, "skipped_by": people}
        self._change(task_id, lease_id, values | _NO_LEASE)
        return state

    def release(self, task_id: int, lease_id: str) -> TaskState:
        """Return a task to its place in the queue.

        Returns:
            `open`, or `submitted` if it was reopened.

        Raises:
            LeaseLostError: somebody else has the task, or it was submitted.
            TaskNotFoundError: no such task.
        """
        is_reopened = self.get(task_id).result_key is not None
        values = _AS_BEFORE if is_reopened else {"state": TaskState.OPEN} | _NO_LEASE
        self._change(task_id, lease_id, values)
        return TaskState.SUBMITTED if is_reopened else TaskState.OPEN

    def unreserve_returns(self, run_id: str) -> int:
        """Let everybody take the open tasks of a run of returned images; returns their number."""
        statement = update(TaskRow).where(
            TaskRow.state == TaskState.OPEN,
            TaskRow.payload["return_of"].as_integer().is_not(None),
            TaskRow.reserved_for.is_not(None),
            TaskRow.run_id == run_id,
        )
        return self._sessions.change(statement.values(reserved_for=None))

    def reserve(
        self,
        annotator_id: int,
        dataset_id: int,
        *,
        kinds: Collection[TaskKind],
        limit: int | None = None,
        image_ids: Collection[int] | None = None,
    ) -> int:
        """Reserve open tasks of a dataset for one annotator, the first ones in the queue's order:
        at most `limit`, on these images or all. Tasks that are reserved already and images that
        several people annotate are left out.

        Returns:
            The number of reserved tasks.

        """
        free = [
            TaskRow.state == TaskState.OPEN,
            TaskRow.reserved_for.is_(None),
            TaskRow.dataset_id == dataset_id,
            TaskRow.kind.in_(kinds),
            *_no_copies(),
            *([] if image_ids is None else [TaskRow.image_id.in_(image_ids)]),
        ]
        order = (TaskRow.skips, TaskRow.priority.desc(), TaskRow.id)
        first = select(TaskRow.id).where(*free).order_by(*order).limit(limit)
        with self._sessions.session() as session:
            chosen = session.scalars(first.with_for_update(skip_locked=True)).all()
            reserved = 0
            for ids in batches(chosen, BATCH):
                mine = update(TaskRow).where(*free, TaskRow.id.in_(ids))
                reserved += count_changed(session, mine.values(reserved_for=annotator_id))
            session.commit()
            return reserved

    def unreserve(self, *, annotator_id: int, dataset_id: int | None = None) -> int:
        """Let everybody take the open tasks that are reserved for an annotator, of a dataset or of
        all; returns their number. Gold tasks stay: they are scored for one person only."""
        reserved = update(TaskRow).where(
            TaskRow.state == TaskState.OPEN,
            TaskRow.reserved_for == annotator_id,
            not_gold(),
            *([] if dataset_id is None else of_datasets([dataset_id])),
        )
        return self._sessions.change(reserved.values(reserved_for=None))

    def drop_gold(self, annotator_id: int) -> int:
        """Take the open gold tasks of an annotator out of the queue; returns their number."""
        gold = update(TaskRow).where(
            TaskRow.state == TaskState.OPEN, TaskRow.reserved_for == annotator_id, ~not_gold()
        )
        return self._sessions.change(gold.values(state=TaskState.SKIPPED))

    def requeue(self, dataset_id: int) -> int:
        """Reopen tasks that left the queue without a result: those skipped by too many annotators,
        and those whose image was quarantined. Finished runs stay as they are.

        Returns:
            The number of reopened tasks.
        """
        unfinished = select(RunRow.id).where(RunRow.state != RunState.FINISHED)
        quarantined = and_(
            TaskRow.state == TaskState.SUBMITTED,
            TaskRow.shard.is_(None),
            TaskRow.result["quarantined"].as_string().is_not(None),
        )
        statement = update(TaskRow).where(
            TaskRow.dataset_id == dataset_id,
            TaskRow.run_id.in_(unfinished),
            or_(TaskRow.state == TaskState.SKIPPED, quarantined),
        )
        fresh = {"state": TaskState.OPEN, "skips": 0, "submitted_at": None}
        empty = dict.fromkeys(("skipped_by", "result_key", "result"))
        values: dict[str, Any] = fresh | empty | _NO_LEASE
        return self._sessions.change(statement.values(**values))

    def assign_shards(self, run_id: str, size: int) -> None:
        """Assign the run's submitted tasks to shards of the mask table, `size` to each, in the
        order of their ids. A task keeps its shard; tasks submitted later get new shards.
        """
        of_run = TaskRow.run_id == run_id
        waiting = and_(of_run, TaskRow.state == TaskState.SUBMITTED, TaskRow.shard.is_(None))
        with self._sessions.session() as session:
            # One process at a time: two sizes must not mix their shards.
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
        with self._sessions.session() as session:
            if not count_changed(session, statement.values(**values)):
                row = session.get(TaskRow, task_id)
                if row is None:
                    raise TaskNotFoundError(f"no task with id {task_id}")
                raise LeaseLostError(
                    f"the lease {lease_id} on task {task_id} ({row.state}) is lost"
                )
            session.commit()

    def expire(self, now: datetime | None = None) -> int:
        """Free the tasks whose lease has expired, as `lease` does; call it for exact counts.

        Returns:
            The number of freed tasks.
        """
        expired = (
            TaskRow.state == TaskState.LEASED,
            TaskRow.lease_expires_at <= (now or self._clock()),
        )
        # In the order of ids and past locked rows, so that two calls cannot deadlock.
        ids = select(TaskRow.id).where(*expired).order_by(TaskRow.id)
        with self._sessions.session() as session:
            freed = session.scalars(ids.with_for_update(skip_locked=True)).all()
            if freed:
                statement = update(TaskRow).where(*expired, TaskRow.id.in_(freed))
                reopened = statement.where(TaskRow.result_key.is_not(None))
                count_changed(session, reopened.values(**_AS_BEFORE))
                count_changed(
                    session,
                    statement.values(state=TaskState.OPEN, expiries=TaskRow.expiries + 1),
                )
                session.commit()
            return len(freed)


def free_for(annotator_id: int, kinds: Collection[TaskKind]) -> list[ColumnElement[bool]]:
    """Conditions for the open tasks that the annotator may take."""
    reserved_for = TaskRow.reserved_for
    return [
        TaskRow.state == TaskState.OPEN,
        or_(reserved_for.is_(None), reserved_for == annotator_id),
        TaskRow.kind.in_(kinds),
        _no_other_copy(annotator_id),
    ]


def _in_order(annotator_id: int, free: Sequence[ColumnElement[bool]]) -> list[Select[int]]:
    """Queries for the first free task, in the order of a lease: of those reserved for the
    annotator, of those whose lease they let expire, of all."""
    first = select(TaskRow.id).where(*free).limit(1).with_for_update(skip_locked=True)
    first = first.order_by(TaskRow.skips, TaskRow.priority.desc(), TaskRow.id)
    mine = first.where(TaskRow.annotator_id == annotator_id)
    return [first.where(TaskRow.reserved_for == annotator_id), mine, first]


def _fresh() -> list[ColumnElement[bool]]:
    """Conditions for open tasks that nothing refers to: never taken, reserved or copied."""
    return [
        TaskRow.state == TaskState.OPEN,
        TaskRow.attempts == 0,
        TaskRow.reserved_for.is_(None),
        *_no_copies(),
    ]


def _no_copies() -> list[ColumnElement[bool]]:
    """Conditions for tasks that are no copies and have none."""
    copy = aliased(TaskRow)
    copied = select(copy.id).where(copy.copy_of == TaskRow.id)
    return [TaskRow.copy_of.is_(None), ~copied.exists()]


def _no_other_copy(annotator_id: int) -> ColumnElement[bool]:
    """Whether the annotator has no other task of the same group of copies."""
    other = aliased(TaskRow)
    same = or_(
        other.copy_of == TaskRow.id, other.id == TaskRow.copy_of, other.copy_of == TaskRow.copy_of
    )
    mine = select(other.id).where(same, other.id != TaskRow.id)
    return ~mine.where(other.annotator_id == annotator_id).exists()


def _first_of(session: Session, choices: Sequence[Select[int]]) -> int | None:
    """The first id that one of the queries finds, in their order."""
    return next((found for query in choices if (found := session.scalar(query))), None)


_AS_BEFORE = {"state": TaskState.SUBMITTED, "lease_id": None, "lease_expires_at": None}
"""Of a reopened task that is given back."""
_NO_LEASE: dict[str, Any] = {"lease_id": None, "annotator_id": None, "lease_expires_at": None}
