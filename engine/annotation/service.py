"""The rules of the annotation page: who gets which task, what a prompt is answered, what becomes of
a submission. No HTTP here."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from engine.annotation import answers
from engine.annotation.access import sight_of
from engine.annotation.answers import TaskContext
from engine.annotation.embeddings import EmbeddingCache
from engine.annotation.errors import RefusedError, invalid, lease_lost, not_found
from engine.annotation.late import LateWork
from engine.annotation.pictures import Pictures
from engine.annotation.prompting import Prompter, rle_view
from engine.annotation.schemas import (
    Draft,
    ImageView,
    Judgement,
    MaskView,
    NextTaskView,
    PredictIn,
    Prediction,
    Submission,
    Submitted,
    TaskView,
)
from engine.core.records import Mask, Stage
from storage import layout
from storage.annotation_queue import AnnotationQueue, Task
from storage.catalog import (
    Annotator,
    Catalog,
    CatalogError,
    DatasetNotFoundError,
    Image,
    LeaseLostError,
    NotFoundError,
    QuotaError,
    RunKind,
    StaleStateError,
    TaskKind,
    TaskNotFoundError,
    TaskState,
    VerdictKind,
    new_id,
)
from storage.formats.images import BadImageError
from storage.masks import MaskTable, read_parquet, write_parquet
from storage.objects import ObjectStore, named_by_catalog
from storage.trajectories import TrajectoryStep, write_trajectories

log = logging.getLogger(__name__)

KINDS = {
    "annotator": {TaskKind.ANNOTATE, TaskKind.COMPLETE},
    "reviewer": set(TaskKind),
    "admin": set(TaskKind),
}
"""The kinds of task that each role may take."""

REMEMBERED = 512
"""Tasks whose context is kept in memory."""

AHEAD = 3
"""Tasks of the queue whose images are made ready ahead."""


class AnnotationService:
    """One per server. Safe for any number of threads."""

    def __init__(
        self,
        *,
        catalog: Catalog,
        queue: AnnotationQueue,
        objects: ObjectStore,
        masks: MaskTable,
        embeddings: EmbeddingCache,
        pictures: Pictures,
        lease_seconds: float = 120,
        draft_seconds: float = 7200,
        on_drained: Callable[[str], None] = lambda run_id: None,
    ) -> None:
        """
        Args:
            lease_seconds: how long a task stays with a page that has fallen silent.
            draft_seconds: the same where there is a draft.
            on_drained: called with the id of a run whose last task was handed in.
        """
        self.catalog, self.queue, self.objects, self.masks = catalog, queue, objects, masks
        self.embeddings, self.pictures = embeddings, pictures
        self.prompter = Prompter(embeddings)
        self.late = LateWork(catalog, queue, objects, masks)
        self.lease_seconds, self.on_drained = lease_seconds, on_drained
        self.draft_seconds = max(draft_seconds, lease_seconds)
        self._lock = threading.Lock()
        self._contexts: OrderedDict[tuple[int, int | None], TaskContext] = OrderedDict()

    # tasks

    def next_task(
        self, annotator: Annotator, kinds: Collection[TaskKind], dataset: str | None = None
    ) -> NextTaskView:
        """The task the annotator holds, else the next free one, with its image ready.

        Raises:
            RefusedError: the role does not take such tasks, or there is no such dataset for them.
        """
        self._check_kinds(annotator, kinds)
        dataset_ids = self._datasets(annotator, dataset)
        task = self.queue.held(annotator.id, kinds=kinds)
        if task is not None and not sight_of(annotator).includes(task.dataset_id):
            task = None
        while task is None:
            task = self.queue.lease(
                annotator.id, kinds=kinds, seconds=self.lease_seconds, dataset_ids=dataset_ids
            )
            if task is None:
                return NextTaskView(task=None, waiting=0)
            if not self._is_ready(task):
                task = None
        view = self._view(task, annotator)
        self.prefetch(kinds, dataset_ids)
        return NextTaskView(task=view, waiting=view.waiting)

    def view(self, annotator: Annotator, task_id: int) -> TaskView:
        """A task that the annotator holds.

        Raises:
            RefusedError: no such task, or somebody else's.
        """
        task = self._seen_task(annotator, task_id)
        if task.annotator_id != annotator.id or task.state != TaskState.LEASED:
            raise not_found(f"task {task_id} is not with you")
        return self._view(task, annotator)

    def heartbeat(self, annotator: Annotator, task_id: int, lease_id: str) -> datetime:
        """Hold the task for another while; until when.

        Raises:
            RefusedError: it is lost.
        """
        self._held(annotator, task_id, lease_id)
        has_draft = self.catalog.drafts.has(task_id, annotator.id)
        seconds = self.draft_seconds if has_draft else self.lease_seconds
        try:
            return self.queue.renew(task_id, lease_id, seconds)
        except LeaseLostError as error:
            raise lease_lost(task_id) from error

    def give_back(self, annotator: Annotator, task_id: int, lease_id: str, *, skip: bool) -> None:
        """Let somebody else have the task: at the back of the queue (`skip`) or at its place.

        Raises:
            RefusedError: it is lost.
        """
        self._held(annotator, task_id, lease_id)
        try:
            if skip:
                if self.queue.skip(task_id, lease_id) == TaskState.SKIPPED:  # for good
                    self._over(self._task(task_id))
            else:
                self.queue.release(task_id, lease_id)
        except LeaseLostError as error:
            raise lease_lost(task_id) from error

    def keep_draft(self, annotator: Annotator, task_id: int, lease_id: str, draft: Draft) -> Draft:
        """Keep unfinished work, and the task with it for `draft_seconds`.

        Raises:
            RefusedError: the task is lost, a later draft is kept already, or too much is kept.
        """
        self._held(annotator, task_id, lease_id)
        try:
            self.catalog.drafts.keep(task_id, annotator.id, draft.version, draft.data)
            self.queue.renew(task_id, lease_id, self.draft_seconds)
        except LeaseLostError as error:
            raise lease_lost(task_id) from error
        except StaleStateError as error:
            raise RefusedError(409, "draft_outdated", str(error)) from error
        except QuotaError as error:
            raise RefusedError(413, "draft_quota", str(error)) from error
        except ValueError as error:  # e.g. a number that is none
            raise invalid(f"the draft cannot be kept: {error}") from error
        return draft

    def prefetch(
        self, kinds: Collection[TaskKind], dataset_ids: Collection[int] | None = None
    ) -> None:
        """Make the images of the next tasks ready in the background."""
        for task in self.queue.upcoming(kinds=kinds, limit=AHEAD, dataset_ids=dataset_ids):
            self.embeddings.prefetch(self._context(task).model, [task.image_id])

    # prompts

    def predict(self, annotator: Annotator, task_id: int, asked: PredictIn) -> Prediction:
        """Answer a prompt about the task's image.

        Raises:
            RefusedError: the task is lost, or the prompt is none.
        """
        task = self._held(annotator, task_id, asked.lease_id)
        context = self._context(task)
        return self.prompter.answer(task_id, context.model, context.image_id, asked)

    # handing in

    def submit(self, annotator: Annotator, task_id: int, given: Submission) -> Submitted:
        """Hand in an `annotate` or `complete` task. The same submission again changes nothing.

        Raises:
            RefusedError: the task is lost or of another kind, or a mask is wrong.
        """
        task = self._to_hand_in(annotator, task_id, given.lease_id, review=False)
        if task.state == TaskState.SUBMITTED:
            return _known(task)
        context = self._context(task)
        there = self._masks_there(task)
        kept = _confirmed(there, given, annotator.name)
        made, steps = [], []
        for place, mask in enumerate(given.masks):
            row = answers.mask_row(context, mask, f"{place:04d}-{mask.client_id}")
            made.append(row)
            steps += answers.steps_of(context, row.mask_id, mask)
        figures = answers.effort_of(given.masks) | {"seconds": given.seconds}
        if task.kind == TaskKind.COMPLETE:
            figures |= {"prefilled": len(there), "prefilled_kept": len(kept)}
        return self._hand_in(task, [*kept, *made], steps, figures, annotator)

    def keep_late(self, annotator: Annotator, task_id: int, given: Submission) -> Submitted:
        """Keep the work of somebody who lost the task, for a reviewer to merge.

        Raises:
            RefusedError: nobody else has the task, it is not for this role, or a mask is wrong.
        """
        task = self._seen_task(annotator, task_id)
        if task.kind == TaskKind.REVIEW:
            raise invalid(f"task {task_id} is of kind {task.kind}")
        self._check_kinds(annotator, [task.kind])
        kept = _confirmed(self._masks_there(task), given, annotator.name)
        found = self.late.keep(task, self._context(task), annotator, given, kept)
        self.catalog.audit.add(
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
            return _known(task)
        context = self._context(task)
        judged = [verdict.mask_id for verdict in given.verdicts]
        if sorted(judged) != sorted(task.payload.get("mask_ids", [])):
            raise invalid("the verdicts are not one on each mask of the task")
        fixes = [verdict.fix for verdict in given.verdicts if verdict.fix is not None]
        answers.check_ids(fixes, set(judged), [])
        rows, steps, verdicts = [], [], []
        for verdict in given.verdicts:
            if (verdict.verdict == VerdictKind.FIX) != (verdict.fix is not None):
                raise invalid(f"a fix, and nothing else, comes with a mask: {verdict.mask_id!r}")
            fixed = None
            if verdict.fix is not None:
                name = f"fix-{verdict.fix.client_id}"
                row = answers.mask_row(context, verdict.fix, name, supersedes=verdict.mask_id)
                rows.append(row)
                steps += answers.steps_of(context, row.mask_id, verdict.fix)
                fixed = row.mask_id
            kind, seconds = str(verdict.verdict), verdict.seconds
            verdicts.append([verdict.mask_id, kind, seconds, fixed, verdict.reason])
        if "prefill" in task.payload:  # masks that are in no table yet
            taken = {v.mask_id for v in given.verdicts if v.verdict == VerdictKind.ACCEPT}
            there = self._masks_there(task)
            rows += [m for m in there if m.mask_id in taken and m.run_id == task.run_id]
        figures = answers.effort_of(fixes) | {
            "verdicts": verdicts,
            "seconds": sum(verdict.seconds for verdict in given.verdicts),
        }
        return self._hand_in(task, rows, steps, figures, annotator)

    def _to_hand_in(
        self, annotator: Annotator, task_id: int, lease_id: str, *, review: bool
    ) -> Task:
        task = self._seen_task(annotator, task_id)
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
        figures: dict[str, Any],
        annotator: Annotator,
    ) -> Submitted:
        """Objects first, then the row. Each attempt writes under a fresh name, so that one that
        was cut short cannot stand in the way of the next."""
        of_task = {"run": task.run_id, "task": task.id, "attempt": new_id()}
        key = layout.ANSWER.key(**of_task)
        self.objects.put(key, write_parquet(masks))
        if steps:
            figures["trajectories"] = layout.TASK_STEPS.key(**of_task)
            self.objects.put(figures["trajectories"], write_trajectories(steps))
        try:
            submitted = self.queue.submit(task.id, str(task.lease_id), key, figures)
        except LeaseLostError as error:
            now = self._task(task.id)
            if (now.state, now.lease_id) == (TaskState.SUBMITTED, task.lease_id):
                return _known(now)  # the same submission, sent twice at a time
            raise lease_lost(task.id) from error
        self.catalog.drafts.drop(task.id)
        ids = {"run_id": task.run_id, "task_id": task.id, "annotator_id": annotator.id}
        log.info("task handed in", extra={**ids, "masks": len(masks)})
        self.catalog.audit.add(
            "submit", f"task {task.id}", annotator_id=annotator.id, masks=len(masks)
        )
        self._over(submitted)
        return Submitted(task_id=task.id, masks=len(masks), was_known=False)

    def _over(self, task: Task) -> None:
        """What follows when nobody works on a task any more."""
        if task.kind != TaskKind.REVIEW:
            self.late.queue_reviews(task)
        self._tell_if_drained(task)

    def _tell_if_drained(self, task: Task) -> None:
        if not self.queue.pending(str(task.run_id)):
            self.on_drained(str(task.run_id))

    # images

    def picture(self, annotator: Annotator, image_id: int, side: int | None) -> bytes:
        """An image as JPEG, for whoever reviews or holds a task on it.

        Raises:
            RefusedError: it is not there, or not for this person.
        """
        if not self._may_see(annotator, image_id):
            raise not_found(f"image {image_id} is not one of yours")
        try:
            return self.pictures.get(image_id, side)
        except (NotFoundError, BadImageError) as error:
            raise not_found(f"image {image_id}: {error}") from error

    def _may_see(self, annotator: Annotator, image_id: int) -> bool:
        if annotator.role not in ("reviewer", "admin"):
            held = self.queue.held(annotator.id, kinds=set(TaskKind))
            if held is None or held.image_id != image_id:
                return False
            return sight_of(annotator).includes(held.dataset_id)
        try:
            return sight_of(annotator).includes(self.catalog.images.get(image_id).dataset_id)
        except NotFoundError:
            return False

    # inside

    def _datasets(self, annotator: Annotator, name: str | None) -> frozenset[int] | None:
        """Ids of the datasets to take a task from: the one that is named, else all they see."""
        if name is None:
            return sight_of(annotator).datasets
        try:
            found = self.catalog.datasets.get(name).id
        except DatasetNotFoundError:
            found = 0
        if not found or not sight_of(annotator).includes(found):
            raise not_found(f"there is no dataset {name!r} for you")
        return frozenset({found})

    def _check_kinds(self, annotator: Annotator, kinds: Collection[TaskKind]) -> None:
        refused = set(kinds) - KINDS.get(annotator.role, set())
        if refused:
            raise RefusedError(
                403, "role", f"{annotator.role}s do not take tasks of kind {sorted(refused)[0]}"
            )

    def _task(self, task_id: int) -> Task:
        if not 0 < task_id < 2**63:
            raise not_found(f"no task with id {task_id}")
        try:
            return self.queue.get(task_id)
        except TaskNotFoundError as error:
            raise not_found(str(error)) from error

    def _seen_task(self, annotator: Annotator, task_id: int) -> Task:
        """The task; one of a dataset that is not for the annotator is told to be none."""
        task = self._task(task_id)
        if not sight_of(annotator).includes(task.dataset_id):
            raise not_found(f"no task with id {task_id}")
        return task

    def _held(self, annotator: Annotator, task_id: int, lease_id: str) -> Task:
        """The task, if the annotator has it. One whose lease has run out but that nobody else has
        taken counts as held, as it does for the queue."""
        task = self._seen_task(annotator, task_id)
        mine = (task.lease_id, task.annotator_id) == (lease_id, annotator.id)
        if not mine or task.state not in (TaskState.LEASED, TaskState.OPEN):
            raise lease_lost(task_id)
        return task

    def _is_ready(self, task: Task) -> bool:
        """Whether a task that was just taken can be worked on; where the image or the model cannot
        be had at the moment, it is given back."""
        try:
            return self._make_ready(task)
        except BaseException:
            with contextlib.suppress(CatalogError):  # else it is free when its lease runs out
                self.queue.release(task.id, str(task.lease_id))
            raise

    def _make_ready(self, task: Task) -> bool:
        """Have the task's image ready; False where its bytes are no image: it is quarantined, and
        the task is handed in without masks."""
        context = self._context(task)
        try:
            self.embeddings.get(context.model, task.image_id)
            return True
        except BadImageError as error:
            image = self.catalog.images.get(task.image_id)
            self.catalog.quarantine.add(
                task.dataset_id,
                image.file_name,
                str(error),
                stage=context.stage,
                image_id=image.id,
            )
            key = layout.ANSWER.key(run=task.run_id, task=task.id, attempt=new_id())
            self.objects.put(key, write_parquet([]))
            self._over(
                self.queue.submit(task.id, str(task.lease_id), key, {"quarantined": str(error)})
            )
            return False

    def _context(self, task: Task) -> TaskContext:
        """What is the same for all of a task's masks; the annotator is the one who holds it."""
        key = (task.id, task.annotator_id)
        with self._lock:
            found = self._contexts.get(key)
        if found is not None:
            return found
        run = self.catalog.runs.get(str(task.run_id))
        image = self.catalog.images.get(task.image_id)
        is_review = run.kind == RunKind.REVIEW
        row = None if task.round_id is None else self.catalog.rounds.get(task.round_id)
        found = TaskContext(
            task_id=task.id,
            run_id=run.id,
            image_id=task.image_id,
            size=(image.height, image.width),
            dataset=self.catalog.datasets.get_by_id(task.dataset_id).name,
            stage=Stage(run.config.get("stage", Stage.FULLY_AUTOMATIC) if is_review else run.kind),
            round=0 if row is None else row.number,
            model=str(run.model),
            annotator=self._annotator_name(task),
        )
        with self._lock:
            self._contexts[key] = found
            while len(self._contexts) > REMEMBERED:
                self._contexts.popitem(last=False)
        return found

    def _annotator_name(self, task: Task) -> str:
        if task.annotator_id is None:
            return ""
        return self.catalog.annotators.get(task.annotator_id).name

    def _masks_there(self, task: Task) -> list[Mask]:
        """Pre-filled masks of a `complete` task, those to judge of a `review` task. A review of two
        versions comes with its masks, some of which are in no table."""
        if "prefill" in task.payload:
            with named_by_catalog():
                return read_parquet(self.objects.get(str(task.payload["prefill"])))
        if task.kind == TaskKind.REVIEW:
            ids = list(task.payload["mask_ids"])
            found = self.masks.masks(image_ids=[task.image_id], mask_ids=ids)
            by_id = {mask.mask_id: mask for mask in found}
            return [by_id[mask_id] for mask_id in ids if mask_id in by_id]
        return []

    def _view(self, task: Task, annotator: Annotator) -> TaskView:
        context = self._context(task)
        image = self.catalog.images.get(task.image_id)
        draft = self.catalog.drafts.get(task.id, annotator.id)
        counts = self.queue.by_kind(dataset_ids=sight_of(annotator).datasets)
        return TaskView(
            id=task.id,
            kind=task.kind,
            dataset=context.dataset,
            stage=context.stage,
            round=context.round or None,
            image=_image_view(image),
            lease_id=str(task.lease_id),
            expires_at=task.lease_expires_at or task.created_at,
            model=context.model,
            masks=[_mask_view(mask) for mask in self._masks_there(task)],
            draft=None if draft is None else Draft(version=draft.version, data=draft.data),
            waiting=counts[task.kind][str(TaskState.OPEN)],
            note=task.payload.get("note"),
        )


def _known(task: Task) -> Submitted:
    result = task.result or {}
    count = int(result.get("made", 0)) + int(result.get("prefilled_kept", 0))
    return Submitted(task_id=task.id, masks=count, was_known=True)


def _confirmed(there: Sequence[Mask], given: Submission, annotator: str) -> list[Mask]:
    """The pre-filled masks that the annotator let stand.

    Raises:
        RefusedError: another mask is named than those there.
    """
    answers.check_ids(given.masks, {mask.mask_id for mask in there}, given.rejected)
    gone = {*given.rejected, *(mask.replaces for mask in given.masks)}
    return [replace(mask, annotator=annotator) for mask in there if mask.mask_id not in gone]


def _image_view(image: Image) -> ImageView:
    return ImageView(id=image.id, width=image.width, height=image.height, file_name=image.file_name)


def _mask_view(mask: Mask) -> MaskView:
    return MaskView(
        mask_id=mask.mask_id,
        rle=rle_view(mask.rle),
        area=mask.area,
        box_xyxy=mask.box_xyxy,
        predicted_iou=mask.predicted_iou,
        source=mask.source,
        model=mask.model,
        annotator=mask.annotator,
    )
