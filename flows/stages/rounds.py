"""What every round needs: its run, its images."""

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
"""Share of the images of people's rounds that are held out, while there are such without truth."""


class NoImagesError(DataEngineError):
    """The round has nothing to work on. Ingest images (with ground truth, where annotators are
    simulated), or start a new loop with `--new`."""


def open_round(workspace: Workspace, row: Round) -> Round:
    """Move a planned round to opened: fix its model, run and images. A round that is opened
    already comes back as it is.

    Raises:
        NoImagesError: no fresh image is left for it.
    """
    if row.state == RoundState.PLANNED:
        chosen = choose_images(workspace, row)
        if not chosen:
            raise NoImagesError(
                f"no fresh image is left for {row.stage} round {row.number} of the loop"
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
        except StaleStateError:  # another process has just opened it
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
    """The images of a round: those assigned before, else fresh ones of the training split in the
    order they came in. Where annotators are simulated, stages 1 and 2 take images with ground
    truth only. People also get some held-out images without: their masks are what models are
    compared on, and are never trained on. Stage 3 has no annotators: it takes any image, fresh ones
    first."""
    assigned = workspace.catalog.rounds.image_ids(row.id)
    if assigned:
        return assigned
    plan = planned(workspace, row)
    wanted = plan.images
    images, automatic = workspace.catalog.images, row.stage == Stage.FULLY_AUTOMATIC
    fresh = images.unused_ids_in_loop(
        row.dataset_id, row.loop_id, limit=wanted if automatic else None
    )
    if automatic:
        taken = set(fresh)
        known = images.ids(row.dataset_id, split=Split.TRAIN)
        others = (image_id for image_id in known if image_id not in taken)
        return fresh + list(islice(others, wanted - len(fresh)))
    dataset = workspace.catalog.datasets.get_by_id(row.dataset_id).name
    with_truth = workspace.images_with_truth(dataset)
    if plan.annotator != PEOPLE:
        return [image_id for image_id in fresh if image_id in with_truth][:wanted]
    held_out = workspace.catalog.images.unused_in_loop(
        row.dataset_id, row.loop_id, limit=wanted, split=Split.HELD_OUT
    )
    unknown = [image.id for image in held_out if image.id not in with_truth]
    share = min(len(unknown), wanted - 1, max(1, round(wanted * HELD_OUT_SHARE)))
    return sorted(fresh[: wanted - share] + unknown[:share])


def planned(workspace: Workspace, row: Round) -> PlannedRound:
    """What the loop's plan says of the round."""
    return workspace.catalog.loops.get(row.loop_id).plan[row.position]


def context_of(workspace: Workspace, row: Round) -> RunContext:
    """What the tasks and masks of an opened round have in common."""
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
