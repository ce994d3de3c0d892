"""Review: queues a sample of masks for verdicts, of automatic ones by default.

A mask is accepted, rejected or fixed. A fix is a new mask that supersedes the old one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from prefect import flow

from engine.annotation.returns import Returns
from engine.core.batches import batches
from engine.core.records import Mask, Source
from engine.core.rle import RLE, decode, iou_matrix
from engine.sam.tiles import TiledPredictor
from flows.review.retrain_triggers import emit_due_events
from flows.review.returned import queue_second_review
from flows.review.wanted import AUTOMATIC, Wanted, masks_by_rules
from flows.stages.commit_answers import commit_answers
from flows.stages.embeddings import make_embeddings
from flows.stages.run_context import RunContext, context_without_round
from flows.stages.task_runner import (
    AnswerTask,
    TaskAnswer,
    answer_tasks,
    simulated_annotator,
    wait_for_people,
)
from flows.workspace.run_lock import named_lock, review_lock, tracked_run
from flows.workspace.workspace import Workspace, code_version, open_workspace
from storage.catalog import (
    PEOPLE,
    SIMULATED,
    AnnotatorKind,
    Dataset,
    Image,
    NewVerdict,
    RunKind,
    Task,
    TaskKind,
    TaskResult,
    TaskVerdict,
    VerdictKind,
    new_id,
)

SAMPLE_IMAGES = 20
"""Images of a sample by default."""

MASKS_PER_IMAGE = 12
"""Maximum number of masks in a review task, except by the rules."""

FIXABLE_IOU = 0.5
"""Minimum IoU at which the simulated reviewer fixes a mask instead of rejecting it."""

IMAGES_AT_ONCE = 256
"""Images whose masks are read at once in the search for masks that no review task contains."""


@flow(name="review")
def review(
    workspace: str,
    dataset: str,
    images: int | None = None,
    run_id: str | None = None,
    seed: int | None = None,
    annotator: str = SIMULATED,
    only: dict[str, str] | None = None,
    rules: bool = False,
) -> dict[str, Any]:
    """Prefect flow: queue a sample, and collect verdicts of the simulated annotator or of `people`.
    The simulated annotator gets images with ground truth only. `only`: arguments of
    `Wanted.parse`. `rules`: people's masks by the rules, of all images unless a number is given."""
    opened = open_workspace(workspace)
    wanted = Wanted.parse(**(only or {}), rules=rules)
    context = start_review(opened, dataset, run_id or new_id(), wanted)
    opened = opened.as_started(opened.catalog.runs.get(context.run_id))
    with_truth = annotator == SIMULATED
    with tracked_run(opened, context.run_id):
        chosen = queue_sample(opened, context, images, seed, wanted, with_truth=with_truth)
        if annotator == PEOPLE:
            wait_for_people(opened, context, TaskKind.REVIEW)
        else:
            answer_tasks(
                opened,
                context,
                TaskKind.REVIEW,
                sorted(chosen),
                simulated_reviewer(opened, context),
            )
        figures = finish_review(opened, context).to_json()
        opened.catalog.runs.finish(context.run_id, figures)
    return figures


def queue_sample(
    workspace: Workspace,
    context: RunContext,
    images: int | None,
    seed: int | None,
    wanted: Wanted = AUTOMATIC,
    *,
    with_truth: bool,
) -> dict[int, int]:
    """Draw a sample (`sample_masks`) and queue it, once per run; without a seed, each run draws
    another one.

    Args:
        images: the most images; None: SAMPLE_IMAGES, or all with rules.

    Returns:
        Image id -> number of its masks to judge.
    """
    with named_lock(workspace, review_lock(context.dataset_id)):
        if not workspace.catalog.verdicts.asked_in_run(context.run_id):
            chosen = list(context.run_id.encode()) if seed is None else seed
            sample = sample_masks(
                workspace, context.dataset, images, chosen, wanted, with_truth=with_truth
            )
            if not with_truth:  # people do not wait for the model
                make_embeddings(workspace, context, sorted(sample))
            queue_review(workspace, context, sample)
    asked = workspace.catalog.verdicts.asked_in_run(context.run_id)
    return {image_id: len(names) for image_id, names in asked.items()}


