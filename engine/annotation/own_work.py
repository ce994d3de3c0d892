"""What an annotator has submitted, and their way back to it."""

from __future__ import annotations

from engine.annotation.access import sight_of
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
    RoundState,
    RunState,
    StaleStateError,
    Task,
)
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
        self._catalog, self._queue = catalog, queue
        self._objects, self._masks = objects, masks
        self._access, self._lease_seconds = TaskAccess(catalog, queue), lease_seconds

    def page(self, annotator: Annotator, offset: int, limit: int) -> OwnWork:
        """A page of the tasks that the annotator has submitted, of datasets that they see."""
        total, tasks = self._queue.finished_by(
            annotator.id, dataset_ids=sight_of(annotator).datasets, offset=offset, limit=limit
        )
        images = self._catalog.images.get_many([task.image_id for task in tasks])
        names = {one.id: one.name for one in self._catalog.datasets.all()}
        runs = {str(task.run_id) for task in tasks if task.shard is None}
        unfinished = {run_id for run_id in runs if self._is_unfinished(run_id)}
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
                    can_reopen=task.shard is None and str(task.run_id) in unfinished,
                )
                for task, image in zip(tasks, images, strict=True)
            ],
        )

    def _is_unfinished(self, run_id: str) -> bool:
        """Whether tasks of the run can be reopened, see `AnnotationQueue.reopen`."""
        run = self._catalog.runs.get(run_id)
        if run.state == RunState.FINISHED or not self._queue.pending(run_id):
            return False
        if run.round_id is None:
            return True
        return self._catalog.rounds.get(run.round_id).state == RoundState.OPENED

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
            masks=[
                history_of(mask, [], [_step(row) for row in steps[mask.mask_id]], [])
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
            reopened = self._queue.reopen(task.id, annotator.id, self._lease_seconds)
        except StaleStateError as error:
            raise RefusedError(
                409,
                "complete",
                "all images of this round are submitted, so its masks are being stored; ask a "
                "reviewer to send the image to annotators again",
            ) from error
        self._catalog.audit.add("reopen", f"task {task.id}", annotator_id=annotator.id)
        return reopened


def _step(row: dict[str, object]) -> Step:
    return Step.model_validate({name: row[name] for name in Step.model_fields})
