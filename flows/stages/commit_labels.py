"""Writes the labels that were submitted with a run's tasks. Masks about whose label people disagree
go to a reviewer.

People disagree if they answered the same image and labelled the same object differently, or if one
of them gave a mask another label than somebody else before. What a reviewer says counts.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence

from engine.annotation.mask_labels import DISPUTED
from flows.stages.run_context import RunContext
from flows.workspace.workspace import Workspace, code_version
from storage.catalog import (
    LabelSource,
    NewLabel,
    NewTask,
    RunKind,
    Task,
    TaskKind,
    TaskLabel,
    VerdictKind,
)

Said = list[tuple[int, int]]
"""What people say about a mask: annotators with category ids, 0 for none of these."""
Disputes = dict[str, Said]
"""By mask id."""


def commit_labels(
    workspace: Workspace,
    context: RunContext,
    tasks: Sequence[Task],
    merged: Mapping[int, Sequence[TaskLabel]],
    disputes: Mapping[int, Disputes],
) -> None:
    """Write the labels of a run's submitted tasks, whose masks are in the table; repeated, it
    changes nothing.

    Args:
        workspace: the workspace.
        context: of the run.
        tasks: of the run.
        merged: labels in place of those of the tasks with these ids.
        disputes: those of merged masks, by task id.
    """
    for task in tasks:
        labels = merged.get(task.id, task.result.labels)
        found = dict(disputes.get(task.id, {}))
        if labels and task.kind != TaskKind.REVIEW:
            found |= _contradictions(workspace, task, labels)
        if found:  # before the labels: after them, the former ones no longer count
            _queue_review(workspace, context, task, found)
        if labels:
            _write(workspace, context, task, labels)


def _write(
    workspace: Workspace, context: RunContext, task: Task, labels: Sequence[TaskLabel]
) -> None:
    known = workspace.catalog.categories.current(context.dataset_id).categories.names
    rows = [
        NewLabel(
            mask_id=label.mask_id,
            image_id=task.image_id,
            category_id=label.category_id,
            source=LabelSource.ANNOTATOR,
            annotator_id=label.annotator_id or task.annotator_id,
            seconds=label.seconds,
            task_id=task.id,
        )
        for label in labels
        if label.category_id is None or label.category_id in known  # else removed since
    ]
    workspace.catalog.labels.add_many(context.dataset_id, rows, once_per_task=True)


def _contradictions(workspace: Workspace, task: Task, labels: Sequence[TaskLabel]) -> Disputes:
    """The masks that another person labelled differently before, or that fix such a mask."""
    fixed = {
        verdict.fixed_mask_id: verdict.mask_id
        for verdict in task.result.verdicts
        if verdict.verdict == VerdictKind.FIX
    }
    of_mask = {label.mask_id: fixed.get(label.mask_id, label.mask_id) for label in labels}
    before = workspace.catalog.labels.current(set(of_mask.values()))
    found: Disputes = {}
    for label in labels:
        old, mine = before.get(of_mask[label.mask_id]), task.annotator_id
        if old is None or old.annotator_id is None or mine is None or old.annotator_id == mine:
            continue
        if old.source == LabelSource.ANNOTATOR and old.category_id != label.category_id:
            said = [(old.annotator_id, old.category_id or 0), (mine, label.category_id or 0)]
            found[label.mask_id] = said
    return found


def _queue_review(
    workspace: Workspace, context: RunContext, task: Task, disputes: Disputes
) -> None:
    """Queue the masks of one image for a reviewer, who sees what each person says."""
    run_id = uuid.uuid5(uuid.NAMESPACE_URL, f"labels/{context.run_id}").hex
    workspace.catalog.runs.start(
        run_id,
        RunKind.REVIEW,
        dataset_id=context.dataset_id,
        model=context.model,
        config={"labels_of": context.run_id, "stage": str(context.stage)},
        code_version=code_version(),
    )
    count = "1 mask" if len(disputes) == 1 else f"{len(disputes)} masks"
    review = NewTask(
        dataset_id=context.dataset_id,
        image_id=task.image_id,
        kind=TaskKind.REVIEW,
        run_id=run_id,
        payload={
            "mask_ids": list(disputes),
            DISPUTED: disputes,
            "note": f"People disagree about the label of {count}: say which one is right.",
        },
    )
    workspace.queue.add([review])
