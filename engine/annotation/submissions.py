"""What becomes of work that is handed in: masks, verdicts and late versions of a task."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace

from engine.annotation import answers
from engine.annotation.errors import invalid, lease_lost
from engine.annotation.late import LateWork
from engine.annotation.schemas import Judgement, Submission, Submitted
from engine.annotation.task_access import TaskAccess
from engine.annotation.task_views import TaskViews
from engine.core.records import Mask
from storage import layout
from storage.annotation_queue import AnnotationQueue
from storage.catalog import (
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
    """One per server. Safe for any number of threads."""

    def __init__(
        self,
        catalog: Catalog,
        queue: AnnotationQueue,
        objects: ObjectStore,
        masks: MaskTable,
        views: TaskViews,
        on_drained: Callable[[str], None],
    ) -> None:
        """
        Args:
            on_drained: called with the id of a run whose last task was handed in.
        """
        self._catalog, self._queue, self._objects = catalog, queue, objects
        self._views, self._on_drained = views, on_drained
        self._access = TaskAccess(catalog, queue)
        self._late = LateWork(catalog, queue, objects, masks)

    def submit(self, annotator: Annotator, task_id: int, given: Submission) -> Submitted:
        """Hand in an `annotate` or `complete` task. The same submission again changes nothing.

        Raises:
            RefusedError: the task is lost or of another kind, or a mask is wrong.
        """
        task = self._to_hand_in(annotator, task_id, given.lease_id, review=False)
        if task.state == TaskState.SUBMITTED:
            return self._repeat(task)
        context = self._views.context(task)
        there = self._views.masks_there(task)
        kept = _confirmed(there, given, annotator.name)
        made, steps = [], []
        for place, mask in enumerate(given.masks):
            row = answers.drawn_mask(context, mask, f"{place:04d}-{mask.client_id}")
            made.append(row)
            steps += answers.steps_of(context, row.mask_id, mask)
        result = answers.result_of(given.masks, given.seconds)
        if task.kind == TaskKind.COMPLETE:
            result = replace(result, prefilled=len(there), prefilled_kept=len(kept))
        return self._hand_in(task, [*kept, *made], steps, result, annotator)

    def keep_late(self, annotator: Annotator, task_id: int, given: Submission) -> Submitted:
        """Keep the work of somebody who lost the task, for a reviewer to merge.

        Raises:
            RefusedError: nobody else has the task, it is not for this role, or a mask is wrong.
        """
        task = self._access.seen_task(annotator, task_id)
        if task.kind == TaskKind.REVIEW:
            raise invalid(f"task {task_id} is of kind {task.kind}")
        self._access.check_kinds(annotator, [task.kind])
        kept = _confirmed(self._views.masks_there(task), given, annotator.name)
        found = self._late.keep(task, self._views.context(task), annotator, given, kept)
        self._catalog.audit.add(
            "late", f"task {task.id}", annotator_id=annotator.id, masks=found.masks
        )
        return found

    def judge(self, annotator: Annotator, task_id: int, given: Judgement) -> Submitted:
        """Hand in a `review` task: verdicts on all of its masks, and better masks for the fixed.

        Raises:
            RefusedError: the task is lost or of another kind, or a verdict or mask is wrong.
        """
        task = self._to_hand_in(annotator, task_id, given.lease_id, review=True)
        if task.state == TaskState.SUBMITTED:
            return self._repeat(task)
        context = self._views.context(task)
        judged = [verdict.mask_id for verdict in given.verdicts]
        if sorted(judged) != sorted(task.payload.get("mask_ids", [])):
            raise invalid("the verdicts are not one on each mask of the task")
        fixes = [verdict.fix for verdict in given.verdicts if verdict.fix is not None]
        answers.check_ids(fixes, set(judged), [])
        rows, steps, verdicts = [], [], list[TaskVerdict]()
        for verdict in given.verdicts:
            if (verdict.verdict == VerdictKind.FIX) != (verdict.fix is not None):
                raise invalid(f"a fix, and nothing else, comes with a mask: {verdict.mask_id!r}")
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
        if "prefill" in task.payload:  # masks that are in no table yet
            taken = {v.mask_id for v in given.verdicts if v.verdict == VerdictKind.ACCEPT}
            there = self._views.masks_there(task)
            rows += [m for m in there if m.mask_id in taken and m.run_id == task.run_id]
        result = answers.result_of(fixes, sum(verdict.seconds for verdict in given.verdicts))
        result = replace(result, verdicts=tuple(verdicts))
        return self._hand_in(task, rows, steps, result, annotator)

    def _to_hand_in(
        self, annotator: Annotator, task_id: int, lease_id: str, *, review: bool
    ) -> Task:
        task = self._access.seen_task(annotator, task_id)
        if (task.kind == TaskKind.REVIEW) != review:
            raise invalid(f"task {task_id} is of kind {task.kind}")
        mine = (task.lease_id, task.annotator_id) == (lease_id, annotator.id)
        if not mine or task.state == TaskState.SKIPPED:
            raise lease_lost(task_id)
        return task

    def _hand_in(
        self,
        task: Task,
        masks: Sequence[Mask],
        steps: Sequence[TrajectoryStep],
        result: TaskResult,
        annotator: Annotator,
    ) -> Submitted:
        """Objects first, then the row. Each attempt writes under a fresh name, so that one that
        was cut short cannot stand in the way of the next."""
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
                return _known(now)  # the same submission, sent twice at a time
            raise lease_lost(task.id) from error
        self._catalog.drafts.drop(task.id)
        ids = {"run_id": task.run_id, "task_id": task.id, "annotator_id": annotator.id}
        log.info("task handed in", extra={**ids, "masks": len(masks)})
        self._catalog.audit.add(
            "submit", f"task {task.id}", annotator_id=annotator.id, masks=len(masks)
        )
        self.over(submitted)
        return Submitted(task_id=task.id, masks=len(masks), was_known=False)

    def _repeat(self, task: Task) -> Submitted:
        """The answer to a repeated submission; what follows it may have been cut short by a kill,
        so it is done again."""
        self._catalog.drafts.drop(task.id)
        self.over(task)
        return _known(task)

    def over(self, task: Task) -> None:
        """What follows when nobody works on a task any more."""
        if task.kind != TaskKind.REVIEW:
            self._late.queue_reviews(task)
        self._tell_if_drained(task)

    def _tell_if_drained(self, task: Task) -> None:
        if not self._queue.pending(str(task.run_id)):
            self._on_drained(str(task.run_id))


def _known(task: Task) -> Submitted:
    return Submitted(task_id=task.id, masks=task.result.masks, was_known=True)


def _confirmed(there: Sequence[Mask], given: Submission, annotator: str) -> list[Mask]:
    """The pre-filled masks that the annotator let stand.

    Raises:
        RefusedError: another mask is named than those there.
    """
    answers.check_ids(given.masks, {mask.mask_id for mask in there}, given.rejected)
    gone = {*given.rejected, *(mask.replaces for mask in given.masks)}
    return [replace(mask, annotator=annotator) for mask in there if mask.mask_id not in gone]
