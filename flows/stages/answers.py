"""What stages 1 and 2 share: answers of annotators become masks of the table.

An answer is a Parquet object, written before the task is submitted. When no task of the run is
left, the answers are committed to the mask table shard by shard, each exactly once.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from itertools import groupby
from typing import Any

import numpy as np

from engine.annotation.embeddings import embedding_key, make_embedding
from engine.automatic import GeneratedMask
from engine.core import rle as rle_codec
from engine.core.records import Mask, Source, Stage
from engine.core.rle import RLE
from engine.simulation.annotator import AnnotatedMask, AnnotatorConfig, SimulatedAnnotator
from flows.prefect_api import events
from flows.workspace import costs, progress
from flows.workspace.retry import kept_alive, patiently
from flows.workspace.workspace import Workspace
from storage import layout
from storage.annotation_queue import Task
from storage.catalog import AnnotatorKind, CatalogError, Image, LeaseLostError, TaskKind
from storage.formats.images import BadImageError
from storage.masks import read_parquet, write_parquet
from storage.objects import named_by_catalog
from storage.trajectories import join_trajectories

log = logging.getLogger(__name__)

SIMULATED = "simulated"
"""Name of the simulated annotator in the catalog, and who annotates a round by default."""

PEOPLE = "people"
"""Who annotates a round whose tasks are left to the annotation page."""

LOOK_SECONDS = 1.0
"""How often a flow looks whether people are through."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """The run that tasks belong to."""

    run_id: str
    dataset: str
    dataset_id: int
    round_id: int | None
    stage: Stage
    round: int
    model: str
    annotator: str = SIMULATED
    """`simulated`, or `people` at the annotation page."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What an annotator hands in: masks, and figures for the round's table."""

    masks: list[Mask]
    figures: dict[str, Any]


def simulated_annotator(workspace: Workspace, model: str) -> SimulatedAnnotator:
    """The simulated annotator with the workspace's settings, using one model version."""
    chosen = workspace.settings.annotator
    config = AnnotatorConfig(
        good_iou=chosen.good_iou, max_clicks=chosen.max_clicks, max_objects=chosen.max_objects
    )
    return SimulatedAnnotator(workspace.segmenter(model), config)


def work_off(
    workspace: Workspace,
    job: Job,
    kind: TaskKind,
    image_ids: Collection[int],
    answer: Callable[[Task, Image, np.ndarray, list[RLE]], Answer],
) -> None:
    """Lease the run's tasks one by one and answer them, until none is left.

    A task that another worker holds is waited for: it comes back when its lease expires.
    """
    seconds = workspace.settings.lease_seconds
    person = workspace.catalog.annotators.get_or_create(SIMULATED, kind=AnnotatorKind.SIMULATED)
    truths = workspace.truths_of(list(image_ids))
    total = len(image_ids)
    what = f"{job.stage} round {job.round}" if job.round else str(kind)
    with progress.current().track(what, total, "image") as advance:
        advance(total - workspace.queue.pending(job.run_id))
        while workspace.queue.pending(job.run_id):
            task = workspace.queue.lease(
                person.id, kinds=[kind], seconds=seconds, run_id=job.run_id
            )
            if task is None:
                time.sleep(min(1.0, seconds / 4))
                continue
            try:
                answered = _answer_task(workspace, job, task, truths, answer)
            except BaseException:
                with contextlib.suppress(CatalogError):  # else it is free when its lease runs out
                    workspace.queue.release(task.id, str(task.lease_id))
                raise
            if answered:
                advance()
                if job.round_id is not None and not workspace.queue.pending(job.run_id):
                    events.round_drained(workspace, job.round_id)


