"""Counts verdicts since the last retrain, and decides whether they trigger another one."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from flows.prefect_api import events
from flows.workspace.run_lock import at_work
from storage.catalog import AnnotatorKind, RunKind, RunState, Split, VerdictKind

if TYPE_CHECKING:
    from flows.workspace.workspace import Workspace
    from storage.catalog import Dataset, Run, Verdict

RUNS = 1_000
"""Latest runs of a kind that are searched."""
EARLIEST = datetime.min.replace(tzinfo=UTC)


def _has_trained(workspace: Workspace, run: Run) -> bool:
    """Whether a running retrain has trained its model and only the comparison is left."""
    totals = workspace.catalog.shards.totals(run.id)
    return run.state == RunState.RUNNING and 0 < totals.shards == totals.committed


@dataclass(frozen=True, kw_only=True, slots=True)
class VerdictCounts:
    """Verdicts on a dataset since its last retrain began, without those of models."""

    accepted: int
    """Masks whose latest verdict is accept, on training images."""
    rejected_in_a_row: int
    """Number of consecutive reject verdicts, counted back from the latest."""
    latest: int
    """Id of the latest verdict; 0: none."""


def emit_due_events(workspace: Workspace, dataset: Dataset) -> None:
    """Emit Prefect events if the verdicts since the last retrain trigger another one."""
    counts = verdicts_since_retrain(workspace, dataset)
    for event in due_events(workspace, counts):
        payload = {
            "dataset": dataset.name,
            "accepted": counts.accepted,
            "rejected_in_a_row": counts.rejected_in_a_row,
        }
        events.emit(workspace, event, payload)


def due_events(workspace: Workspace, counts: VerdictCounts) -> list[str]:
    """Return the names of the events whose condition for a retrain holds."""
    chosen = workspace.settings.production
    reasons = (
        (events.MASKS_ACCEPTED, counts.accepted, chosen.retrain_after_accepted),
        (events.MASKS_REJECTED, counts.rejected_in_a_row, chosen.retrain_after_rejected),
    )
    return [event for event, count, least in reasons if least and count >= least]


def verdicts_since_retrain(workspace: Workspace, dataset: Dataset) -> VerdictCounts:
    """Count the verdicts since the dataset's last retrain that has trained or is running."""
    runs = workspace.catalog.runs
    began = [
        run.started_at
        for run in runs.all(dataset_id=dataset.id, kind=RunKind.RETRAIN, limit=RUNS)
        if run.state == RunState.FINISHED or at_work(workspace, run) or _has_trained(workspace, run)
    ]
    since = max(began, default=EARLIEST)
    verdicts: list[Verdict] = []
    for run in runs.all(dataset_id=dataset.id, kind=RunKind.REVIEW, limit=RUNS):
        if run.finished_at is None or run.finished_at >= since:
            verdicts += workspace.catalog.verdicts.for_run(run.id)
    verdicts.sort(key=lambda verdict: verdict.id)
    people = {
        row.id for row in workspace.catalog.annotators.all() if row.kind != AnnotatorKind.MODEL
    }
    fresh = [v for v in verdicts if v.created_at >= since and v.annotator_id in people]
    last = {verdict.mask_id: verdict.verdict for verdict in fresh}
    accepted = workspace.catalog.verdicts.accepted_mask_ids(dataset.id, split=Split.TRAIN)
    in_a_row = 0
    for verdict in reversed(fresh):
        if verdict.verdict != VerdictKind.REJECT:
            break
        in_a_row += 1
    return VerdictCounts(
        accepted=len(accepted & last.keys()),
        rejected_in_a_row=in_a_row,
        latest=fresh[-1].id if fresh else 0,
    )
