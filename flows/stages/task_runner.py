"""Answers a run's tasks with the simulated annotator, or waits until people have answered them.

An answer is a Parquet object, written before the task is submitted.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from engine.core.records import Mask
from engine.core.rle import RLE
from engine.simulation.annotator import AnnotatedMask, AnnotatorConfig, SimulatedAnnotator
from flows.prefect_api import events
from flows.stages.run_context import RunContext
from flows.workspace import costs, progress
from flows.workspace.retry import lease_heartbeat, retry_during_outage
from flows.workspace.workspace import Workspace
from storage import layout
from storage.catalog import (
    SIMULATED,
    AnnotatorKind,
    CatalogError,
    Image,
    LeaseLostError,
    Task,
    TaskKind,
    TaskResult,
)
from storage.formats.images import BadImageError
from storage.masks import write_parquet

log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
"""Seconds between two queries for people's open tasks."""


@dataclass(frozen=True, slots=True)
class TaskAnswer:
    """An annotator's answer to a task."""

    masks: list[Mask]
    result: TaskResult


AnswerTask = Callable[[Task, Image, np.ndarray, list[RLE]], TaskAnswer]
"""Answers one task, given the image (H, W, 3) uint8 and its known true masks."""


def simulated_annotator(workspace: Workspace, model: str) -> SimulatedAnnotator:
    """Return the simulated annotator with the workspace's settings and one model version."""
    config = AnnotatorConfig(**workspace.settings.annotator.model_dump())
    return SimulatedAnnotator(workspace.segmenter(model), config)


def result_of(records: Sequence[AnnotatedMask]) -> TaskResult:
    """Return the simulated annotator's task result for these masks."""
    return TaskResult(
        made=len(records),
        clicks=sum(record.clicks for record in records),
        strokes=sum(record.strokes for record in records),
        seconds=sum(record.seconds for record in records),
    )


def answer_tasks(
    workspace: Workspace,
    context: RunContext,
    kind: TaskKind,
    image_ids: Collection[int],
    answer: AnswerTask,
    name: str = SIMULATED,
) -> None:
    """Lease and answer the run's tasks one by one, as the simulated annotator of this name, until
    none is left.

    Waits for tasks that other workers lease: they are free again when the lease expires.
    """
    seconds = workspace.settings.lease_seconds
    person = workspace.catalog.annotators.get_or_create(name, kind=AnnotatorKind.SIMULATED)
    truths = workspace.truths_of(list(image_ids))
    total = len(image_ids)
    what = f"{context.stage} round {context.round}" if context.round else str(kind)
    with progress.current().track(what, total, "image") as advance:
        advance(total - workspace.queue.pending(context.run_id))
        while workspace.queue.pending(context.run_id):
            task = workspace.queue.lease(
                person.id, kinds=[kind], seconds=seconds, run_id=context.run_id
            )
            if task is None:
                time.sleep(min(1.0, seconds / 4))
                continue
            try:
                answered = _answer_task(workspace, context, task, truths, answer)
            except BaseException:
                with contextlib.suppress(CatalogError):  # then the lease expires
                    workspace.queue.release(task.id, str(task.lease_id))
                raise
            if answered:
                advance()
                if context.round_id is not None and not workspace.queue.pending(context.run_id):
                    events.round_drained(workspace, context.round_id)


def pending_tasks(workspace: Workspace, run_id: str) -> int:
    """Return the number of the run's open and leased tasks, after freeing expired leases."""
    workspace.queue.expire()
    return workspace.queue.pending(run_id)


def wait_for_people(
    workspace: Workspace,
    context: RunContext,
    kind: TaskKind,
    *,
    wait: bool = True,
    pending: Callable[[Workspace, str], int] = pending_tasks,
) -> bool:
    """Wait until people have answered all tasks of the run at the annotation page; without
    `wait`, only check.

    It holds no lock or lease: the flow can be stopped and restarted at any time.

    Args:
        pending: returns the number of tasks of the run with this id that wait.

    Returns:
        Whether all are answered.
    """
    if not wait:
        return not pending(workspace, context.run_id)
    counts = workspace.queue.counts(run_id=context.run_id)
    total = max(sum(counts.values()), pending(workspace, context.run_id))
    progress.current().say(
        f"{total} images wait for people: start `dataengine annotate` in this workspace"
    )
    what = f"{context.stage} round {context.round}" if context.round else str(kind)
    outage_seconds = workspace.settings.outage_seconds
    with progress.current().track(what, total, "image") as advance:
        left = total
        while left:
            now = retry_during_outage(outage_seconds, lambda: pending(workspace, context.run_id))
            advance(left - now)
            left = now
            if left:
                time.sleep(LOOK_SECONDS)
    return True


def _answer_task(
    workspace: Workspace,
    context: RunContext,
    task: Task,
    truths: dict[int, list[RLE]],
    answer: AnswerTask,
) -> bool:
    seconds, lease_id = workspace.settings.lease_seconds, str(task.lease_id)
    image = workspace.catalog.images.get(task.image_id)
    with (
        costs.spending(workspace, context.run_id),
        lease_heartbeat(lambda: workspace.queue.renew(task.id, lease_id, seconds), seconds),
    ):
        try:
            pixels = retry_during_outage(
                workspace.settings.outage_seconds, partial(workspace.pixels, image)
            )
        except BadImageError as error:
            workspace.catalog.quarantine.add_image(image, error, stage=context.stage)
            done = TaskAnswer([], TaskResult(quarantined=str(error)))
        else:
            done = answer(task, image, pixels, truths.get(image.id, []))
        key = layout.ANSWER.key(run=context.run_id, task=task.id, attempt=lease_id)
        workspace.objects.put(key, write_parquet(done.masks))
    try:
        workspace.queue.submit(task.id, lease_id, key, done.result)
    except LeaseLostError:
        return False  # its new owner submits it
    ids = {"run_id": context.run_id, "task_id": task.id, "image_id": image.id}
    log.info("task answered", extra={**ids, "masks": len(done.masks)})
    return True
