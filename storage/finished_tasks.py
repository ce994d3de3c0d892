"""Tasks that an annotator has submitted, and taking one of them again."""

from __future__ import annotations

from collections.abc import Collection
from datetime import timedelta

from sqlalchemy import ColumnElement, Select, func, or_, select, update
from sqlalchemy.orm import aliased

from storage.catalog.errors import StaleStateError
from storage.catalog.sessions import count_changed, new_id
from storage.catalog.states import RoundState, TaskKind, TaskState
from storage.catalog.tables import RoundRow, TaskRow
from storage.catalog.tasks import Task, TaskQueries, not_gold, of_datasets, task_of

PENDING = (TaskState.OPEN, TaskState.LEASED)


class FinishedTasks(TaskQueries):
    """Submitted tasks of stages 1 and 2 in a catalog's database."""

    def page(
        self,
        annotator_id: int,
        *,
        dataset_ids: Collection[int] | None = None,
        offset: int = 0,
        limit: int = 60,
    ) -> tuple[int, list[Task]]:
        """How many tasks an annotator has submitted, of these datasets or all, and a page of them,
        the latest first."""
        mine = (*_of(annotator_id), *of_datasets(dataset_ids))
        order = (TaskRow.submitted_at.desc(), TaskRow.id.desc())
        page = select(TaskRow).where(*mine).order_by(*order).offset(offset).limit(limit)
        total = self._sessions.value(select(func.count()).select_from(TaskRow).where(*mine)) or 0
        return total, self._tasks(page)

    def reopenable(self, annotator_id: int, task_ids: Collection[int]) -> set[int]:
        """Which of these tasks `reopen` would take."""
        query = select(TaskRow.id).where(
            TaskRow.id.in_(task_ids), *_reopenable(annotator_id), _others().exists()
        )
        return set(self._sessions.values(query))

    def reopen(self, task_id: int, annotator_id: int, seconds: float = 600) -> Task:
        """Lease a submitted task again to the annotator who submitted it. It keeps its result: if
        it is released, skipped, or its lease expires, it is submitted as before.

        Only while other tasks of its run are open or leased, so that nobody commits the run's
        answers, and while its round, if any, is open; no gold task, and no task with copies.

        Raises:
            StaleStateError: it cannot be reopened.
        """
        now = self._clock()
        run = select(TaskRow.run_id).where(TaskRow.id == task_id).scalar_subquery()
        others = select(TaskRow.id).where(
            TaskRow.run_id == run, TaskRow.id != task_id, TaskRow.state.in_(PENDING)
        )
        mine = update(TaskRow).where(TaskRow.id == task_id, *_reopenable(annotator_id))
        with self._sessions.session() as session:
            # The lock keeps that one from being submitted before this task counts as leased.
            other = session.scalar(others.order_by(TaskRow.id.desc()).limit(1).with_for_update())
            values = {
                "state": TaskState.LEASED,
                "lease_id": new_id(),
                "lease_expires_at": now + timedelta(seconds=seconds),
                "leased_at": now,
            }
            if other is None or not count_changed(session, mine.values(**values)):
                raise StaleStateError(f"task {task_id} cannot be reopened")
            task = task_of(session.get_one(TaskRow, task_id))
            session.commit()
            return task


def _of(annotator_id: int) -> tuple[ColumnElement[bool], ...]:
    """Conditions for the tasks that the annotator has submitted, except unreadable images."""
    return (
        TaskRow.annotator_id == annotator_id,
        TaskRow.state == TaskState.SUBMITTED,
        TaskRow.kind != TaskKind.REVIEW,
        TaskRow.result["quarantined"].as_string().is_(None),
    )


def _reopenable(annotator_id: int) -> tuple[ColumnElement[bool], ...]:
    """Conditions for the tasks that the annotator can reopen, if others of their runs are left."""
    copy = aliased(TaskRow)
    opened = select(RoundRow.id).where(RoundRow.state == RoundState.OPENED)
    return (
        *_of(annotator_id),
        TaskRow.shard.is_(None),
        TaskRow.copy_of.is_(None),
        ~select(copy.id).where(copy.copy_of == TaskRow.id).exists(),
        not_gold(),
        or_(TaskRow.round_id.is_(None), TaskRow.round_id.in_(opened)),
    )


def _others() -> Select[int]:
    """The open and leased tasks of the same run."""
    other = aliased(TaskRow)
    return select(other.id).where(
        other.run_id == TaskRow.run_id, other.id != TaskRow.id, other.state.in_(PENDING)
    )
