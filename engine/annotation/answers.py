"""Check what the page submits and turn it into rows of the mask table.

Nothing from the page is trusted: run lengths must fill the image, ids must be the task's, clicks
and strokes are counted here from the trajectory.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from engine.annotation.errors import invalid
from engine.annotation.schemas import NewMask, Rle
from engine.core import rle as rle_codec
from engine.core.records import Mask, Provenance
from engine.core.rle import RLE
from storage.catalog import TaskResult
from storage.formats.segmentation import rle_from_json
from storage.trajectories import TrajectoryStep

CLICKS = ("click", "box", "scribble")
STROKES = ("brush", "erase", "outline", "regions")


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskContext:
    """What all masks of a task share. size: (H, W) of the image in pixels."""

    task_id: int
    image_id: int
    size: tuple[int, int]
    provenance: Provenance

    @property
    def model(self) -> str:
        """The model version that answers prompts."""
        return str(self.provenance.model)


def checked_rle(given: Rle, size: tuple[int, int]) -> RLE:
    """The run lengths in canonical form.

    Raises:
        RefusedError: they do not fit an image of this (H, W), or the mask is empty.
    """
    if tuple(given.size) != size:
        raise invalid(f"a mask of {tuple(given.size)} does not fit an image of {size} (H, W)")
    try:
        found = rle_from_json({"size": list(given.size), "counts": given.counts})
    except ValueError as error:
        raise invalid(f"a mask cannot be read: {error}") from error
    if not rle_codec.area(found):
        raise invalid("a mask is empty")
    return found


def check_ids(masks: Sequence[NewMask], known: Collection[str], named: Sequence[str]) -> None:
    """Check that client ids are unique, and that replaced or rejected masks are the task's, each
    named once.

    Raises:
        RefusedError: an id is repeated or unknown.
    """
    clients = [mask.client_id for mask in masks]
    if len(set(clients)) != len(clients):
        raise invalid("two masks have the same client_id")
    touched = [*named, *(mask.replaces for mask in masks if mask.replaces is not None)]
    if len(set(touched)) != len(touched):
        raise invalid("an existing mask is named twice")
    unknown = set(touched) - set(known)
    if unknown:
        raise invalid(f"not a mask of this task: {sorted(unknown)[0]!r}")


def drawn_mask(
    context: TaskContext, given: NewMask, name: str, *, supersedes: str | None = None
) -> Mask:
    """The record of one mask that an annotator drew.

    Raises:
        RefusedError: its run lengths are wrong.
    """
    rle = checked_rle(given.rle, context.size)
    first = next((event for event in given.trajectory if event.kind == "click"), None)
    point = None
    if first is not None and first.x is not None and first.y is not None:
        point = (first.x, first.y)
    return context.provenance.mask(
        context.image_id,
        name,
        rle,
        predicted_iou=given.predicted_iou,
        point_xy=point,
        clicks=sum(event.kind in CLICKS for event in given.trajectory),
        seconds=given.seconds,
        supersedes=supersedes,
    )


def steps_of(context: TaskContext, mask_id: str, given: NewMask) -> list[TrajectoryStep]:
    """The trajectory rows of a mask."""
    return [
        TrajectoryStep(
            mask_id=mask_id,
            image_id=context.image_id,
            run_id=context.provenance.run_id,
            task_id=context.task_id,
            annotator=str(context.provenance.annotator),
            step=number,
            path_xy=event.path,
            **event.model_dump(exclude={"path"}),
        )
        for number, event in enumerate(given.trajectory)
    ]


def result_of(masks: Sequence[NewMask], seconds: float) -> TaskResult:
    """The number of masks drawn, with the annotator's clicks, strokes and seconds."""
    kinds = [event.kind for mask in masks for event in mask.trajectory]
    return TaskResult(
        made=len(masks),
        clicks=sum(kind in CLICKS for kind in kinds),
        strokes=sum(kind in STROKES for kind in kinds),
        seconds=seconds,
    )
