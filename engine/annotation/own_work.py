"""What an annotator has submitted, and their way back to it."""

from __future__ import annotations

from collections.abc import Collection

from engine.annotation.browse_history import history_of
from engine.annotation.browse_schemas import ImageHistory, OwnTask, OwnWork, Step
from engine.annotation.errors import RefusedError
from engine.annotation.former import submitted_masks, submitted_steps
from engine.annotation.task_access import TaskAccess
from engine.annotation.task_views import image_view
from storage.annotation_queue import AnnotationQueue
from storage.catalog import (
    Annotator,
    Catalog,
    StaleStateError,
    Task,
)
from storage.finished_tasks import FinishedTasks
from storage.masks import MaskTable
from storage.objects import ObjectStore


class FinishedWork:
    """One per server. Thread-safe."""

    def __init__(
        self,
        catalog: Catalog,
        queue: AnnotationQueue,
        objects: ObjectStore,
        masks: MaskTable,
        lease_seconds: float,
    ) -> None:
        """
        Args:
            lease_seconds: how long a reopened task stays with a page that sends no heartbeat.
        """
        self._catalog, self._tasks = catalog, FinishedTasks(catalog, catalog.now)
        self._objects, self._masks = objects, masks
        self._access, self._lease_seconds = TaskAccess(catalog, queue), lease_seconds

    def page(
        self,
        annotator: Annotator,
        dataset_ids: Collection[int] | None,
        offset: int,
        limit: int,
    ) -> OwnWork:
        """A page of the tasks that the annotator has submitted, of these datasets; None: of all."""
        total, tasks = self._tasks.page(
            annotator.id, dataset_ids=dataset_ids, offset=offset, limit=limit
        )
        images = self._catalog.images.get_many([task.image_id for task in tasks])
        names = {one.id: one.name for one in self._catalog.datasets.all()}
        again = self._tasks.reopenable(annotator.id, [task.id for task in tasks])
        return OwnWork(
            total=total,
            tasks=[
                OwnTask(
                    task_id=task.id,
                    image=image_view(image),
                    dataset=names[task.dataset_id],
                    kind=task.kind,
                    masks=task.result.masks,
                    seconds=task.result.seconds,
                    submitted_at=task.submitted_at or task.created_at,
                    can_reopen=task.id in again,
                )
                for task, image in zip(tasks, images, strict=True)
            ],
        )

    def history(self, annotator: Annotator, task_id: int) -> ImageHistory:
        """The masks that the annotator submitted for a task, without verdicts.

        Raises:
            RefusedError: no such task that they have submitted.
        """
        task = self._access.finished(annotator, task_id)
        image = self._catalog.images.get(task.image_id)
        steps = submitted_steps(self._objects, task)
        return ImageHistory(
            image=image_view(image),
            dataset=self._catalog.datasets.get_by_id(task.dataset_id).name,
            split=image.split,
            near_image_id=None,
            captions=[],
            masks=[
                history_of(mask, [], [_step(row) for row in steps[mask.mask_id]], [], [], [])
                for mask in submitted_masks(self._objects, self._masks, task)
            ],
        )

    def reopen(self, annotator: Annotator, task_id: int) -> Task:
        """Lease a submitted task again to its annotator, with what they submitted.

        Raises:
            RefusedError: no such task that they have submitted, or its round is complete.
        """
        task = self._access.finished(annotator, task_id)
        try:
            reopened = self._tasks.reopen(task.id, annotator.id, self._lease_seconds)
        except StaleStateError as error:
            raise RefusedError(
                409,
                "complete",
                "this image cannot be opened again: its round is complete, or others work on the "
                "same image; ask a reviewer to send it to annotators",
            ) from error
        self._catalog.audit.add("reopen", f"task {task.id}", annotator_id=annotator.id)
        return reopened


def _step(row: dict[str, object]) -> Step:
    return Step.model_validate({name: row[name] for name in Step.model_fields})
