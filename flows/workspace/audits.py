"""Finished audits (docs/quality.md)."""

from __future__ import annotations

from flows.workspace.workspace import Workspace
from storage.catalog import Run, RunKind, RunState

RUNS = 10_000
"""Latest review runs that are searched for an audit."""


def latest_audit(workspace: Workspace, dataset_id: int) -> Run | None:
    """Return a dataset's latest finished audit; its metrics are the result."""
    runs = workspace.catalog.runs.all(
        dataset_id=dataset_id, kind=RunKind.REVIEW, state=RunState.FINISHED, limit=RUNS
    )
    return next((run for run in runs if "audit" in run.config), None)
