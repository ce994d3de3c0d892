"""Which tasks, datasets and images an annotator may see and change."""

from __future__ import annotations

from collections.abc import Collection

from engine.annotation.access import sight_of
from engine.annotation.errors import RefusedError, lease_lost, not_found
from storage.annotation_queue import AnnotationQueue
from storage.catalog import (
    Annotator,
    Catalog,
    Dataset,
    DatasetNotFoundError,
    NotFoundError,
    Task,
    TaskKind,
    TaskNotFoundError,
    TaskState,
)

KINDS = {
    "annotator": {TaskKind.ANNOTATE, TaskKind.COMPLETE},
    "reviewer": set(TaskKind),
    "admin": set(TaskKind),
}
"""The kinds of task that each role may take."""


class TaskAccess:
    """Reads the catalog on each request. Thread-safe."""

    def __init__(self, catalog: Catalog, queue: AnnotationQueue) -> None:
        self._catalog, self._queue = catalog, queue

    def may_see(self, annotator: Annotator, image_id: int) -> bool:
        """Whether the annotator is a reviewer of its dataset, or holds or has submitted a task on
        the image."""
        is_reviewer = annotator.role in ("reviewer", "admin")
        if not is_reviewer and not self._queue.has_worked(annotator.id, image_id):
            return False
        try:
            return sight_of(annotator).includes(self._catalog.images.get(image_id).dataset_id)
        except NotFoundError:
            return False

    def datasets(self, annotator: Annotator, name: str | None) -> frozenset[int] | None:
        """Ids of the datasets to take a task from: the named one, else all they see (None: all).

        Raises:
            RefusedError: they see no dataset of that name.
        """
        if name is None:
            return sight_of(annotator).datasets
        try:
            found = self._catalog.datasets.get(name).id
        except DatasetNotFoundError:
            found = 0
        if not found or not sight_of(annotator).includes(found):
            raise not_found(f"you have no dataset {name!r}")
        return frozenset({found})

    def dataset(self, annotator: Annotator, name: str) -> Dataset:
        """The dataset of that name.

        Raises:
            RefusedError: they see no dataset of that name.
        """
        self.datasets(annotator, name)
        return self._catalog.datasets.get(name)

    def check_kinds(self, annotator: Annotator, kinds: Collection[TaskKind]) -> None:
        """Check that the annotator's role may take tasks of these kinds.

        Raises:
            RefusedError: it may not.
        """
        refused = set(kinds) - KINDS.get(annotator.role, set())
        if refused:
            raise RefusedError(
                403, "role", f"{annotator.role}s do not take tasks of kind {sorted(refused)[0]}"
            )

    def task(self, task_id: int) -> Task:
        """The task of that id, for any annotator.

        Raises:
            RefusedError: no such task.
        """
        if not 0 < task_id < 2**63:
            raise not_found(f"no task with id {task_id}")
        try:
            return self._queue.get(task_id)
        except TaskNotFoundError as error:
            raise not_found(str(error)) from error

    def seen_task(self, annotator: Annotator, task_id: int) -> Task:
        """The task, if the annotator sees its dataset and it is not reserved for another one.

        Raises:
            RefusedError: no such task that they see.
        """
        task = self.task(task_id)
        is_others = task.reserved_for not in (None, annotator.id)
        if is_others or not sight_of(annotator).includes(task.dataset_id):
            raise not_found(f"no task with id {task_id}")
        return task

    def finished(self, annotator: Annotator, task_id: int) -> Task:
        """The task, if the annotator has submitted it.

        Raises:
            RefusedError: no such task that they have submitted.
        """
        task = self.seen_task(annotator, task_id)
        mine = (task.annotator_id, task.state) == (annotator.id, TaskState.SUBMITTED)
        if not mine or task.kind == TaskKind.REVIEW:
            raise not_found(f"no task with id {task_id}")
        return task

    def held(self, annotator: Annotator, task_id: int, lease_id: str) -> Task:
        """The task, if the annotator holds it. A task whose lease has expired counts as held until
        somebody else takes it, as in the queue.

        Raises:
            RefusedError: somebody else has it, or it is finished.
        """
        task = self.seen_task(annotator, task_id)
        mine = (task.lease_id, task.annotator_id) == (lease_id, annotator.id)
        if not mine or task.state not in (TaskState.LEASED, TaskState.OPEN):
            raise lease_lost(task_id)
        return task
