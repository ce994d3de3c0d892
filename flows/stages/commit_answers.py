"""Commits the answers of stages 1, 2 and reviews to the mask table.

It runs when no task of a run is left: shard by shard, each exactly once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import chain, groupby
from typing import Any

from engine.core.records import Mask, Stage
from flows.stages.commit_labels import Disputes, commit_labels
from flows.stages.run_context import RunContext
from flows.workspace import progress
from flows.workspace.workspace import Workspace
from storage import layout
from storage.catalog import Task, TaskLabel
from storage.masks import read_parquet
from storage.objects import named_by_catalog
from storage.trajectories import join_trajectories


@dataclass(frozen=True, kw_only=True, slots=True)
class MergedAnswers:
    """What to commit instead of the answers to tasks that several people answered, by task id.

    Attributes:
        masks: none before a review.
        labels: of these masks, where people agree.
        disputes: what people say about these masks where they do not.
    """

    masks: dict[int, list[Mask]] = field(default_factory=dict)
    labels: dict[int, list[TaskLabel]] = field(default_factory=dict)
    disputes: dict[int, Disputes] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class AnnotationFigures:
    """Counts and costs per mask of a round of stage 1 or 2; a ratio without a denominator is
    None."""

    images: int
    masks: int
    masks_per_image: float
    prefilled: int
    prefilled_kept: int
    clicks_per_mask: float | None
    strokes_per_mask: float | None
    seconds_per_mask: float | None
    clicks_per_added_mask: float | None
    """Clicks for each mask that was not pre-filled."""
    quarantined: int
    """Images that could not be read."""

    def to_json(self) -> dict[str, Any]:
        """The stored form."""
        return asdict(self)


def commit_answers(
    workspace: Workspace,
    context: RunContext,
    merged: MergedAnswers | None = None,
    *,
    is_review: bool = False,
) -> AnnotationFigures:
    """Commit all submitted answers of the run to the mask table, and their labels; return the
    round's figures.

    Args:
        merged: what to commit instead of the answers to some tasks.
        is_review: fixes have the stage of the masks that they supersede.
    """
    merged = merged or MergedAnswers()
    workspace.queue.assign_shards(context.run_id, workspace.settings.shard_images)
    tasks = list(workspace.queue.submitted(context.run_id))
    with progress.current().track("commit masks", len(tasks), "image") as advance:
        by_shard = sorted(tasks, key=lambda task: (task.shard or 0, task.id))
        for shard, members in groupby(by_shard, key=lambda task: task.shard or 0):
            group = list(members)
            # not read if already committed
            answers = _answers(workspace, context, shard, group, merged.masks, is_review)
            workspace.masks.commit(answers, run_id=context.run_id, shard=shard)
            advance(len(group))
    commit_labels(workspace, context, tasks, merged.labels, merged.disputes)
    return _figures(tasks, {key: len(masks) for key, masks in merged.masks.items()})


def _answers(
    workspace: Workspace,
    context: RunContext,
    shard: int,
    tasks: Sequence[Task],
    merged: Mapping[int, list[Mask]],
    is_review: bool,
) -> Iterator[Mask]:
    """Yield the masks of a shard's answers, after writing their trajectories as one object."""
    _keep_trajectories(workspace, context, shard, tasks)
    found = [_masks_of(workspace, task, merged) for task in tasks]
    stages = _superseded_stages(workspace, context, found) if is_review else {}
    for mask in chain.from_iterable(found):
        yield replace(mask, shard=shard, stage=stages.get(mask.supersedes or "", mask.stage))


def _masks_of(workspace: Workspace, task: Task, merged: Mapping[int, list[Mask]]) -> list[Mask]:
    if task.id in merged:
        return merged[task.id]
    return list(read_parquet(_object_of(workspace, str(task.result_key))))


def _superseded_stages(
    workspace: Workspace, context: RunContext, answers: Sequence[Sequence[Mask]]
) -> dict[str, Stage]:
    """The stages of the masks that fixes supersede, by mask id."""
    fixes = [mask for masks in answers for mask in masks if mask.supersedes]
    wanted = {mask.supersedes for mask in fixes}
    found: dict[str, Stage] = {}
    if fixes:
        for batch in workspace.masks.scan(
            dataset=context.dataset,
            image_ids=sorted({mask.image_id for mask in fixes}),
            columns=["mask_id", "stage"],
        ):
            for row in batch.to_pylist():
                if row["mask_id"] in wanted:
                    found[row["mask_id"]] = Stage(row["stage"])
    return found


def _object_of(workspace: Workspace, key: str) -> bytes:
    """Return the object that a task's row names."""
    with named_by_catalog():
        return workspace.objects.get(key)


def _keep_trajectories(
    workspace: Workspace, context: RunContext, shard: int, tasks: Sequence[Task]
) -> None:
    """Write the trajectories of a shard's answers as one object."""
    keys = [task.result.trajectories for task in tasks]
    found = [_object_of(workspace, key) for key in keys if key]
    if found:
        data = join_trajectories(found)
        workspace.objects.put(layout.STEPS.key(run=context.run_id, shard=shard), data)


def _figures(tasks: Sequence[Task], merged: Mapping[int, int]) -> AnnotationFigures:
    """The figures of a round; `merged`: the number of merged masks, by task."""
    results = [task.result for task in tasks]
    images, masks = len(tasks), sum(merged.get(task.id, task.result.masks) for task in tasks)
    made, clicks = sum(r.made for r in results), sum(r.clicks for r in results)
    return AnnotationFigures(
        images=images,
        masks=masks,
        masks_per_image=masks / images if images else 0.0,
        prefilled=sum(result.prefilled or 0 for result in results),
        prefilled_kept=sum(result.prefilled_kept or 0 for result in results),
        clicks_per_mask=clicks / masks if masks else None,
        strokes_per_mask=sum(r.strokes for r in results) / masks if masks else None,
        seconds_per_mask=sum(r.seconds for r in results) / masks if masks else None,
        clicks_per_added_mask=clicks / made if made else None,
        quarantined=sum(result.quarantined is not None for result in results),
    )
