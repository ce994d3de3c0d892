"""An annotator's day: their tasks, what they may choose, what they have done, how far the round
is."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime

from engine.annotation.access import sight_of
from engine.annotation.errors import RefusedError
from engine.annotation.gold import GoldTasks
from engine.annotation.task_access import KINDS, TaskAccess
from engine.annotation.task_views import image_view
from engine.annotation.work_schemas import (
    DoneView,
    MyTask,
    RoundView,
    WaitingPage,
    WaitingTask,
    WorkDataset,
    WorkView,
)
from storage.annotation_queue import AnnotationQueue
from storage.catalog import Annotator, Catalog, Dataset, Task, TaskKind
from storage.own_tasks import OwnTasks, RoundProgress

MAKING = {TaskKind.ANNOTATE, TaskKind.COMPLETE}
"""Kinds of task in which masks are made; these can be chosen."""


class OwnDay:
    """One per server. Thread-safe."""

    def __init__(self, catalog: Catalog, queue: AnnotationQueue, gold: GoldTasks) -> None:
        """
        Args:
            gold: while there are gold tasks, annotators see no counts of the queue and take tasks
                in its order, since both would show which tasks are gold.
        """
        self._catalog, self._queue, self._gold = catalog, queue, gold
        self._own, self._access = OwnTasks(catalog, catalog.now), TaskAccess(catalog, queue)

    def view(self, annotator: Annotator, since: datetime) -> WorkView:
        """The annotator's tasks, their work since a time, and the datasets that they see."""
        self._queue.expire()
        sight = sight_of(annotator)
        datasets = [one for one in self._catalog.datasets.all() if sight.includes(one.id)]
        done = self._own.done_since(annotator.id, since)
        return WorkView(
            today=DoneView(**asdict(done)),
            tasks=self._tasks(annotator, {one.id: one.name for one in datasets}),
            datasets=self._datasets(annotator, datasets),
            may_choose=self.may_choose(annotator),
        )

    def may_choose(self, annotator: Annotator) -> bool:
        """Whether the annotator may take an image out of the queue's order."""
        return annotator.role != "annotator" or not self._gold.rules.is_on

    def waiting(
        self, annotator: Annotator, dataset: Dataset, offset: int, limit: int
    ) -> WaitingPage:
        """A page of the open tasks of a dataset that the annotator may take.

        Raises:
            RefusedError: they may not choose.
        """
        self._check_choice(annotator)
        total, tasks = self._own.waiting(
            annotator.id, dataset.id, kinds=MAKING, offset=offset, limit=limit
        )
        images = self._catalog.images.get_many([task.image_id for task in tasks])
        rows = [
            WaitingTask(task_id=task.id, image=image_view(image), kind=task.kind)
            for task, image in zip(tasks, images, strict=True)
        ]
        return WaitingPage(total=total, tasks=rows)

    def may_take(self, annotator: Annotator, image_id: int) -> bool:
        """Whether `take` would give the annotator an open task on the image."""
        if not self.may_choose(annotator):
            return any(
                task.image_id == image_id
                for task, _ in self._own.mine(annotator.id, sight_of(annotator).datasets)
            )
        if not self._own.may_take(annotator.id, image_id, MAKING):
            return False
        return sight_of(annotator).includes(self._catalog.images.get(image_id).dataset_id)

    def take(self, annotator: Annotator, task_id: int, seconds: float) -> Task:
        """Lease a task to the annotator out of the queue's order; one they hold or have begun, or
        that is reserved for them, in any case. It becomes the next task of the page.

        Args:
            seconds: duration of the lease.

        Raises:
            RefusedError: no such task, they may not choose, or somebody else has it.
        """
        task = self._access.seen_task(annotator, task_id)
        self._access.check_kinds(annotator, [task.kind])
        if self._own.prefer(task.id, annotator.id):
            return task
        is_theirs = any(
            own.id == task.id
            for own, _ in self._own.mine(annotator.id, sight_of(annotator).datasets)
        )
        if not is_theirs:
            self._check_choice(annotator)
        taken = self._queue.lease(annotator.id, kinds=[task.kind], seconds=seconds, task_id=task.id)
        if taken is None:
            raise RefusedError(
                409, "taken", "somebody else has this image, or it is done; choose another one"
            )
        return taken

    def _check_choice(self, annotator: Annotator) -> None:
        if not self.may_choose(annotator):
            raise RefusedError(403, "choice", "images are taken in the order of the queue here")

    def _mine(self, annotator: Annotator) -> list[Task]:
        found = self._own.mine(annotator.id, sight_of(annotator).datasets)
        return [task for task, _ in found]

    def _tasks(self, annotator: Annotator, names: dict[int, str]) -> list[MyTask]:
        found = self._own.mine(annotator.id, list(names))
        kinds = KINDS.get(annotator.role, set())
        rows = [(task, state) for task, state in found if task.kind in kinds]
        images = self._catalog.images.get_many([task.image_id for task, _ in rows])
        return [
            MyTask(
                task_id=task.id,
                image=image_view(image),
                dataset=names[task.dataset_id],
                kind=task.kind,
                state=state,  # type: ignore[arg-type]  # pydantic checks it
                note=task.payload.get("note"),
            )
            for (task, state), image in zip(rows, images, strict=True)
        ]

    def _datasets(self, annotator: Annotator, datasets: list[Dataset]) -> list[WorkDataset]:
        if not self.may_choose(annotator):
            return [WorkDataset(name=one.name, waiting=None, round=None) for one in datasets]
        waiting = self._own.waiting_by_dataset(
            annotator.id, KINDS.get(annotator.role, set()) & MAKING
        )
        rounds = self._own.open_rounds([one.id for one in datasets])
        return [
            WorkDataset(
                name=one.name,
                waiting=waiting.get(one.id, 0),
                round=None if one.id not in rounds else self._round(rounds[one.id]),
            )
            for one in datasets
        ]

    def _round(self, progress: RoundProgress) -> RoundView:
        row = self._catalog.rounds.get(progress.round_id)
        left = progress.total - progress.done
        pace = progress.seconds / progress.done if progress.done else None
        return RoundView(
            stage=row.stage,
            number=row.number,
            done=progress.done,
            total=progress.total,
            seconds_left=None if pace is None else left * pace,
        )
