"""The whole loop: a state machine over the catalog's rounds.

Every step is safe to repeat: killed at any moment and started with the same plan, the loop resumes.
A round is planned -> opened (model, run and images are fixed) -> collected (its masks are in the
table) -> trained (if it retrains) -> done.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from prefect import flow

from engine.core.records import Stage
from flows.operations.status import round_rows
from flows.stages.assisted_manual import assisted_manual
from flows.stages.fully_automatic import fully_automatic
from flows.stages.rounds import context_of, open_round
from flows.stages.semi_automatic import semi_automatic
from flows.stages.task_runner import wait_for_people
from flows.training.retrain import retrain, retrain_run_id
from flows.training.scores import held_out_scores
from flows.workspace import progress
from flows.workspace.retry import retry_during_outage
from flows.workspace.run_lock import loop_lock, named_lock, tracked_run
from flows.workspace.workspace import Workspace, open_workspace
from storage.catalog import (
    PEOPLE,
    RANDOM,
    SIMULATED,
    Loop,
    LoopState,
    PlannedRound,
    Round,
    RoundState,
    StaleStateError,
    TaskKind,
)

STAGES = {Stage.ASSISTED_MANUAL: assisted_manual, Stage.SEMI_AUTOMATIC: semi_automatic}
"""Stages with annotators."""

TASKS = {Stage.ASSISTED_MANUAL: TaskKind.ANNOTATE, Stage.SEMI_AUTOMATIC: TaskKind.COMPLETE}
"""Kinds of their tasks."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LoopPlan:
    """Number of rounds of each stage, and images per round."""

    assisted_manual: int = 2
    semi_automatic: int = 1
    fully_automatic: int = 1
    images_per_round: int = 60
    automatic_images: int | None = None
    """Images of a fully automatic round; None: `images_per_round`."""

    annotator: str = SIMULATED
    """Annotators of stages 1 and 2: `simulated`, or `people` at the annotation page."""
    choice: str = RANDOM
    """How the images of stages 1 and 2 are chosen."""

    def __post_init__(self) -> None:
        if min(self.assisted_manual, self.semi_automatic, self.fully_automatic) < 0:
            raise ValueError("numbers of rounds cannot be negative")
        if self.images_per_round < 1:
            raise ValueError(f"images per round must be at least 1, got {self.images_per_round}")
        if self.annotator not in (SIMULATED, PEOPLE):
            raise ValueError(f"annotator must be {SIMULATED} or {PEOPLE}, got {self.annotator!r}")

    def rounds(self) -> list[PlannedRound]:
        """Return the plan round by round. Rounds of stages 1 and 2 end in a retrain."""
        annotated = [Stage.ASSISTED_MANUAL] * self.assisted_manual
        annotated += [Stage.SEMI_AUTOMATIC] * self.semi_automatic
        images = self.automatic_images or self.images_per_round
        automatic = PlannedRound(stage=Stage.FULLY_AUTOMATIC, images=images)
        return [
            PlannedRound(
                stage=stage,
                images=self.images_per_round,
                retrain=True,
                annotator=self.annotator,
                choice=self.choice,
            )
            for stage in annotated
        ] + [automatic] * self.fully_automatic


@flow(name="data-engine")
def data_engine(
    workspace: str,
    dataset: str,
    plan: list[PlannedRound],
    new: bool = False,
    wait: bool = True,
) -> list[dict[str, Any]]:
    """Run the plan's remaining rounds; without `wait`, only until people are needed: their tasks
    are queued, and the next call continues once they are submitted.

    One process at a time works on a dataset's loop. It holds no lock while it waits for people.

    Returns:
        One row per round, as `round_rows`.

    Raises:
        BusyError: another process works on the loop, and `wait` is off.
    """
    opened = open_workspace(workspace)
    row = opened.catalog.datasets.get(dataset)
    loop = opened.catalog.loops.start_or_resume(row.id, plan, new=new)
    if loop.state != LoopState.FINISHED:
        rounds = opened.catalog.rounds.for_loop(loop.id)
        if all(_is_done(opened, dataset, loop, item.id, wait) for item in rounds):
            opened.catalog.loops.finish(loop.id)
    return round_rows(opened, loop.id)


def _is_done(workspace: Workspace, dataset: str, loop: Loop, round_id: int, wait: bool) -> bool:
    """Finish the round as far as possible, through outages of catalog and store; return whether it
    is done."""

    def step() -> Round:
        with named_lock(workspace, loop_lock(loop.dataset_id), wait=wait):
            row = workspace.catalog.rounds.get(round_id)
            return finish_round(workspace, dataset, loop, row)

    while (
        row := retry_during_outage(workspace.settings.outage_seconds, step)
    ).state != RoundState.DONE:
        if not wait:
            return False
        wait_for_people(workspace, context_of(workspace, row), TASKS[Stage(row.stage)])
    return True


def finish_round(workspace: Workspace, dataset: str, loop: Loop, row: Round) -> Round:
    """Take one round from its state to done; it stays opened while people have open tasks of
    it."""
    root = str(workspace.settings.root)
    if row.state in (RoundState.PLANNED, RoundState.OPENED):
        row = open_round(workspace, row)
        progress.current().say(f"[bold]{row.stage} round {row.number}[/bold] with {row.model_in}")
        with tracked_run(workspace, str(row.run_id)):
            scores = held_out_scores(workspace, str(row.model_in), dataset)
            figures = _stage(root, row)
            if figures is None:
                return row
            workspace.catalog.runs.finish(str(row.run_id), figures)
        metrics = {**figures, "held_out": scores}
        row = _move(workspace, row, RoundState.OPENED, RoundState.COLLECTED, metrics=metrics)
    if row.state == RoundState.COLLECTED:
        if not loop.plan[row.position].retrain:
            done = RoundState.DONE
            return _move(workspace, row, RoundState.COLLECTED, done, model_out=row.model_in)
        version = f"{dataset}-{loop.id}.{row.position + 1}"
        trained = retrain(root, dataset, version, str(row.run_id))
        progress.current().say(f"{trained.version}: {trained.reason}")
        row = _move(
            workspace,
            row,
            RoundState.COLLECTED,
            RoundState.TRAINED,
            model_out=trained.model,
            train_run_id=retrain_run_id(loop.dataset_id, version),
            metrics={"retrain": trained.to_json()},
        )
    if row.state == RoundState.TRAINED:
        row = _move(workspace, row, RoundState.TRAINED, RoundState.DONE)
    return row


def _stage(root: str, row: Round) -> dict[str, Any] | None:
    """Run the round's stage; return its figures, None while it waits for people."""
    if row.stage == Stage.FULLY_AUTOMATIC:
        return fully_automatic(root, row.id)
    return STAGES[Stage(row.stage)](root, row.id, False)


def _move(
    workspace: Workspace, row: Round, before: RoundState, after: RoundState, **values: Any
) -> Round:
    """Move the round to its next state, unless another process has done so."""
    try:
        return workspace.catalog.rounds.advance(row.id, before, after, **values)
    except StaleStateError:
        return workspace.catalog.rounds.get(row.id)