def wait_for_people(workspace: Workspace, job: Job, kind: TaskKind, *, wait: bool = True) -> bool:
    """Wait until people have answered all tasks of the run at the annotation page; without
    `wait`, only look whether they have.

    Nothing is held meanwhile: the flow may be stopped and started again at any time.

    Returns:
        Whether all are answered.
    """
    if not wait:
        return not workspace.queue.pending(job.run_id)
    counts = workspace.queue.counts(run_id=job.run_id)
    total = sum(counts.values())
    progress.current().say(
        f"{total} images wait for people: start `dataengine annotate` in this workspace"
    )
    what = f"{job.stage} round {job.round}" if job.round else str(kind)
    patience = workspace.settings.outage_seconds
    with progress.current().track(what, total, "image") as advance:
        left = total
        while left:
            pending = patiently(patience, lambda: _pending(workspace, job.run_id))
            advance(left - pending)
            left = pending
            if left:
                time.sleep(LOOK_SECONDS)
    return True


def _pending(workspace: Workspace, run_id: str) -> int:
    workspace.queue.expire()
    return workspace.queue.pending(run_id)


def make_embeddings(workspace: Workspace, job: Job, image_ids: Collection[int]) -> None:
    """Make the embeddings of a round's images, so that the first click on each is answered at
    once. Broken images are left to whoever takes their task, who quarantines them."""
    segmenter = workspace.segmenter(job.model)
    images = workspace.catalog.images.get_many(list(image_ids))
    with (
        costs.spending(workspace, job.run_id),
        progress.current().track("embeddings", len(image_ids), "image") as advance,
    ):
        for image in images:
            key = embedding_key(job.model, image.id)
            if not workspace.objects.exists(key):
                with contextlib.suppress(BadImageError):
                    make_embedding(workspace.objects, segmenter, key, workspace.pixels(image))
            advance()


def _answer_task(
    workspace: Workspace,
    job: Job,
    task: Task,
    truths: dict[int, list[RLE]],
    answer: Callable[[Task, Image, np.ndarray, list[RLE]], Answer],
) -> bool:
    seconds, lease_id = workspace.settings.lease_seconds, str(task.lease_id)
    image = workspace.catalog.images.get(task.image_id)
    with (
        costs.spending(workspace, job.run_id),
        kept_alive(lambda: workspace.queue.renew(task.id, lease_id, seconds), seconds),
    ):
        try:
            pixels = patiently(workspace.settings.outage_seconds, partial(workspace.pixels, image))
        except BadImageError as error:
            workspace.catalog.quarantine.add(
                job.dataset_id, image.file_name, str(error), stage=job.stage, image_id=image.id
            )
            done = Answer([], {"quarantined": str(error)})
        else:
            done = answer(task, image, pixels, truths.get(image.id, []))
        key = layout.ANSWER.key(run=job.run_id, task=task.id, attempt=lease_id)
        workspace.objects.put(key, write_parquet(done.masks))
    try:
        workspace.queue.submit(task.id, lease_id, key, done.figures)
    except LeaseLostError:
        return False  # somebody else has it now, and will hand it in
    ids = {"run_id": job.run_id, "task_id": task.id, "image_id": image.id}
    log.info("task answered", extra={**ids, "masks": len(done.masks)})
    return True


def mask_of(
    job: Job,
    image_id: int,
    name: str,
    record: AnnotatedMask,
    *,
    supersedes: str | None = None,
) -> Mask:
    """The row for a mask that the simulated annotator made."""
    coded = rle_codec.encode(record.mask_HW)
    return Mask(
        mask_id=f"{job.run_id}/{image_id}/{name}",
        image_id=image_id,
        dataset=job.dataset,
        stage=job.stage,
        round=job.round,
        run_id=job.run_id,
        shard=0,
        model=job.model,
        source=Source.ANNOTATOR,
        annotator=SIMULATED,
        rle=coded,
        area=rle_codec.area(coded),
        box_xyxy=rle_codec.box_xyxy(coded),
        predicted_iou=record.predicted_iou,
        point_xy=record.point_xy,
        clicks=record.clicks,
        seconds=record.seconds,
        supersedes=supersedes,
        created_at=datetime.now(UTC),
    )


