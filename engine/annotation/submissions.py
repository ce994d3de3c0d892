"""Store submitted work: masks, verdicts and late versions of a task."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace

from engine.annotation import answers
from engine.annotation.errors import invalid, lease_lost, not_late
from engine.annotation.gold import GoldTasks
from engine.annotation.late import LateWork
from engine.annotation.mask_labels import MaskLabels
from engine.annotation.returns import Returns
from engine.annotation.schemas import Judgement, Submission, Submitted
from engine.annotation.task_access import TaskAccess
from engine.annotation.task_views import TaskViews
from engine.core.records import Mask
from storage import layout
from storage.annotation_queue import AnnotationQueue
from storage.catalog import (
    GOLD,
    Annotator,
    Catalog,
    LeaseLostError,
    Task,
    TaskKind,
    TaskResult,
    TaskState,
    TaskVerdict,
    VerdictKind,
    new_id,
)
from storage.masks import MaskTable, write_parquet
from storage.objects import ObjectStore
from storage.trajectories import TrajectoryStep, write_trajectories

log = logging.getLogger(__name__)


class Submissions:
    """One per server. Thread-safe."""

    def __init__(
        self,
        catalog: Catalog,
        queue: AnnotationQueue,
        objects: ObjectStore,
        masks: MaskTable,
        views: TaskViews,
        gold: GoldTasks,
        labels: MaskLabels,
        on_drained: Callable[[str], None],
    ) -> None:
        """
        Args:
            on_drained: called with the id of a run after its last task was submitted.
        """
        self._catalog, self._queue, self._objects = catalog, queue, objects
        self._views, self._gold, self._on_drained = views, gold, on_drained
        self._labels = labels
        self._access = TaskAccess(catalog, queue)
        self._late = LateWork(catalog, queue, objects, masks)
        self.returns = Returns(catalog, queue, objects, masks)

    def submit(self, annotator: Annotator, task_id: int, given: Submission) -> Submitted:
        """Submit an `annotate` or `complete` task. Repeating a submission changes nothing.

        Raises:
            RefusedError: the lease is lost, the task of another kind, or a mask wrong.
        """
        task = self._check_lease(annotator, task_id, given.lease_id, review=False)
        if task.state == TaskState.SUBMITTED:
            return self._repeat(task)
        context = self._views.context(task)
        initial = self._views.initial_masks(task)
        kept = _confirmed(initial, given, annotator.name)
        in_table = "mask_ids" in task.payload
        made, steps = [], []
        for place, mask in enumerate(given.masks):
            old = mask.replaces if in_table else None
            name = f"{place:04d}-{mask.client_id}"
            row = answers.drawn_mask(context, mask, name, supersedes=old)
            made.append(row)
            steps += answers.steps_of(context, row.mask_id, mask)
        result = answers.result_of(given.masks, given.seconds)
        labels = self._labels.of_submission(task, given, made, {mask.mask_id for mask in kept})
        result = replace(result, labels=labels)
        if task.kind == TaskKind.COMPLETE:
            result = replace(result, prefilled=len(initial), prefilled_kept=len(kept))
        if in_table:  # kept ones stay as they are there
            kept, result = [], replace(result, verdicts=_verdicts(given, made))
        return self._store(task, [*kept, *made], steps, result, annotator)

    def keep_late(self, annotator: Annotator, task_id: int, given: Submission) -> Submitted:
        """Store the work of an annotator who lost the task, for a reviewer to merge.

        Raises:
            RefusedError: nobody else has the task, the role may not take it, or a mask is wrong.
        """
        task = self._access.seen_task(annotator, task_id)
        if task.kind == TaskKind.REVIEW:
            raise invalid(f"task {task_id} is of kind {task.kind}")
        if GOLD in task.payload or "return_of" in task.payload or task.copy_of is not None:
            raise not_late(task_id)
        self._access.check_kinds(annotator, [task.kind])
        kept = _confirmed(self._views.initial_masks(task), given, annotator.name)
        if "mask_ids" in task.payload:
            kept = []  # they stay in the table
        found = self._late.keep(task, self._views.context(task), annotator, given, kept)
        self._catalog.audit.add(
            "late", f"task {task.id}", annotator_id=annotator.id, masks=found.masks
        )
        return found

    def judge(self, annotator: Annotator, task_id: int, given: Judgement) -> Submitted:
        """Submit a `review` task: one verdict on each of its masks, and a mask for each fix.

        Raises:
            RefusedError: the lease is lost, the task of another kind, or a verdict or mask wrong.
        """
        task = self._check_lease(annotator, task_id, given.lease_id, review=True)
        if task.state == TaskState.SUBMITTED:
            return self._repeat(task)
        context = self._views.context(task)
        judged = [verdict.mask_id for verdict in given.verdicts]
        if sorted(judged) != sorted(task.payload.get("mask_ids", [])):
            raise invalid("each mask of the task needs exactly one verdict")
        fixes = [verdict.fix for verdict in given.verdicts if verdict.fix is not None]
        answers.check_ids(fixes, set(judged), [])
        rows, steps, verdicts = [], [], list[TaskVerdict]()
        for verdict in given.verdicts:
            if (verdict.verdict == VerdictKind.FIX) != (verdict.fix is not None):
                raise invalid(f"a fix needs a mask, other verdicts have none: {verdict.mask_id!r}")
            fixed = None
            if verdict.fix is not None:
                name = f"fix-{verdict.fix.client_id}"
                row = answers.drawn_mask(context, verdict.fix, name, supersedes=verdict.mask_id)
                rows.append(row)
                steps += answers.steps_of(context, row.mask_id, verdict.fix)
                fixed = row.mask_id
            verdicts.append(
                TaskVerdict(
                    mask_id=verdict.mask_id,
                    verdict=verdict.verdict,
                    seconds=verdict.seconds,
                    fixed_mask_id=fixed,
                    reason=verdict.reason,
                )
            )
        fresh = list[Mask]()
        if "prefill" in task.payload:  # its masks are not in the table yet
            taken = {v.mask_id for v in given.verdicts if v.verdict == VerdictKind.ACCEPT}
            initial = self._views.initial_masks(task)
            fresh = [m for m in initial if m.run_id == task.run_id]
            rows += [m for m in fresh if m.mask_id in taken]
        spent = sum(verdict.seconds + verdict.label_seconds for verdict in given.verdicts)
        fixed_by = {v.mask_id: v.fixed_mask_id for v in verdicts if v.fixed_mask_id is not None}
        labels = self._labels.of_judgement(task, given, fixed_by, fresh)
        result = replace(answers.result_of(fixes, spent), labels=labels)
        if "candidates" in task.payload:  # what is not picked never becomes a mask to be judged
            verdicts = [v for v in verdicts if v.verdict != VerdictKind.REJECT]
        result = replace(result, verdicts=tuple(verdicts))
        done = self._store(task, rows, steps, result, annotator)
        if "return_of" in task.payload:
            self._catalog.comments.resolve(task.image_id)
        return done

    def give_back(self, annotator: Annotator, task_id: int, lease_id: str) -> Submitted:
        """End a `review` task without verdicts: its image goes to the annotator who made the masks,
        who reads the comments, and then comes back.

        Raises:
            RefusedError: the lease is lost, the task of another kind, or there is no comment.
        """
        task = self._check_lease(annotator, task_id, lease_id, review=True)
        if task.state == TaskState.SUBMITTED:
            return self._repeat(task)
        self.returns.check(annotator, task)
        return self._store(task, [], [], TaskResult(returned=True), annotator)

    def _check_lease(
        self, annotator: Annotator, task_id: int, lease_id: str, *, review: bool
    ) -> Task:
        task = self._access.seen_task(annotator, task_id)
        if (task.kind == TaskKind.REVIEW) != review:
            raise invalid(f"task {task_id} is of kind {task.kind}")
        mine = (task.lease_id, task.annotator_id) == (lease_id, annotator.id)
        if not mine or task.state == TaskState.SKIPPED:
            raise lease_lost(task_id)
        return task

    def _store(
        self,
        task: Task,
        masks: Sequence[Mask],
        steps: Sequence[TrajectoryStep],
        result: TaskResult,
        annotator: Annotator,
    ) -> Submitted:
        """Write the objects, then the row. Each attempt writes under a fresh key, so an interrupted
        one does not block the next."""
        of_task = {"run": task.run_id, "task": task.id, "attempt": new_id()}
        key = layout.ANSWER.key(**of_task)
        self._objects.put(key, write_parquet(masks))
        if steps:
            trajectories = layout.TASK_STEPS.key(**of_task)
            self._objects.put(trajectories, write_trajectories(steps))
            result = replace(result, trajectories=trajectories)
        try:
            submitted = self._queue.submit(task.id, str(task.lease_id), key, result)
        except LeaseLostError as error:
            now = self._access.task(task.id)
            if (now.state, now.lease_id) == (TaskState.SUBMITTED, task.lease_id):
                return self._known(now)  # the same submission, sent twice at once
            raise lease_lost(task.id) from error
        self._catalog.drafts.drop(task.id)
        ids = {"run_id": task.run_id, "task_id": task.id, "annotator_id": annotator.id}
        log.info("task submitted", extra={**ids, "masks": len(masks)})
        self._catalog.audit.add(
            "submit", f"task {task.id}", annotator_id=annotator.id, masks=len(masks)
        )
        self.close(submitted)
        feedback = self._gold.feedback(submitted)
        return Submitted(task_id=task.id, masks=len(masks), was_known=False, feedback=feedback)

    def _repeat(self, task: Task) -> Submitted:
        """Answer a repeated submission. A kill may have interrupted the steps after the first one,
        so they are repeated."""
        self._catalog.drafts.drop(task.id)
        self.close(task)
        return self._known(task)

    def close(self, task: Task) -> None:
        """Queue what follows a finished task, a review of its late versions or a correction, and
        report its run if that was its last task; score a gold task."""
        if GOLD in task.payload:
            self._gold.score(task)
            return
        if task.kind != TaskKind.REVIEW:
            self._late.queue_reviews(task)
        elif task.result.returned:
            self.returns.queue(task)
        if not self._queue.pending(str(task.run_id)):
            self._on_drained(str(task.run_id))

    def _known(self, task: Task) -> Submitted:
        feedback = self._gold.feedback(task)
        return Submitted(
            task_id=task.id, masks=task.result.masks, was_known=True, feedback=feedback
        )


def _verdicts(given: Submission, made: Sequence[Mask]) -> tuple[TaskVerdict, ...]:
    """What a submission says about masks of the table: some are rejected, some are fixed by masks
    that were drawn."""
    rejected = [
        TaskVerdict(mask_id=mask_id, verdict=VerdictKind.REJECT, seconds=0.0)
        for mask_id in given.rejected
    ]
    fixed = [
        TaskVerdict(
            mask_id=mask.supersedes,
            verdict=VerdictKind.FIX,
            seconds=mask.seconds,
            fixed_mask_id=mask.mask_id,
        )
        for mask in made
        if mask.supersedes is not None
    ]
    return (*rejected, *fixed)


def _confirmed(initial: Sequence[Mask], given: Submission, annotator: str) -> list[Mask]:
    """The pre-filled masks that the annotator kept.

    Raises:
        RefusedError: the submission names a mask that the task does not have.
    """
    answers.check_ids(given.masks, {mask.mask_id for mask in initial}, given.rejected)
    gone = {*given.rejected, *(mask.replaces for mask in given.masks)}
    return [replace(mask, annotator=annotator) for mask in initial if mask.mask_id not in gone]
