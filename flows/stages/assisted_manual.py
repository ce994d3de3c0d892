"""Stage 1: people click, the model answers, brush and eraser fix it (SAM paper, section 4)."""

from __future__ import annotations

from typing import Any

import numpy as np
from prefect import flow

from engine.core.rle import RLE, decode
from engine.sam.tiles import TiledPredictor
from flows.stages.answers import (
    PEOPLE,
    Answer,
    Job,
    commit_answers,
    figures_of,
    make_embeddings,
    mask_of,
    simulated_annotator,
    wait_for_people,
    work_off,
)
from flows.stages.rounds import job_of
from flows.workspace.workspace import Workspace, open_workspace
from storage.annotation_queue import NewTask, Task
from storage.catalog import Image, Round, TaskKind


@flow(name="assisted-manual")
def assisted_manual(workspace: str, round_id: int, wait: bool = True) -> dict[str, Any] | None:
    """Prefect's door to `run_assisted_manual`."""
    opened = open_workspace(workspace)
    return run_assisted_manual(opened, opened.catalog.rounds.get(round_id), wait=wait)


def run_assisted_manual(
    workspace: Workspace, row: Round, *, wait: bool = True
) -> dict[str, Any] | None:
    """Queue the round's images, have them annotated from nothing, commit the masks.

    Safe to call again at any time: tasks, answers and commits are each done once.

    Returns:
        The round's figures; None where people still have tasks of it and `wait` is off.
    """
    job = job_of(workspace, row)
    workspace = workspace.as_started(workspace.catalog.runs.get(job.run_id))
    image_ids = workspace.catalog.rounds.image_ids(row.id)
    if job.annotator == PEOPLE:
        make_embeddings(workspace, job, image_ids)
    workspace.queue.add(
        [
            NewTask(
                dataset_id=job.dataset_id,
                image_id=image_id,
                kind=TaskKind.ANNOTATE,
                run_id=job.run_id,
                round_id=row.id,
            )
            for image_id in image_ids
        ]
    )
    if job.annotator == PEOPLE:
        if not wait_for_people(workspace, job, TaskKind.ANNOTATE, wait=wait):
            return None
    else:
        work_off(workspace, job, TaskKind.ANNOTATE, image_ids, _annotator(workspace, job))
    return commit_answers(workspace, job)


def _annotator(workspace: Workspace, job: Job) -> Any:
    annotator = simulated_annotator(workspace, job.model)

    def answer(task: Task, image: Image, pixels_HWC: np.ndarray, truths: list[RLE]) -> Answer:
        viewer = TiledPredictor(annotator.segmenter, pixels_HWC)
        records = annotator.annotate(viewer, [decode(rle) for rle in truths])
        masks = [
            mask_of(job, image.id, str(number), record) for number, record in enumerate(records)
        ]
        return Answer(masks, figures_of(records))

    return answer
