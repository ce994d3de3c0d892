"""Makes one set of masks of an image from the answers of several people.

Where they agree, the merged masks become the image's; where they do not, a reviewer sees what each
of them made beside the merged masks, and picks.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from engine.annotation.mask_labels import DISPUTED, LABELS, submitted_labels
from engine.core import consensus
from engine.core import rle as rle_codec
from engine.core.consensus import Agreement, Member, Merged
from engine.core.records import Mask, Source
from flows.stages.commit_answers import MergedAnswers
from flows.stages.commit_labels import Disputes
from flows.stages.run_context import RunContext
from flows.workspace import progress
from flows.workspace.workspace import Workspace, code_version
from storage import layout
from storage.catalog import NewTask, RunKind, Task, TaskKind, TaskLabel, TaskState, new_id
from storage.catalog.consensus import NewConsensus
from storage.masks import read_parquet, write_parquet
from storage.objects import named_by_catalog
from storage.task_copies import TaskCopies


def reach_consensus(workspace: Workspace, context: RunContext) -> MergedAnswers:
    """Merge the answers to all tasks of a run that have copies, record the agreement, and queue a
    review of the images on which people disagree about the masks; repeated, it changes nothing.

    Returns:
        What to commit instead of these answers: merged masks, or none before the review, and their
        labels.
    """
    copies = TaskCopies(workspace.catalog)
    copies.complete(context.run_id)
    found = MergedAnswers()
    for group in copies.groups(context.run_id):
        answered = [task for task in group if _is_answer(task)]
        if len(answered) > 1:
            _merge(workspace, context, group[0].id, answered, found)
    if found.masks:
        disputed = sum(not masks for masks in found.masks.values())
        progress.current().say(
            f"consensus: {len(found.masks)} images with several answers, {disputed} without agreed "
            f"masks, {len(found.disputes)} without agreed labels"
        )
    return found


def _merge(
    workspace: Workspace,
    context: RunContext,
    task_id: int,
    answered: Sequence[Task],
    found: MergedAnswers,
) -> None:
    """Record what the answers to one image came to, and add it to what is found."""
    masks = [_masks(workspace, task) for task in answered]
    rles = [[mask.rle for mask in of_person] for of_person in masks]
    agreed = consensus.agreement(rles)
    shared = consensus.merge(rles, quorum=len(answered) // 2 + 1)
    merged = [_merged_mask(context, one, masks, number) for number, one in enumerate(shared)]
    parts = {made.mask_id: one.members for made, one in zip(merged, shared, strict=True)}
    labels, disputes = _merged_labels(answered, masks, parts)
    review = None
    if agreed.score < workspace.settings.quality.consensus_agreement:
        review = _queue_review(
            workspace, context, answered, masks, merged, agreed, (labels, disputes)
        )
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
                name: [masks[p][i].mask_id for p, i in members] for name, members in parts.items()
            },
        )
    )
    found.masks[task_id] = merged if review is None else []
    found.labels[task_id] = labels if review is None else []
    if review is None and disputes:
        found.disputes[task_id] = disputes


def _merged_labels(
    answered: Sequence[Task],
    masks: Sequence[Sequence[Mask]],
    members: Mapping[str, Sequence[Member]],
) -> tuple[list[TaskLabel], Disputes]:
    """The labels of merged masks on which all agree who labelled them, and what people say about
    the others."""
    said = [submitted_labels(task) for task in answered]  # a pre-filled mask is in several answers
    labels, disputes = list[TaskLabel](), Disputes()
    for mask_id, parts in members.items():
        named = [(p, masks[p][i].mask_id) for p, i in parts]
        people = [
            (int(answered[p].annotator_id or 0), said[p][name])
            for p, name in named
            if name in said[p]
        ]
        categories = {category for _, category in people}
        if len(categories) == 1:
            person, category = people[0]
            labels.append(
                TaskLabel(mask_id=mask_id, category_id=category or None, annotator_id=person)
            )
        elif categories:
            disputes[mask_id] = people
    return labels, disputes


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
    of_merged: tuple[Sequence[TaskLabel], Disputes],
) -> str:
    """Queue an image with one candidate per person and the merged masks; returns the run's id.

    Args:
        of_merged: labels and disputes of the merged masks.
    """
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
    labels, disputed = dict[str, int](), Disputes()
    mine = [(task.annotator_id, submitted_labels(task)) for task in answered]
    shared = {label.mask_id: label.category_id or 0 for label in of_merged[0]}
    sets = zip([*mine, (None, shared)], [*masks, merged], strict=True)
    for place, ((annotator_id, named), made) in enumerate(sets):
        own = [
            replace(mask, run_id=run_id, mask_id=f"{run_id}/{image_id}/{place}-{number}")
            for number, mask in enumerate(made)
        ]
        rows += own
        names = [mask.mask_id for mask in own]
        candidates.append({"annotator": annotator_id, "mask_ids": names})
        for name, mask in zip(names, made, strict=True):
            if mask.mask_id in named:
                labels[name] = named[mask.mask_id]
            if annotator_id is None and mask.mask_id in of_merged[1]:
                disputed[name] = of_merged[1][mask.mask_id]
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
            **({LABELS: labels} if labels else {}),
            **({DISPUTED: disputed} if disputed else {}),
            "note": (
                f"{len(answered)} people disagree on this image (F1 {agreed.f1:.2f}, IoU "
                f"{agreed.iou:.2f}): pick one person's masks or the merged ones."
            ),
        },
    )
    workspace.queue.add([review])
    return run_id
