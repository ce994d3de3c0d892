"""Stage 1: annotators click, the model predicts, brush and eraser fix (SAM paper, section 4)."""

from __future__ import annotations

from typing import Any

import numpy as np
from prefect import flow

from engine.core.records import Source
from engine.core.rle import RLE, decode
from engine.sam.tiles import TiledPredictor
from flows.stages.commit_answers import AnnotationFigures, commit_answers
from flows.stages.embeddings import make_embeddings
from flows.stages.rounds import context_of
from flows.stages.run_context import RunContext
from flows.stages.task_runner import (
    AnswerTask,
    TaskAnswer,
    answer_tasks,
    result_of,
    simulated_annotator,
    wait_for_people,
)
from flows.workspace.workspace import Workspace, open_workspace
from storage.catalog import PEOPLE, SIMULATED, Image, NewTask, Round, Task, TaskKind


@flow(name="assisted-manual")
def assisted_manual(workspace: str, round_id: int, wait: bool = True) -> dict[str, Any] | None:
    """Prefect flow around `run_assisted_manual`; returns the figures in stored form."""
    opened = open_workspace(workspace)
    figures = run_assisted_manual(opened, opened.catalog.rounds.get(round_id), wait=wait)
    return None if figures is None else figures.to_json()


def run_assisted_manual(
    workspace: Workspace, row: Round, *, wait: bool = True
) -> AnnotationFigures | None:
    """Queue the round's images without masks, collect the answers, commit the masks.

    Safe to repeat at any time: tasks, answers and commits are each done once.

    Returns:
        The round's figures; None if people still have tasks of it and `wait` is off.
    """
    context = context_of(workspace, row)
    workspace = workspace.as_started(workspace.catalog.runs.get(context.run_id))
    image_ids = workspace.catalog.rounds.image_ids(row.id)
    if context.annotator == PEOPLE:
        make_embeddings(workspace, context, image_ids)
    workspace.queue.add(
        [
            NewTask(
                dataset_id=context.dataset_id,
                image_id=image_id,
                kind=TaskKind.ANNOTATE,
                run_id=context.run_id,
                round_id=row.id,
            )
            for image_id in image_ids
        ]
    )
    if context.annotator == PEOPLE:
        if not wait_for_people(workspace, context, TaskKind.ANNOTATE, wait=wait):
            return None
    else:
        answer_tasks(
            workspace, context, TaskKind.ANNOTATE, image_ids, _annotator(workspace, context)
        )
    return commit_answers(workspace, context)


def _annotator(workspace: Workspace, context: RunContext) -> AnswerTask:
    annotator = simulated_annotator(workspace, context.model)
    drawn = context.provenance(Source.ANNOTATOR, annotator=SIMULATED)

    def answer(task: Task, image: Image, pixels_HWC: np.ndarray, truths: list[RLE]) -> TaskAnswer:
        viewer = TiledPredictor(annotator.segmenter, pixels_HWC)
        records = annotator.annotate(viewer, [decode(rle) for rle in truths])
        masks = [record.as_mask(drawn, image.id, number) for number, record in enumerate(records)]
        return TaskAnswer(masks, result_of(records))

    return answer