def masks_of(
    job: Job, image_id: int, found: Sequence[GeneratedMask], *, shard: int, source: Source
) -> list[Mask]:
    """Rows for generated masks."""
    now = datetime.now(UTC)
    return [
        Mask(
            mask_id=f"{job.run_id}/{image_id}/{number}",
            image_id=image_id,
            dataset=job.dataset,
            stage=job.stage,
            round=job.round,
            run_id=job.run_id,
            shard=shard,
            model=job.model,
            source=source,
            rle=mask.rle,
            area=mask.area,
            box_xyxy=mask.box_xyxy,
            predicted_iou=mask.predicted_iou,
            stability_score=mask.stability_score,
            point_xy=mask.point_xy,
            crop_xyxy=mask.crop_xyxy,
            created_at=now,
        )
        for number, mask in enumerate(found)
    ]


def commit_answers(workspace: Workspace, job: Job) -> dict[str, Any]:
    """Put all submitted answers of the run into the mask table; the round's figures."""
    workspace.queue.assign_shards(job.run_id, workspace.settings.shard_images)
    tasks = list(workspace.queue.submitted(job.run_id))
    with progress.current().track("commit masks", len(tasks), "image") as advance:
        by_shard = sorted(tasks, key=lambda task: (task.shard or 0, task.id))
        for shard, members in groupby(by_shard, key=lambda task: task.shard or 0):
            group = list(members)
            answers = _answers(workspace, job, shard, group)  # read if they are not there yet
            workspace.masks.commit(answers, run_id=job.run_id, shard=shard)
            advance(len(group))
    return _figures(tasks)


def _answers(workspace: Workspace, job: Job, shard: int, tasks: Sequence[Task]) -> Iterator[Mask]:
    """The masks of a shard's answers, after the one object of how they came to be."""
    _keep_trajectories(workspace, job, shard, tasks)
    for task in tasks:
        for mask in read_parquet(_object_of(workspace, str(task.result_key))):
            yield replace(mask, shard=shard)


def _object_of(workspace: Workspace, key: str) -> bytes:
    """What a task's row names."""
    with named_by_catalog():
        return workspace.objects.get(key)


def _keep_trajectories(workspace: Workspace, job: Job, shard: int, tasks: Sequence[Task]) -> None:
    """Make one object of what people's answers of a shard say of how they came to be."""
    keys = [(task.result or {}).get("trajectories") for task in tasks]
    found = [_object_of(workspace, key) for key in keys if key]
    if found:
        data = join_trajectories(found)
        workspace.objects.put(layout.STEPS.key(run=job.run_id, shard=shard), data)


def _figures(tasks: Sequence[Task]) -> dict[str, Any]:
    """Sums over the tasks' results, and means: what a mask of the round cost, the pre-filled ones
    that were kept among them, and what a mask cost that a person had to add."""
    results = [task.result or {} for task in tasks]

    def total(name: str) -> float:
        return float(sum(result.get(name, 0) for result in results))

    made, kept = total("made"), total("prefilled_kept")
    masks, images = made + kept, len(tasks)
    return {
        "images": images,
        "masks": int(masks),
        "masks_per_image": masks / images if images else 0.0,
        "prefilled": int(total("prefilled")),
        "prefilled_kept": int(kept),
        "clicks_per_mask": total("clicks") / masks if masks else None,
        "strokes_per_mask": total("strokes") / masks if masks else None,
        "seconds_per_mask": total("seconds") / masks if masks else None,
        "clicks_per_added_mask": total("clicks") / made if made else None,
        "quarantined": sum("quarantined" in result for result in results),
    }


def figures_of(records: Sequence[AnnotatedMask]) -> dict[str, Any]:
    """One task's share of the figures."""
    return {
        "made": len(records),
        "clicks": sum(record.clicks for record in records),
        "strokes": sum(record.strokes for record in records),
        "seconds": sum(record.seconds for record in records),
    }
