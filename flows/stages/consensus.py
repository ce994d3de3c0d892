"""Makes one set of masks of an image from the answers of several people.

Where they agree, the merged masks become the image's; where they do not, a reviewer sees what each
of them made beside the merged masks, and picks.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from engine.core import consensus
from engine.core import rle as rle_codec
from engine.core.consensus import Agreement, Merged
from engine.core.records import Mask, Source
from flows.stages.run_context import RunContext
from flows.workspace import progress
from flows.workspace.workspace import Workspace, code_version
from storage import layout
from storage.catalog import NewTask, RunKind, Task, TaskKind, TaskState, new_id
from storage.catalog.consensus import NewConsensus
from storage.masks import read_parquet, write_parquet
from storage.objects import named_by_catalog
from storage.task_copies import TaskCopies


def reach_consensus(workspace: Workspace, context: RunContext) -> dict[int, list[Mask]]:
    """Merge the answers to all tasks of a run that have copies, record the agreement, and queue a
    review of the images on which people disagree; repeated, it changes nothing.

    Returns:
        By task of the run, the masks to commit instead of its answer: the merged ones, or none
        before the review.
    """
    copies = TaskCopies(workspace.catalog)
    copies.complete(context.run_id)
    found: dict[int, list[Mask]] = {}
    for group in copies.groups(context.run_id):
        answered = [task for task in group if _is_answer(task)]
        if len(answered) > 1:
            found[group[0].id] = _agreed_masks(workspace, context, answered)
    if found:
        disputed = sum(not masks for masks in found.values())
        progress.current().say(
            f"consensus: {len(found)} images with several answers, {disputed} without agreed masks"
        )
    return found


def _agreed_masks(
    workspace: Workspace, context: RunContext, answered: Sequence[Task]
) -> list[Mask]:
    """Record what the answers to one image came to. Returns the merged masks; none if people
    disagree, and a review of them is queued."""
    masks = [_masks(workspace, task) for task in answered]
    rles = [[mask.rle for mask in of_person] for of_person in masks]
    agreed = consensus.agreement(rles)
    shared = consensus.merge(rles, quorum=len(answered) // 2 + 1)
    merged = [_merged_mask(context, one, masks, number) for number, one in enumerate(shared)]
    review = None
    if agreed.score < workspace.settings.quality.consensus_agreement:
        review = _queue_review(workspace, context, answered, masks, merged, agreed)
    workspace.catalog.consensus.add(
        NewConsensus(
            task_id=answered[0].copy_of or answered[0].id,
            dataset_id=context.dataset_id,
            round_id=context.round_id,
            people=[int(task.annotator_id or 0) for task in answered],
            f1=agreed.f1,
            iou=agreed.iou,
            review_run=review,
            merged={
                made.mask_id: [masks[p][i].mask_id for p, i in one.members]
                for made, one in zip(merged, shared, strict=True)
            },
        )
    )
    return merged if review is None else []


def finish_copies(workspace: Workspace, context: RunContext) -> None:
    """Finish the runs of a round's copies, whose answers are merged and committed."""
    for run_id in TaskCopies(workspace.catalog).runs(context.run_id):
        workspace.catalog.runs.finish(run_id)


def _is_answer(task: Task) -> bool:
    is_there = task.state == TaskState.SUBMITTED and task.result_key is not None
    return is_there and task.result.quarantined is None


def _masks(workspace: Workspace, task: Task) -> list[Mask]:
    with named_by_catalog():
        return read_parquet(workspace.objects.get(str(task.result_key)))


def _merged_mask(
    context: RunContext, shared: Merged, masks: Sequence[Sequence[Mask]], number: int
) -> Mask:
    """The record of a merged mask. It names the annotator whose mask it is most like; clicks and
    seconds are those of all."""
    members = [masks[person][index] for person, index in shared.members]
    likeness = rle_codec.iou_matrix([shared.rle], [mask.rle for mask in members])[0]
    nearest = members[int(likeness.argmax())]
    same_source = all(mask.source == nearest.source for mask in members)
    return replace(
        nearest,
        mask_id=f"{context.run_id}/{nearest.image_id}/merged-{number}",
        run_id=context.run_id,
        source=nearest.source if same_source else Source.ANNOTATOR,
        rle=shared.rle,
        area=rle_codec.area(shared.rle),
        box_xyxy=rle_codec.box_xyxy(shared.rle),
        clicks=sum(mask.clicks for mask in members),
        seconds=sum(mask.seconds for mask in members),
        created_at=datetime.now(UTC),
    )


def _queue_review(
    workspace: Workspace,
    context: RunContext,
    answered: Sequence[Task],
    masks: Sequence[Sequence[Mask]],
    merged: Sequence[Mask],
    agreed: Agreement,
) -> str:
    """Queue an image with one candidate per person and the merged masks; returns the run's id."""
    run_id = uuid.uuid5(uuid.NAMESPACE_URL, f"consensus/{context.run_id}").hex
    image_id = answered[0].image_id
    workspace.catalog.runs.start(
        run_id,
        RunKind.REVIEW,
        dataset_id=context.dataset_id,
        model=context.model,
        config={"consensus_of": context.run_id, "stage": str(context.stage)},
        code_version=code_version(),
    )
    rows, candidates = list[Mask](), list[dict[str, Any]]()
    sets = [(task.annotator_id, made) for task, made in zip(answered, masks, strict=True)]
    for place, (annotator_id, made) in enumerate([*sets, (None, merged)]):
        own = [
            replace(mask, run_id=run_id, mask_id=f"{run_id}/{image_id}/{place}-{number}")
            for number, mask in enumerate(made)
        ]
        rows += own
        names = [mask.mask_id for mask in own]
        candidates.append({"annotator": annotator_id, "mask_ids": names})
    key = layout.PREFILL.key(run=run_id, name=new_id())
    workspace.objects.put(key, write_parquet(rows))
    review = NewTask(
        dataset_id=context.dataset_id,
        image_id=image_id,
        kind=TaskKind.REVIEW,
        run_id=run_id,
        payload={
            "mask_ids": [mask.mask_id for mask in rows],
            "prefill": key,
            "candidates": candidates,
            "note": (
                f"{len(answered)} people disagree on this image (F1 {agreed.f1:.2f}, IoU "
                f"{agreed.iou:.2f}): pick one person's masks or the merged ones."
            ),
        },
    )
    workspace.queue.add([review])
    return run_id
