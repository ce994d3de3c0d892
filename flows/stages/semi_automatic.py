"""Stage 2: confident masks are pre-filled, people add what is missing (SAM paper, section 4).

For now the pre-filled masks are the automatic generator's most confident ones.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import Any

import numpy as np
from prefect import flow

from engine.core.metrics import match
from engine.core.records import Mask, Source
from engine.core.rle import RLE, decode, iou_matrix
from engine.sam.zoom import Zoom
from flows.stages.answers import (
    PEOPLE,
    SIMULATED,
    Answer,
    Job,
    commit_answers,
    figures_of,
    make_embeddings,
    mask_of,
    masks_of,
    simulated_annotator,
    wait_for_people,
    work_off,
)
from flows.stages.fully_automatic import mask_generator
from flows.stages.rounds import job_of
from flows.workspace import costs, progress
from flows.workspace.workspace import Workspace, open_workspace
from storage import layout
from storage.annotation_queue import NewTask, Task
from storage.catalog import Image, Round, TaskKind
from storage.formats.images import BadImageError
from storage.masks import read_parquet, write_parquet
from storage.objects import ObjectExistsError, named_by_catalog


@flow(name="semi-automatic")
def semi_automatic(workspace: str, round_id: int, wait: bool = True) -> dict[str, Any] | None:
    """Prefect's door to `run_semi_automatic`."""
    opened = open_workspace(workspace)
    return run_semi_automatic(opened, opened.catalog.rounds.get(round_id), wait=wait)


def run_semi_automatic(
    workspace: Workspace, row: Round, *, wait: bool = True
) -> dict[str, Any] | None:
    """Pre-fill the round's images, queue them, have them completed, commit the masks.

    Safe to call again at any time.

    Returns:
        The round's figures; None where people still have tasks of it and `wait` is off.
    """
    job = job_of(workspace, row)
    workspace = workspace.as_started(workspace.catalog.runs.get(job.run_id))
    image_ids = workspace.catalog.rounds.image_ids(row.id)
    if job.annotator == PEOPLE:
        make_embeddings(workspace, job, image_ids)
    prefill(workspace, job, image_ids)
    if job.annotator == PEOPLE:
        if not wait_for_people(workspace, job, TaskKind.COMPLETE, wait=wait):
            return None
    else:
        work_off(workspace, job, TaskKind.COMPLETE, image_ids, _annotator(workspace, job))
    return commit_answers(workspace, job)


def prefill(workspace: Workspace, job: Job, image_ids: list[int]) -> None:
    """Make each image's confident masks, store them, and queue the image with them."""
    generator = mask_generator(workspace, job.model)
    least = generator.segmenter.thresholds.confident_iou
    with (
        costs.spending(workspace, job.run_id),
        progress.current().track("pre-fill", len(image_ids), "image") as advance,
    ):
        for image in workspace.catalog.images.get_many(image_ids):
            key = layout.PREFILL.key(run=job.run_id, name=image.id)
            if not workspace.objects.exists(key):
                try:
                    found = generator.generate(workspace.pixels(image))
                except BadImageError:
                    found = []  # whoever takes the task quarantines the image
                sure = [mask for mask in found if mask.predicted_iou >= least]
                masks = masks_of(job, image.id, sure, shard=0, source=Source.PREFILL)
                with contextlib.suppress(ObjectExistsError):  # another process was faster
                    workspace.objects.put(key, write_parquet(masks))
            workspace.queue.add(
                [
                    NewTask(
                        dataset_id=job.dataset_id,
                        image_id=image.id,
                        kind=TaskKind.COMPLETE,
                        run_id=job.run_id,
                        round_id=job.round_id,
                        payload={"prefill": key},
                    )
                ]
            )
            advance()


def _annotator(workspace: Workspace, job: Job) -> Any:
    annotator = simulated_annotator(workspace, job.model)

    def answer(task: Task, image: Image, pixels_HWC: np.ndarray, truths: list[RLE]) -> Answer:
        """Keep what is right, reject what is wrong, add the most prominent of the rest."""
        config = annotator.config
        with named_by_catalog():
            given = read_parquet(workspace.objects.get(task.payload["prefill"]))
        overlap = iou_matrix([mask.rle for mask in given], truths)
        pairs = match(overlap, config.accept_iou)
        kept = [_confirmed(given[index]) for index, _ in pairs]
        found = {truth for _, truth in pairs}
        missing = [decode(rle) for index, rle in enumerate(truths) if index not in found]
        viewer = Zoom(annotator.segmenter, pixels_HWC)
        records = annotator.annotate(viewer, missing)
        made = [
            mask_of(job, image.id, f"added-{number}", record)
            for number, record in enumerate(records)
        ]
        figures = figures_of(records)
        figures["prefilled"], figures["prefilled_kept"] = len(given), len(kept)
        figures["seconds"] += len(given) * config.cost.glance
        return Answer([*kept, *made], figures)

    return answer


def _confirmed(mask: Mask) -> Mask:
    """A pre-filled mask that the annotator let stand."""
    return replace(mask, annotator=SIMULATED)
