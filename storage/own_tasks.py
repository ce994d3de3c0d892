"""The tasks of one annotator: those they hold or are meant to do, those they may choose, and what
they have done."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, and_, func, or_, select, update

from storage.annotation_queue import free_for
from storage.catalog.states import RoundState, TaskKind, TaskState
from storage.catalog.tables import DraftRow, RoundRow, TaskRow
from storage.catalog.tasks import (
    Task,
    TaskQueries,
    not_gold,
    of_datasets,
    submitted_masks,
)

MOST = 200
"""Tasks that `mine` lists."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DoneWork:
    """Submitted tasks of an annotator. `images` and `masks`: of stages 1 and 2."""

    images: int = 0
    masks: int = 0
    reviews: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class RoundProgress:
    """An open round's tasks. `seconds`: time of the submitted ones."""

    round_id: int
    done: int
    total: int
    seconds: float


class OwnTasks(TaskQueries):
    """Queries on a catalog's queue, and the order of what is held."""

    def mine(
        self, annotator_id: int, dataset_ids: Collection[int] | None = None
    ) -> list[tuple[Task, str]]:
        """The tasks that the annotator holds (`held`), has begun (`begun`: with a draft), or that
        are reserved for them (`reserved`), in this order; at most MOST."""
        drafts = set(
            self._sessions.values(
                select(DraftRow.task_id).where(DraftRow.annotator_id == annotator_id)
            )
        )
        query = select(TaskRow).where(
            or_(
                _held(annotator_id, self._clock()),
                and_(*_for(annotator_id), TaskRow.id.in_(drafts)),
                # a gold task that was given back must not differ from others
                and_(*_for(annotator_id), TaskRow.reserved_for == annotator_id, not_gold()),
            ),
            *of_datasets(dataset_ids),
        )
        tasks = self._tasks(query.order_by(TaskRow.id).limit(MOST))
        states = {task.id: _state_of(task, drafts) for task in tasks}
        order = ("held", "begun", "reserved")
        return sorted(
            ((task, states[task.id]) for task in tasks), key=lambda row: order.index(row[1])
        )

    def prefer(self, task_id: int, annotator_id: int) -> bool:
        """Make a held task the one that `held` returns; returns whether they hold it."""
        statement = update(TaskRow).where(TaskRow.id == task_id, _held(annotator_id, self._clock()))
        return bool(self._sessions.change(statement.values(leased_at=self._clock())))

    def done_since(self, annotator_id: int, since: datetime) -> DoneWork:
        """What the annotator has submitted since then; gold tasks count like others."""
        mine = (
            TaskRow.annotator_id == annotator_id,
            TaskRow.state == TaskState.SUBMITTED,
            TaskRow.submitted_at >= since,
        )
        query = select(
            TaskRow.kind,
            func.count(),
            func.coalesce(func.sum(submitted_masks()), 0),
            func.coalesce(func.sum(_seconds()), 0.0),
        )
        images = masks = reviews = 0
        seconds = 0.0
        with self._sessions.reading() as session:
            for kind, tasks, made, spent in session.execute(
                query.where(*mine).group_by(TaskRow.kind)
            ):
                seconds += spent
                if kind == TaskKind.REVIEW:
                    reviews += tasks
                else:
                    images, masks = images + tasks, masks + made
        return DoneWork(images=images, masks=masks, reviews=reviews, seconds=seconds)

    def waiting(
        self,
        annotator_id: int,
        dataset_id: int,
        *,
        kinds: Collection[TaskKind],
        offset: int = 0,
        limit: int = 60,
    ) -> tuple[int, list[Task]]:
        """How many images of a dataset have an open task that the annotator may take, and a page
        of these tasks in the queue's order."""
        free = (*free_for(annotator_id, kinds), TaskRow.dataset_id == dataset_id)
        one_of_each_image = select(func.min(TaskRow.id)).where(*free).group_by(TaskRow.image_id)
        shown = TaskRow.id.in_(one_of_each_image)
        order = (TaskRow.skips, TaskRow.priority.desc(), TaskRow.id)
        page = select(TaskRow).where(shown).order_by(*order).offset(offset).limit(limit)
        total = self._sessions.value(select(func.count()).select_from(TaskRow).where(shown)) or 0
        return total, self._tasks(page)

    def waiting_by_dataset(
        self, annotator_id: int, kinds: Collection[TaskKind], *, unreserved: bool = False
    ) -> dict[int, int]:
        """The number of such images by dataset id; `unreserved`: only of tasks that are reserved
        for nobody."""
        images = func.count(TaskRow.image_id.distinct())
        free = free_for(annotator_id, kinds)
        if unreserved:
            free.append(TaskRow.reserved_for.is_(None))
        query = select(TaskRow.dataset_id, images).where(*free)
        with self._sessions.reading() as session:
            rows = session.execute(query.group_by(TaskRow.dataset_id))
            return {dataset_id: images for dataset_id, images in rows}  # noqa: C416

    def may_take(self, annotator_id: int, image_id: int, kinds: Collection[TaskKind]) -> bool:
        """Whether an open task on the image is one that the annotator may take."""
        query = select(TaskRow.id).where(
            TaskRow.image_id == image_id, *free_for(annotator_id, kinds)
        )
        return self._sessions.value(query.limit(1)) is not None

    def open_rounds(self, dataset_ids: Collection[int]) -> dict[int, RoundProgress]:
        """The latest open round of each dataset that has one, by dataset id."""
        latest = (
            select(func.max(RoundRow.id))
            .where(RoundRow.state == RoundState.OPENED, RoundRow.dataset_id.in_(dataset_ids))
            .group_by(RoundRow.dataset_id)
        )
        is_done = TaskRow.state.not_in((TaskState.OPEN, TaskState.LEASED))
        query = (
            select(
                TaskRow.dataset_id,
                TaskRow.round_id,
                func.count(),
                func.count().filter(is_done),
                func.coalesce(func.sum(_seconds()), 0.0),
            )
            .where(TaskRow.round_id.in_(latest))
            .group_by(TaskRow.dataset_id, TaskRow.round_id)
        )
        with self._sessions.reading() as session:
            return {
                dataset_id: RoundProgress(
                    round_id=int(round_id or 0), done=done, total=total, seconds=seconds
                )
                for dataset_id, round_id, total, done, seconds in session.execute(query)
            }


def _seconds() -> ColumnElement[float]:
    found: ColumnElement[float] = TaskRow.result["seconds"].as_float()
    return found


def _held(annotator_id: int, now: datetime) -> ColumnElement[bool]:
    return and_(
        TaskRow.annotator_id == annotator_id,
        TaskRow.state == TaskState.LEASED,
        TaskRow.lease_expires_at > now,
    )


def _for(annotator_id: int) -> tuple[ColumnElement[bool], ...]:
    """Conditions for open tasks that are not reserved for others."""
    reserved_for = TaskRow.reserved_for
    is_mine = or_(reserved_for.is_(None), reserved_for == annotator_id)
    return TaskRow.state == TaskState.OPEN, is_mine


def _state_of(task: Task, drafts: set[int]) -> str:
    if task.state == TaskState.LEASED:
        return "held"
    return "begun" if task.id in drafts else "reserved"
