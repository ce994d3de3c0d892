"""Copies of tasks: the same image for several annotators.

A copy belongs to a run of its own and names the task that it copies. That task and its copies are a
group; nobody gets two tasks of a group (`AnnotationQueue.lease`).
"""

from __future__ import annotations

from collections.abc import Collection
from itertools import groupby

from sqlalchemy import ColumnElement, func, or_, select, update
from sqlalchemy.orm import Session

from storage.catalog.sessions import Repository
from storage.catalog.states import TaskState
from storage.catalog.tables import TaskRow
from storage.catalog.tasks import Task, task_of

PENDING = (TaskState.OPEN, TaskState.LEASED)


class TaskCopies(Repository):
    """The copies of runs' tasks in a catalog's database."""

    def pending(self, run_id: str) -> int:
        """The number of the run's tasks and copies that are open or leased."""
        query = select(func.count()).where(_of(run_id), TaskRow.state.in_(PENDING))
        return self._sessions.value(query) or 0

    def runs(self, run_id: str) -> list[str]:
        """Ids of the runs that the copies of a run's tasks belong to."""
        query = select(TaskRow.run_id).where(TaskRow.copy_of.in_(_originals(run_id))).distinct()
        return sorted(str(found) for found in self._sessions.values(query))

    def groups(self, run_id: str) -> list[list[Task]]:
        """Each task of the run that has copies, followed by these."""
        with self._sessions.reading() as session:
            return _groups(session, run_id)

    def withdraw(self, run_id: str, people: Collection[int]) -> int:
        """Take the open tasks of groups out of the queue that none of these people may answer, if
        no other task of the run is left. An unanswered task takes over the answer of its first
        answered copy.

        Args:
            people: ids of the annotators who may still answer tasks.

        Returns:
            The number of tasks taken out; 0 if some can still be answered.
        """
        with self._sessions.session() as session:
            groups = _groups(session, run_id)
            stuck = [task for group in groups for task in _stuck(group, set(people))]
            left = session.scalar(select(func.count()).where(_of(run_id), _is_pending()))
            if not stuck or len(stuck) != left:
                return 0
            gone = {"state": TaskState.SKIPPED, "lease_id": None, "annotator_id": None}
            ids = [task.id for task in stuck]
            session.execute(update(TaskRow).where(TaskRow.id.in_(ids)).values(**gone))
            session.commit()
            return len(stuck)

    def complete(self, run_id: str) -> None:
        """Give each unanswered task of a run the answer of its first answered copy, which loses it,
        so that an image with an answer has it in the run itself."""
        with self._sessions.session() as session:
            for original, *copies in _groups(session, run_id):
                answered = [task.id for task in copies if task.state == TaskState.SUBMITTED]
                if original.state != TaskState.SUBMITTED and answered:
                    _take_over(session, original.id, answered[0])
            session.commit()


def _take_over(session: Session, original_id: int, copy_id: int) -> None:
    original, copy = (session.get_one(TaskRow, key) for key in (original_id, copy_id))
    for name in ("annotator_id", "lease_id", "result_key", "result", "leased_at", "submitted_at"):
        setattr(original, name, getattr(copy, name))
        setattr(copy, name, None)
    original.state, copy.state = TaskState.SUBMITTED, TaskState.SKIPPED


def _originals(run_id: str) -> ColumnElement[int]:
    return select(TaskRow.id).where(TaskRow.run_id == run_id).scalar_subquery()


def _of(run_id: str) -> ColumnElement[bool]:
    """Whether a task belongs to the run, or is a copy of one that does."""
    return or_(TaskRow.run_id == run_id, TaskRow.copy_of.in_(_originals(run_id)))


def _is_pending() -> ColumnElement[bool]:
    return TaskRow.state.in_(PENDING)


def _groups(session: Session, run_id: str) -> list[list[Task]]:
    copies = select(TaskRow).where(TaskRow.copy_of.in_(_originals(run_id)))
    rows = session.scalars(copies.order_by(TaskRow.copy_of, TaskRow.id)).all()
    found = []
    for original_id, group in groupby(rows, key=lambda row: int(row.copy_of or 0)):
        original = session.get_one(TaskRow, original_id)
        found.append([task_of(original), *map(task_of, group)])
    return found


def _stuck(group: list[Task], people: set[int]) -> list[Task]:
    """The open tasks of a group with an answer that none of these people may answer."""
    if not any(task.state == TaskState.SUBMITTED for task in group):
        return []
    if people - {task.annotator_id for task in group if task.annotator_id is not None}:
        return []
    return [task for task in group if task.state == TaskState.OPEN]
