"""What was submitted for a task: its masks, their steps, and the work to begin again from."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from typing import Any

from engine.annotation.mask_labels import submitted_labels
from engine.annotation.prompting import rle_view
from engine.annotation.schemas import Event, FormerWork, LabelIn, NewMask
from engine.core.records import Mask
from storage import layout
from storage.catalog import Task
from storage.masks import MaskTable, read_parquet
from storage.objects import ObjectNotFoundError, ObjectStore
from storage.trajectories import read_trajectories


def submitted_masks(objects: ObjectStore, masks: MaskTable, task: Task) -> list[Mask]:
    """The masks of a submitted task; after the end of its run, from the table."""
    if task.result_key is None:
        return []
    try:
        return read_parquet(objects.get(task.result_key))
    except ObjectNotFoundError:
        return list(masks.masks(image_ids=[task.image_id], run_id=str(task.run_id)))


def submitted_steps(objects: ObjectStore, task: Task) -> dict[str, list[dict[str, Any]]]:
    """The steps of a submitted task by mask id, as rows of the trajectories' SCHEMA; after the end
    of its run, from its shard's."""
    keys = [task.result.trajectories]
    if task.shard is not None:
        keys.append(layout.STEPS.key(run=task.run_id, shard=task.shard))
    found = defaultdict[str, list[dict[str, Any]]](list)
    for key in keys:
        if key is None:
            continue
        try:
            rows = read_trajectories(objects.get(key)).to_pylist()
        except ObjectNotFoundError:
            continue
        for row in rows:
            if row["task_id"] == task.id:
                found[row["mask_id"]].append(row)
        break
    return found


def former_work(
    objects: ObjectStore, masks: MaskTable, task: Task, initial: Collection[str]
) -> FormerWork | None:
    """The work that was submitted for a task before it was reopened; None if it was not.

    Args:
        initial: the task's pre-filled masks. Those that were neither kept nor in the table before
            the task count as rejected: what replaced them is a mask of its own.
    """
    if task.result_key is None:
        return None
    found = submitted_masks(objects, masks, task)
    steps = submitted_steps(objects, task)
    ids = {mask.mask_id for mask in found}
    gone = set(initial) - ids
    if "mask_ids" in task.payload:  # kept ones are not submitted again
        gone = {verdict.mask_id for verdict in task.result.verdicts}
    replaced = {mask.supersedes for mask in found}
    labels = submitted_labels(task)
    return FormerWork(
        masks=[
            _drawn(mask, steps[mask.mask_id], labels.get(mask.mask_id))
            for mask in found
            if mask.mask_id not in set(initial)
        ],
        rejected=sorted(gone - replaced),
        labels=[
            LabelIn(mask_id=mask_id, category_id=category)
            for mask_id, category in labels.items()
            if mask_id in set(initial)
        ],
        seconds=task.result.seconds,
    )


def _drawn(mask: Mask, steps: list[dict[str, Any]], category_id: int | None) -> NewMask:
    """A submitted mask as the page drew it; its name in the run is `PLACE-CLIENT_ID`."""
    events = [
        Event.model_validate(
            {name: step[name] for name in Event.model_fields if name != "path"}
            | {"path": step["path_xy"]}
        )
        for step in steps
    ]
    return NewMask(
        client_id=mask.mask_id.rpartition("/")[2].partition("-")[2],
        rle=rle_view(mask.rle),
        seconds=mask.seconds,
        trajectory=events,
        predicted_iou=mask.predicted_iou,
        replaces=mask.supersedes,
        category_id=category_id,
    )
