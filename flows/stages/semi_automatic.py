"""Stage 2: confident masks are pre-filled, annotators add the rest (SAM paper, section 4).

The pre-filled masks are the automatic generator's most confident ones, those of the current
detector, or both, or those that `generate --text` kept (`[prefill] source`).
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from prefect import flow

from engine.automatic import MaskGenerator
from engine.core.metrics import match
from engine.core.records import Mask, Source
from engine.core.rle import RLE, decode, iou_matrix
from engine.sam import Segmenter
from engine.sam.tiles import TiledPredictor
from flows.stages.annotation_round import run_annotation_round
from flows.stages.commit_answers import AnnotationFigures
from flows.stages.fully_automatic import mask_generator
from flows.stages.run_context import RunContext
from flows.stages.task_runner import AnswerTask, TaskAnswer, result_of, simulated_annotator
from flows.training.detector import load_detector
from flows.workspace import costs, progress
from flows.workspace.gold import gold_for_people
from flows.workspace.workspace import Workspace, open_workspace
from storage import layout
from storage.catalog import Image, Round, RunKind, Task, TaskKind
from storage.formats.images import BadImageError
from storage.masks import read_parquet, write_parquet
from storage.objects import ObjectExistsError, named_by_catalog

if TYPE_CHECKING:  # it imports torchvision, which takes seconds
    from engine.detector import Detector

log = logging.getLogger(__name__)

RUNS = 1_000
"""Latest runs that are searched."""


@flow(name="semi-automatic")
def semi_automatic(workspace: str, round_id: int, wait: bool = True) -> dict[str, Any] | None:
    """Prefect flow around `run_semi_automatic`; returns the figures in stored form."""
    opened = open_workspace(workspace)
    figures = run_semi_automatic(opened, opened.catalog.rounds.get(round_id), wait=wait)
    return None if figures is None else figures.to_json()


def run_semi_automatic(
    workspace: Workspace, row: Round, *, wait: bool = True
) -> AnnotationFigures | None:
    """Run a round whose images are queued with confident masks, as `run_annotation_round`."""
    return run_annotation_round(workspace, row, TaskKind.COMPLETE, _prefill, _annotator, wait=wait)


def _prefill(workspace: Workspace, context: RunContext, image_ids: list[int]) -> None:
    """Store each image's confident masks, and queue the image with them. Gold images get masks
    too, as their tasks must look like the others."""
    gold = set(gold_for_people(workspace, context.dataset_id, context.annotator)) - set(image_ids)
    every = [*image_ids, *sorted(gold)]
    find = _finder(workspace, context)
    with (
        costs.spending(workspace, context.run_id),
        progress.current().track("pre-fill", len(every), "image") as advance,
    ):
        for image in workspace.catalog.images.get_many(every):
            key = layout.PREFILL.key(run=context.run_id, name=image.id)
            if not workspace.objects.exists(key):
                try:
                    masks = find(image)
                except BadImageError:
                    masks = []  # the worker that leases the task quarantines the image
                with contextlib.suppress(ObjectExistsError):  # another process was faster
                    workspace.objects.put(key, write_parquet(masks))
            if image.id not in gold:
                workspace.queue.add([context.task(TaskKind.COMPLETE, image.id, prefill=key)])
            advance()


def _finder(workspace: Workspace, context: RunContext) -> Callable[[Image], list[Mask]]:
    """Return the function that makes an image's pre-filled masks."""
    source = workspace.settings.prefill.source
    if source == "words":
        return _words_finder(workspace, context)
    generator = mask_generator(workspace, context.model)
    detector = None if source == "generator" else load_detector(workspace, context.model)
    if detector is None and source != "generator":
        log.warning(
            "no detector reads the embeddings of %s: the generator's confident masks pre-fill "
            "the images; `dataengine retrain` or `dataengine detector train` trains one",
            context.model,
        )

    def find(image: Image) -> list[Mask]:
        pixels = workspace.pixels(image)
        if detector is None:
            return _confident(generator, context, image.id, pixels)
        masks = _detected(generator.segmenter, detector, context, image.id, pixels)
        if source == "detector":
            return masks
        from engine.detector.prefill import ScoredMask, keep_distinct

        masks += _confident(generator, context, image.id, pixels)
        kept = keep_distinct([ScoredMask(m.rle, m.predicted_iou or 0.0) for m in masks])
        return [masks[index] for index in kept]

    return find


