"""Work submitted after its task went to somebody else: both versions are kept, and a reviewer
picks masks from them.

A late version is a review run with masks of its own. It has no task until the other version is
submitted; then its one task shows the masks of both. Accepted masks of the late version become
masks of the review run; all verdicts count like any reviewer's.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import replace

from engine.annotation import answers
from engine.annotation.answers import TaskContext
from engine.annotation.errors import not_late
from engine.annotation.former import submitted_masks
from engine.annotation.mask_labels import LABELS, labels_to_keep, submitted_labels
from engine.annotation.schemas import Submission, Submitted
from engine.core.records import Mask
from storage import layout
from storage.annotation_queue import AnnotationQueue
from storage.catalog import (
    Annotator,
    Catalog,
    NewTask,
    Run,
    RunKind,
    RunState,
    Task,
    TaskKind,
    TaskState,
    new_id,
)
from storage.masks import MaskTable, read_parquet, write_parquet
from storage.objects import ObjectStore

OVER = (TaskState.SUBMITTED, TaskState.SKIPPED)
"""States of a finished task."""

RUNS = 1_000
"""How many of a dataset's latest review runs are searched."""


class LateWork:
    """Late versions of one server's tasks. Thread-safe."""

    def __init__(
        self, catalog: Catalog, queue: AnnotationQueue, objects: ObjectStore, masks: MaskTable
    ) -> None:
        self._catalog, self._queue, self._objects, self._masks = catalog, queue, objects, masks

    def keep(
        self,
        task: Task,
        context: TaskContext,
        annotator: Annotator,
        given: Submission,
        confirmed: Sequence[Mask],
    ) -> Submitted:
        """Store the annotator's version of a task that somebody else has; the first one counts.

        Args:
            context: of the task.
            confirmed: pre-filled masks that the annotator kept.

        Raises:
            RefusedError: nobody else has the task, or a mask is wrong.
        """
        if task.annotator_id == annotator.id:
            raise not_late(task.id)
        run_id = uuid.uuid5(uuid.NAMESPACE_URL, f"late/{task.id}/{annotator.id}").hex
        origin = replace(context.provenance, run_id=run_id, annotator=annotator.name)
        mine = replace(context, provenance=origin)
        drawn = [
            answers.drawn_mask(mine, mask, f"{place:04d}-{mask.client_id}")
            for place, mask in enumerate(given.masks)
        ]
        kept = [
            replace(mask, run_id=run_id, mask_id=f"{run_id}/{mask.image_id}/kept-{place:04d}")
            for place, mask in enumerate(confirmed)
        ]
        rows = [*drawn, *kept]
        labels = labels_to_keep(
            list(zip(drawn, given.masks, strict=True)),
            [(row, mask.mask_id) for row, mask in zip(kept, confirmed, strict=True)],
            given.labels,
        )
        key = layout.PREFILL.key(run=run_id, name=new_id())
        self._objects.put(key, write_parquet(rows))
        run = self._catalog.runs.start(
            run_id,
            RunKind.REVIEW,
            dataset_id=task.dataset_id,
            model=context.model,
            config={
                "late_of": task.id,
                "masks": key,
                "stage": str(context.provenance.stage),
                **({LABELS: labels} if labels else {}),
            },
        )
        self.queue_reviews(self._queue.get(task.id))
        return Submitted(task_id=task.id, masks=len(rows), was_known=run.config.get("masks") != key)

    def queue_reviews(self, task: Task) -> None:
        """Queue late versions of a finished task for review, beside the submitted one."""
        if task.state not in OVER:
            return
        runs = self._catalog.runs.all(dataset_id=task.dataset_id, kind=RunKind.REVIEW, limit=RUNS)
        for run in runs:
            if run.config.get("late_of") == task.id and run.state != RunState.FINISHED:
                self._queue_review(task, run)

    def resume(self, run: Run) -> None:
        """Queue a late version for review if the process that was to do so was killed."""
        task_id = run.config.get("late_of")
        if task_id is None or any(self._queue.counts(run_id=run.id).values()):
            return
        task = self._queue.get(int(task_id))
        if task.state in OVER and run.state != RunState.FINISHED:
            self._queue_review(task, run)

    def _queue_review(self, task: Task, run: Run) -> None:
        theirs = submitted_masks(self._objects, self._masks, task)
        known = {(mask.rle.counts, mask.rle.size) for mask in theirs}
        late = [
            mask
            for mask in read_parquet(self._objects.get(str(run.config["masks"])))
            if (mask.rle.counts, mask.rle.size) not in known
        ]
        if not late:  # both versions have the same masks
            self._catalog.runs.finish(run.id)
            return
        key = layout.PREFILL.key(run=run.id, name=new_id())
        self._objects.put(key, write_parquet([*theirs, *late]))
        payload = {
            "mask_ids": [mask.mask_id for mask in (*theirs, *late)],
            "prefill": key,
            "note": _note(theirs, late),
        }
        if labels := submitted_labels(task) | run.config.get(LABELS, {}):
            payload[LABELS] = labels
        review = NewTask(
            dataset_id=task.dataset_id,
            image_id=task.image_id,
            kind=TaskKind.REVIEW,
            run_id=run.id,
            payload=payload,
        )
        self._queue.add([review])


def _note(theirs: Sequence[Mask], late: Sequence[Mask]) -> str:
    names = sorted({mask.annotator or "the model" for mask in (*theirs, *late)})
    who = " and ".join(names)
    return f"Two versions of one image by {who}: accept the better masks, reject the others."
