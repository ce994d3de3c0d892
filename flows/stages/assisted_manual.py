"""Stage 1: annotators click, the model predicts, brush and eraser fix (SAM paper, section 4)."""

from __future__ import annotations

from typing import Any

import numpy as np
from prefect import flow

from engine.core.records import Source
from engine.core.rle import RLE, decode
from engine.sam.tiles import TiledPredictor
from flows.stages.annotation_round import run_annotation_round
from flows.stages.commit_answers import AnnotationFigures
from flows.stages.run_context import RunContext
from flows.stages.task_runner import AnswerTask, TaskAnswer, result_of, simulated_annotator
from flows.workspace.workspace import Workspace, open_workspace
from storage.catalog import Image, Round, Task, TaskKind


@flow(name="assisted-manual")
def assisted_manual(workspace: str, round_id: int, wait: bool = True) -> dict[str, Any] | None:
    """Prefect flow around `run_assisted_manual`; returns the figures in stored form."""
    opened = open_workspace(workspace)
    figures = run_assisted_manual(opened, opened.catalog.rounds.get(round_id), wait=wait)
    return None if figures is None else figures.to_json()


def run_assisted_manual(
    workspace: Workspace, row: Round, *, wait: bool = True
) -> AnnotationFigures | None:
    """Run a round whose images are queued without masks, as `run_annotation_round`."""
    return run_annotation_round(workspace, row, TaskKind.ANNOTATE, _queue, _annotator, wait=wait)


def _queue(workspace: Workspace, context: RunContext, image_ids: list[int]) -> None:
    workspace.queue.add([context.task(TaskKind.ANNOTATE, image_id) for image_id in image_ids])


def _annotator(workspace: Workspace, context: RunContext, name: str) -> AnswerTask:
    annotator = simulated_annotator(workspace, context.model)
    drawn = context.provenance(Source.ANNOTATOR, annotator=name)

    def answer(task: Task, image: Image, pixels_HWC: np.ndarray, truths: list[RLE]) -> TaskAnswer:
        viewer = TiledPredictor(annotator.segmenter, pixels_HWC)
        records = annotator.annotate(viewer, [decode(rle) for rle in truths])
        masks = [record.as_mask(drawn, image.id, number) for number, record in enumerate(records)]
        return TaskAnswer(masks, result_of(records))

    return answer