def _words_finder(workspace: Workspace, context: RunContext) -> Callable[[Image], list[Mask]]:
    """Return the function that takes an image's masks of asked words. One that is kept supersedes
    the automatic mask, and so has its label."""
    from engine.detector.prefill import ScoredMask, keep_distinct

    runs = workspace.catalog.runs.all(dataset_id=context.dataset_id, kind=RunKind.WORDS, limit=RUNS)
    of_words = {run.id for run in runs}
    rejected = workspace.catalog.verdicts.rejected_mask_ids(context.dataset_id)
    origin = context.provenance(Source.PREFILL)

    def find(image: Image) -> list[Mask]:
        there = [
            mask
            for mask in workspace.masks.masks(image_ids=[image.id], current_only=True)
            if mask.run_id in of_words
        ]
        wanted = [mask for mask in there if mask.mask_id not in rejected]
        kept = keep_distinct([ScoredMask(m.rle, m.predicted_iou or 0.0) for m in wanted])
        return [
            origin.mask(
                image.id,
                number,
                wanted[row].rle,
                predicted_iou=wanted[row].predicted_iou,
                stability_score=wanted[row].stability_score,
                point_xy=wanted[row].point_xy,
                crop_xyxy=wanted[row].crop_xyxy,
                supersedes=wanted[row].mask_id,
            )
            for number, row in enumerate(kept)
        ]

    return find


def _confident(
    generator: MaskGenerator, context: RunContext, image_id: int, pixels_HWC: np.ndarray
) -> list[Mask]:
    least = generator.segmenter.thresholds.confident_iou
    sure = [mask for mask in generator.generate(pixels_HWC) if mask.predicted_iou >= least]
    origin = context.provenance(Source.PREFILL)
    return [mask.as_mask(origin, image_id, n) for n, mask in enumerate(sure)]


def _detected(
    segmenter: Segmenter,
    detector: Detector,
    context: RunContext,
    image_id: int,
    pixels_HWC: np.ndarray,
) -> list[Mask]:
    from engine.detector.masks import detect_masks

    found = detect_masks(segmenter, detector, pixels_HWC, segmenter.embed(pixels_HWC))
    sure = [mask for mask in found if mask.confidence >= detector.card.confident]
    origin = context.provenance(Source.PREFILL)
    return [mask.as_mask(origin, image_id, n) for n, mask in enumerate(sure)]


def _annotator(workspace: Workspace, context: RunContext, name: str) -> AnswerTask:
    annotator = simulated_annotator(workspace, context.model)
    drawn = context.provenance(Source.ANNOTATOR, annotator=name)

    def answer(task: Task, image: Image, pixels_HWC: np.ndarray, truths: list[RLE]) -> TaskAnswer:
        """Keep correct masks, drop wrong ones, add the most prominent missing ones."""
        config = annotator.config
        with named_by_catalog():
            given = read_parquet(workspace.objects.get(task.payload["prefill"]))
        overlap = iou_matrix([mask.rle for mask in given], truths)
        pairs = match(overlap, config.accept_iou)
        kept = [replace(given[index], annotator=name) for index, _ in pairs]
        found = {truth for _, truth in pairs}
        missing = [decode(rle) for index, rle in enumerate(truths) if index not in found]
        viewer = TiledPredictor(annotator.segmenter, pixels_HWC)
        records = annotator.annotate(viewer, missing)
        made = [r.as_mask(drawn, image.id, f"added-{n}") for n, r in enumerate(records)]
        result = result_of(records)
        result = replace(
            result,
            prefilled=len(given),
            prefilled_kept=len(kept),
            seconds=result.seconds + len(given) * config.cost.glance,
        )
        return TaskAnswer([*kept, *made], result)

    return answer
