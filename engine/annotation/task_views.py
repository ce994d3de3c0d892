"""A task's context, its initial masks, and its view for the page."""

from __future__ import annotations

import threading
from typing import Any

from cachetools import LRUCache

from engine.annotation.access import sight_of
from engine.annotation.answers import TaskContext
from engine.annotation.former import former_work
from engine.annotation.gold import GoldTasks
from engine.annotation.mask_labels import MaskLabels
from engine.annotation.prompting import rle_view
from engine.annotation.schemas import CandidateSet, Draft, ImageView, MaskView, TaskView
from engine.core.records import Mask, Provenance, Source, Stage
from storage.annotation_queue import AnnotationQueue
from storage.catalog import GOLD, Annotator, Catalog, Image, RunKind, Task, TaskState
from storage.masks import MaskTable, read_parquet
from storage.objects import ObjectStore, named_by_catalog

REMEMBERED = 512
"""Tasks whose context is kept in memory."""


def initial_masks(objects: ObjectStore, table: MaskTable, task: Task) -> list[Mask]:
    """Pre-filled masks of a `complete` task, those to judge of a `review` task. Masks named by
    `mask_ids` are in the table, unless a review of two versions has them with its own."""
    if "prefill" in task.payload:
        with named_by_catalog():
            return read_parquet(objects.get(str(task.payload["prefill"])))
    if "mask_ids" in task.payload:
        ids = list(task.payload["mask_ids"])
        found = table.masks(image_ids=[task.image_id], mask_ids=ids)
        by_id = {mask.mask_id: mask for mask in found}
        return [by_id[mask_id] for mask_id in ids if mask_id in by_id]
    return []


class TaskViews:
    """One per server. Thread-safe."""

    def __init__(
        self,
        catalog: Catalog,
        queue: AnnotationQueue,
        objects: ObjectStore,
        masks: MaskTable,
        gold: GoldTasks,
        labels: MaskLabels,
    ) -> None:
        self._catalog, self._queue, self._objects, self._masks = catalog, queue, objects, masks
        self._gold, self._labels = gold, labels
        self._lock = threading.Lock()
        self._contexts: LRUCache[tuple[int, int | None], TaskContext] = LRUCache(REMEMBERED)

    def context(self, task: Task) -> TaskContext:
        """What all masks of the task share; the annotator is the task's holder. A gold task has
        the stage, round and model of the task in whose place it is."""
        key = (task.id, task.annotator_id)
        with self._lock:
            found = self._contexts.get(key)
        if found is not None:
            return found
        like = {"run": task.run_id, "round": task.round_id} | task.payload.get(GOLD, {})
        run = self._catalog.runs.get(str(like["run"]))
        image = self._catalog.images.get(task.image_id)
        is_review = run.kind == RunKind.REVIEW
        row = None if like["round"] is None else self._catalog.rounds.get(int(like["round"]))
        found = TaskContext(
            task_id=task.id,
            image_id=task.image_id,
            size=(image.height, image.width),
            provenance=Provenance(
                dataset=self._catalog.datasets.get_by_id(task.dataset_id).name,
                stage=Stage(
                    run.config.get("stage", Stage.FULLY_AUTOMATIC) if is_review else run.kind
                ),
                round=0 if row is None else row.number,
                run_id=str(task.run_id),
                model=str(run.model),
                source=Source.ANNOTATOR,
                annotator=self._annotator_name(task),
            ),
        )
        with self._lock:
            self._contexts[key] = found
        return found

    def _annotator_name(self, task: Task) -> str:
        return self._name(task.annotator_id) or ""

    def initial_masks(self, task: Task) -> list[Mask]:
        """The task's masks before anybody has worked on it (`initial_masks`)."""
        return initial_masks(self._objects, self._masks, task)

    def view(self, task: Task, annotator: Annotator) -> TaskView:
        """The task as its holder sees it."""
        context = self.context(task)
        image = self._catalog.images.get(task.image_id)
        draft = self._catalog.drafts.get(task.id, annotator.id)
        initial = self.initial_masks(task)
        ids = [mask.mask_id for mask in initial]
        counts = self._queue.by_kind(dataset_ids=sight_of(annotator).datasets)
        waiting = counts[task.kind][str(TaskState.OPEN)]
        labels = self._labels.shown(task, initial)
        return TaskView(
            id=task.id,
            kind=task.kind,
            dataset=context.provenance.dataset,
            stage=context.provenance.stage,
            round=context.provenance.round or None,
            image=image_view(image),
            lease_id=str(task.lease_id),
            expires_at=task.lease_expires_at or task.created_at,
            model=context.model,
            masks=[_mask_view(mask, labels[mask.mask_id]) for mask in initial],
            draft=None if draft is None else Draft(version=draft.version, data=draft.data),
            waiting=waiting + self._gold.ahead(annotator, task, waiting),
            note=task.payload.get("note"),
            candidates=[
                CandidateSet(name=self._name(one["annotator"]), mask_ids=one["mask_ids"])
                for one in task.payload.get("candidates", [])
            ],
            former=former_work(self._objects, self._masks, task, ids),
        )

    def _name(self, annotator_id: int | None) -> str | None:
        return None if annotator_id is None else self._catalog.annotators.get(annotator_id).name


def image_view(image: Image) -> ImageView:
    """The image as the page shows it."""
    return ImageView(id=image.id, width=image.width, height=image.height, file_name=image.file_name)


def _mask_view(mask: Mask, labels: dict[str, Any]) -> MaskView:
    return MaskView(
        mask_id=mask.mask_id,
        rle=rle_view(mask.rle),
        area=mask.area,
        box_xyxy=mask.box_xyxy,
        predicted_iou=mask.predicted_iou,
        source=mask.source,
        model=mask.model,
        annotator=mask.annotator,
        **labels,
    )
