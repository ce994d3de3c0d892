"""Advances a dataset as far as possible without waiting for people.

The state is in the catalog, so anyone can call it, and repeatedly: a trigger of Prefect, a
schedule, `dataengine advance`, or the page when the last task of a run is submitted.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from engine.annotation.late import LateWork
from engine.training.trainer import NoMasksError
from flows.loop.data_engine import data_engine
from flows.prefect_api import events
from flows.review.rescore import RescoreFigures, rescore_dataset
from flows.review.retrain_triggers import due_events, verdicts_since_retrain
from flows.review.review import finish_if_submitted
from flows.semantics.refit import refit_if_due
from flows.stages import copies
from flows.training.retrain import retrain
from flows.workspace import progress
from flows.workspace.run_lock import BusyError, loop_lock, named_lock
from storage.catalog import PEOPLE, LoopState, RoundState, RunKind, RunState

if TYPE_CHECKING:
    from flows.workspace.workspace import Workspace
    from storage.catalog import Dataset, Loop

RUNS = 1_000
"""Latest runs of a kind that are searched."""


def run_drained(workspace: Workspace, run_id: str) -> None:
    """After the last task of a run is submitted, finish its review, or emit the event that its
    round can continue."""
    run = workspace.catalog.runs.get(run_id)
    if run.kind == RunKind.REVIEW:
        finish_if_submitted(workspace, run_id)
    elif run.round_id is not None:
        events.round_drained(workspace, run.round_id)


@dataclass(frozen=True, kw_only=True, slots=True)
class DueRetrain:
    """Whether verdicts led to a retrain, and why."""

    retrained: str | None = None
    """The new version."""
    promoted: bool = False
    reason: str

    def to_json(self) -> dict[str, Any]:
        """The JSON form; without `promoted` if nothing was trained."""
        if self.retrained is None:
            return {"retrained": None, "reason": self.reason}
        return asdict(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class Advance:
    """Result of advancing a dataset."""

    dataset: str
    reviews: int
    """Finished reviews."""
    loop: str
    """`none`, `finished`, `waiting` for people, or `busy`: another process works on it."""
    tasks: int
    """Tasks that wait for people."""
    retrain: DueRetrain
    rescored: RescoreFigures | None
    suggested: dict[str, Any]
    """The suggester that new labels led to, or why there is none."""

    def to_json(self) -> dict[str, Any]:
        """The JSON form for users and Prefect."""
        return {**asdict(self), "retrain": self.retrain.to_json()}


def retrain_if_due(workspace: Workspace, dataset: Dataset) -> DueRetrain:
    """Retrain if the verdicts since the last retrain give a reason. The version is named after the
    latest verdict, so that processes with the same reason train once."""
    counts = verdicts_since_retrain(workspace, dataset)
    reasons = due_events(workspace, counts)
    if not reasons:
        return DueRetrain(reason="no reason for a retrain")
    version = f"{dataset.name}-verdict-{counts.latest}"
    try:
        with named_lock(workspace, loop_lock(dataset.id), wait=False):
            result = retrain(str(workspace.settings.root), dataset.name, version)
    except (NoMasksError, BusyError) as error:
        return DueRetrain(reason=str(error))
    return DueRetrain(retrained=result.version, promoted=result.promoted, reason=reasons[0])


def advance_dataset(workspace: Workspace, dataset: Dataset) -> Advance:
    """Advance a dataset without people: finish submitted reviews, continue the loop if no task is
    open, run a due retrain or comparison, learn categories again if that is due."""
    reviews = _finish_reviews(workspace, dataset)
    loop, tasks = _advance_loop(workspace, dataset)
    return Advance(
        dataset=dataset.name,
        reviews=reviews,
        loop=loop,
        tasks=tasks,
        retrain=retrain_if_due(workspace, dataset),
        rescored=rescore_dataset(workspace, dataset),
        suggested=refit_if_due(workspace, dataset),
    )


def _finish_reviews(workspace: Workspace, dataset: Dataset) -> int:
    runs = workspace.catalog.runs
    found = runs.all(dataset_id=dataset.id, kind=RunKind.REVIEW, unfinished=True, limit=RUNS)
    late = LateWork(workspace.catalog, workspace.queue, workspace.objects, workspace.masks)
    for run in found:
        late.resume(run)
        finish_if_submitted(workspace, run.id)
    return sum(runs.get(run.id).state == RunState.FINISHED for run in found)


def _advance_loop(workspace: Workspace, dataset: Dataset) -> tuple[str, int]:
    """Continue the loop; return its state as in `Advance`, and how many tasks wait for people."""
    loop = workspace.catalog.loops.latest(dataset.id)
    if loop is None:
        return "none", 0
    try:
        # Repeated, because processes that found the loop busy meanwhile left their work to us.
        while loop.state != LoopState.FINISHED and not _waits_for_people(workspace, loop):
            data_engine(str(workspace.settings.root), dataset.name, loop.plan, wait=False)
            loop = workspace.catalog.loops.get(loop.id)
    except BusyError as error:
        progress.current().say(f"the loop of {dataset.name}: {error}")
        return "busy", _tasks_left(workspace, loop)
    if loop.state == LoopState.FINISHED:
        return "finished", 0
    left = _tasks_left(workspace, loop)
    progress.current().say(f"{dataset.name}: {left} images wait for people")
    return "waiting", left


def _waits_for_people(workspace: Workspace, loop: Loop) -> bool:
    """Whether people answer the loop's current round, all its tasks are queued, and some are
    open."""
    for row in workspace.catalog.rounds.for_loop(loop.id):
        if row.state == RoundState.DONE:
            continue
        if row.state != RoundState.OPENED or loop.plan[row.position].annotator != PEOPLE:
            return False
        queued = sum(workspace.queue.counts(run_id=str(row.run_id)).values())
        images = len(workspace.catalog.rounds.image_ids(row.id))
        return queued >= images and copies.pending(workspace, str(row.run_id)) > 0
    return False


def _tasks_left(workspace: Workspace, loop: Loop) -> int:
    rounds = workspace.catalog.rounds.for_loop(loop.id)
    return sum(copies.pending(workspace, row.run_id) for row in rounds if row.run_id)
