"""Opens rounds: fixes their run, model and images."""

from __future__ import annotations

from engine.core.errors import DataEngineError
from engine.core.records import Stage
from flows.stages.choice import choose_images
from flows.stages.run_context import RunContext
from flows.workspace import progress
from flows.workspace.workspace import Workspace, code_version
from storage.catalog import (
    PlannedRound,
    Round,
    RoundState,
    RunKind,
    StaleStateError,
    new_id,
)


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
        _assign_images(workspace, row)
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


def _assign_images(workspace: Workspace, row: Round) -> None:
    """Choose the round's images, unless that was done before."""
    if workspace.catalog.rounds.image_ids(row.id):
        return
    chosen = choose_images(workspace, row, planned(workspace, row))
    if not chosen.image_ids:
        raise NoImagesError(
            f"no unused image is left for {row.stage} round {row.number} of the loop"
            f"{chosen.skipped_text}"
        )
    why = f"{len(chosen.image_ids)} images: {chosen.why}{chosen.skipped_text}"
    progress.current().say(why)
    metrics = {"chosen": why, "near_duplicates_skipped": chosen.skipped}
    workspace.catalog.rounds.assign_images(row.id, chosen.image_ids, metrics)


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