def start_review(
    workspace: Workspace, dataset: str, run_id: str, wanted: Wanted = AUTOMATIC
) -> RunContext:
    """Start a review run, unless it exists; return its context."""
    row = workspace.catalog.datasets.get(dataset)
    model = workspace.current_model().version
    run = workspace.catalog.runs.start(
        run_id,
        RunKind.REVIEW,
        dataset_id=row.id,
        model=model,
        config={"settings": workspace.settings.shaping(), **wanted.to_config()},
        code_version=code_version(),
    )
    return context_without_round(workspace, run)


def sample_masks(
    workspace: Workspace,
    dataset: str,
    images: int | None,
    seed: int | list[int],
    wanted: Wanted = AUTOMATIC,
    *,
    with_truth: bool = True,
) -> dict[int, list[Mask]]:
    """Return masks of random images that no review task contains, by image, at most
    MASKS_PER_IMAGE of each; by the rules, all that they name. `with_truth`: images with ground
    truth only."""
    row = workspace.catalog.datasets.get(dataset)
    truth = workspace.images_with_truth(dataset) if with_truth else None
    if wanted.rules:
        return masks_by_rules(workspace, row, wanted, images=images, within=truth)
    counts = workspace.masks.counts(
        ("image_id",), dataset=dataset, source=wanted.source, stage=wanted.stage
    )
    known = {int(str(key[0])) for key in counts}
    if truth is not None:
        known &= truth
    return draw_masks(
        workspace, row, known, images or SAMPLE_IMAGES, seed, wanted.suits, wanted.source
    )


def draw_masks(
    workspace: Workspace,
    dataset: Dataset,
    image_ids: Collection[int],
    images: int,
    seed: int | list[int],
    suits: Callable[[Mask], bool] = lambda mask: True,
    source: Source | None = Source.AUTOMATIC,
) -> dict[int, list[Mask]]:
    """Draw images that have masks that suit and that no review task contains; return such masks by
    image, at most MASKS_PER_IMAGE of each. `source`: of the masks; None: any."""
    rng = np.random.default_rng(seed)
    asked = workspace.catalog.verdicts.asked_mask_ids(dataset.id)
    order = rng.permutation(sorted(image_ids)).tolist()
    chosen: dict[int, list[Mask]] = {}
    for part in batches(order, max(images, IMAGES_AT_ONCE)):
        if len(chosen) == images:
            break
        found: dict[int, list[Mask]] = {}
        for mask in workspace.masks.masks(
            dataset=dataset.name, source=source, image_ids=part, current_only=True
        ):
            if mask.mask_id not in asked and suits(mask):
                found.setdefault(mask.image_id, []).append(mask)
        for image_id in [i for i in part if i in found][: images - len(chosen)]:
            masks = found[image_id]
            picked = sorted(rng.permutation(len(masks))[:MASKS_PER_IMAGE])
            chosen[image_id] = [masks[index] for index in picked]
    return dict(sorted(chosen.items()))


def queue_review(workspace: Workspace, context: RunContext, sample: dict[int, list[Mask]]) -> None:
    """Queue one task per image, which names the masks to judge."""
    ids = {image_id: [mask.mask_id for mask in masks] for image_id, masks in sample.items()}
    tasks = [context.task(TaskKind.REVIEW, image, mask_ids=names) for image, names in ids.items()]
    workspace.queue.add(tasks)


