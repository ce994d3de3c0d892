"""Opens rounds: fixes their run, model and images."""

from __future__ import annotations

from itertools import islice

from engine.core.errors import DataEngineError
from engine.core.records import Stage
from flows.stages.run_context import RunContext
from flows.workspace.workspace import Workspace, code_version
from storage.catalog import (
    PEOPLE,
    PlannedRound,
    Round,
    RoundState,
    RunKind,
    Split,
    StaleStateError,
    new_id,
)

HELD_OUT_SHARE = 0.2
"""Share of held-out images in people's rounds, while held-out images without truth are left."""


class NoImagesError(DataEngineError):
    """The round has no images. Ingest images (with ground truth, if annotators are simulated), or
    start a new loop with `--new`."""


def open_round(workspace: Workspace, row: Round) -> Round:
    """Move a planned round to opened: fix its model, run and images. Returns any other round
    unchanged.

    Raises:
        NoImagesError: no unused image is left for it.
    """
    if row.state == RoundState.PLANNED:
        chosen = choose_images(workspace, row)
        if not chosen:
            raise NoImagesError(
                f"no unused image is left for {row.stage} round {row.number} of the loop"
            )
        workspace.catalog.rounds.assign_images(row.id, chosen)
        try:
            row = workspace.catalog.rounds.advance(
                row.id,
                RoundState.PLANNED,
                RoundState.OPENED,
                model_in=workspace.current_model().version,
                run_id=new_id(),
            )
        except StaleStateError:  # another process opened it
            row = workspace.catalog.rounds.get(row.id)
    workspace.catalog.runs.start(
        str(row.run_id),
        RunKind(row.stage),
        dataset_id=row.dataset_id,
        round_id=row.id,
        model=row.model_in,
        config={
            **planned(workspace, row).to_json(),
            "settings": workspace.settings.shaping(),
        },
        code_version=code_version(),
    )
    return row


def choose_images(workspace: Workspace, row: Round) -> list[int]:
    """Return a round's images: the assigned ones, else unused ones of the training split in order
    of ingest. With simulated annotators, stages 1 and 2 take images with ground truth only. People
    also get some held-out images without truth: models are compared on their masks, and never
    trained on them. Stage 3 takes any image, unused ones first."""
    assigned = workspace.catalog.rounds.image_ids(row.id)
    if assigned:
        return assigned
    plan = planned(workspace, row)
    count = plan.images
    images, automatic = workspace.catalog.images, row.stage == Stage.FULLY_AUTOMATIC
    fresh = images.unused_ids_in_loop(
        row.dataset_id, row.loop_id, limit=count if automatic else None
    )
    if automatic:
        taken = set(fresh)
        known = images.ids(row.dataset_id, split=Split.TRAIN)
        others = (image_id for image_id in known if image_id not in taken)
        return fresh + list(islice(others, count - len(fresh)))
    dataset = workspace.catalog.datasets.get_by_id(row.dataset_id).name
    with_truth = workspace.images_with_truth(dataset)
    if plan.annotator != PEOPLE:
        return [image_id for image_id in fresh if image_id in with_truth][:count]
    held_out = workspace.catalog.images.unused_in_loop(
        row.dataset_id, row.loop_id, limit=count, split=Split.HELD_OUT
    )
    unknown = [image.id for image in held_out if image.id not in with_truth]
    share = min(len(unknown), count - 1, max(1, round(count * HELD_OUT_SHARE)))
    return sorted(fresh[: count - share] + unknown[:share])


def planned(workspace: Workspace, row: Round) -> PlannedRound:
    """Return the round's entry in the loop's plan."""
    return workspace.catalog.loops.get(row.loop_id).plan[row.position]


def context_of(workspace: Workspace, row: Round) -> RunContext:
    """Return the common values of the tasks and masks of an opened round."""
    return RunContext(
        run_id=str(row.run_id),
        dataset=workspace.catalog.datasets.get_by_id(row.dataset_id).name,
        dataset_id=row.dataset_id,
        round_id=row.id,
        stage=Stage(row.stage),
        round=row.number,
        model=str(row.model_in),
        annotator=planned(workspace, row).annotator,
    )