def simulated_reviewer(
    workspace: Workspace, context: RunContext, *, is_exact: bool = False
) -> AnswerTask:
    """Return the simulated reviewer of a run, who judges and fixes by ground truth.

    Args:
        is_exact: fix each mask that is not yet as a finished mask (`finish_iou`), instead of
            accepting masks that are good enough (`accept_iou`).
    """
    annotator = simulated_annotator(workspace, context.model)
    drawn = context.provenance(Source.ANNOTATOR, annotator=SIMULATED)
    config = annotator.config
    accept_iou = config.finish_iou if is_exact else config.accept_iou

    def answer(task: Task, image: Image, pixels_HWC: np.ndarray, truths: list[RLE]) -> TaskAnswer:
        ids = set(task.payload["mask_ids"])
        given = [
            mask
            for mask in workspace.masks.masks(image_ids=[image.id], mask_ids=ids)
            if mask.mask_id in ids
        ]
        verdicts, fixes = list[TaskVerdict](), []
        viewer = TiledPredictor(annotator.segmenter, pixels_HWC)
        overlaps = iou_matrix([mask.rle for mask in given], truths)
        for mask, row in zip(given, overlaps, strict=True):
            kind, seconds, fixed = VerdictKind.REJECT, config.cost.glance, None
            if row.max(initial=0) >= accept_iou:
                kind = VerdictKind.ACCEPT
            elif row.max(initial=0) >= FIXABLE_IOU:
                made = annotator.annotate(viewer, [decode(truths[int(row.argmax())])])
                if made:
                    kind, seconds = VerdictKind.FIX, seconds + made[0].seconds
                    number = mask.mask_id.rsplit("/", 1)[-1]
                    fix = made[0].as_mask(drawn, image.id, f"fix-{number}", mask.mask_id)
                    fixes.append(fix)
                    fixed = fix.mask_id
            verdicts.append(
                TaskVerdict(
                    mask_id=mask.mask_id, verdict=kind, seconds=seconds, fixed_mask_id=fixed
                )
            )
        spent = sum(verdict.seconds for verdict in verdicts)
        return TaskAnswer(
            fixes, TaskResult(made=len(fixes), seconds=spent, verdicts=tuple(verdicts))
        )

    return answer


def finish_if_submitted(workspace: Workspace, run_id: str) -> None:
    """Finish a review whose tasks are all submitted, or send a corrected image back to its
    reviewer; does nothing for other runs. If the flow that queued it still runs, it does the same;
    each step takes effect once."""
    run = workspace.catalog.runs.get(run_id)
    counts = workspace.queue.counts(run_id=run_id)
    if run.kind != RunKind.REVIEW or not any(counts.values()) or workspace.queue.pending(run_id):
        return
    context = start_review(
        workspace, workspace.catalog.datasets.get_by_id(run.dataset_id).name, run_id
    )
    with tracked_run(workspace, run_id):
        if not queue_second_review(workspace, context, run):
            workspace.catalog.runs.finish(run_id, finish_review(workspace, context).to_json())


@dataclass(frozen=True, kw_only=True, slots=True)
class ReviewFigures:
    """Numbers of a review's masks by verdict."""

    accept: int
    reject: int
    fix: int

    def to_json(self) -> dict[str, Any]:
        """The stored form."""
        judged = self.accept + self.reject + self.fix
        share = self.accept / judged if judged else None
        return {"judged": judged, **asdict(self), "accepted_share": share}


def finish_review(workspace: Workspace, context: RunContext) -> ReviewFigures:
    """Commit the fixes, store the verdicts, and emit the events that trigger a retrain."""
    commit_answers(workspace, context, is_review=True)
    person = workspace.catalog.annotators.get_or_create(SIMULATED, kind=AnnotatorKind.SIMULATED)
    counts = dict.fromkeys(VerdictKind, 0)
    returns = Returns(workspace.catalog, workspace.queue, workspace.objects, workspace.masks)
    for task in workspace.queue.submitted(context.run_id):
        if task.result.returned:
            returns.queue(task)  # unless the page did
        rows = [
            NewVerdict(
                task_id=task.id, annotator_id=task.annotator_id or person.id, **asdict(verdict)
            )
            for verdict in task.result.verdicts
        ]
        workspace.catalog.verdicts.add_many(rows)
        for row in rows:
            counts[row.verdict] += 1
    emit_due_events(workspace, workspace.catalog.datasets.get_by_id(context.dataset_id))
    return ReviewFigures(**{str(kind): count for kind, count in counts.items()})
