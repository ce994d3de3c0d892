"""Stale runs and releases: their process is gone, but they are still marked as running or building.
`doctor` finds them, `sweep` closes them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from flows.workspace.run_lock import release_lock
from flows.workspace.workspace import Workspace
from storage.catalog import Release, Run

REASON = "interrupted: its process is gone. Started again, it resumes if possible"


@dataclass(frozen=True, slots=True)
class StaleWork:
    """Runs and releases that no process works on. `submitted`: runs whose tasks are all submitted;
    they lose nothing, as the next `advance` finishes them."""

    runs: list[Run]
    releases: list[Release]
    submitted: list[Run]

    def as_dict(self) -> dict[str, list[str]]:
        """Ids and names of the runs and releases that `close` closes."""
        return {
            "runs": [f"{run.kind} {run.id}" for run in self.runs],
            "releases": [release.name for release in self.releases],
        }


def find(workspace: Workspace) -> StaleWork:
    """Runs and releases without a heartbeat for `outage_seconds` after their last lease expired.
    Runs that wait for people are left out, and so are late versions of a task
    (`engine.annotation.late`), which have no task of their own until the other version exists."""
    since = workspace.catalog.now() - timedelta(seconds=workspace.settings.outage_seconds)
    runs, submitted = [], []
    for run in workspace.catalog.runs.silent(since):
        if "late_of" in run.config:
            continue
        if not any(workspace.queue.counts(run_id=run.id).values()):
            runs.append(run)
        elif not workspace.queue.pending(run.id):
            submitted.append(run)
    releases = [
        release
        for release in workspace.catalog.releases.building()
        if release.created_at < since
        and workspace.catalog.locks.holder(release_lock(release.name)) is None
    ]
    return StaleWork(runs, releases, submitted)


def close(workspace: Workspace, found: StaleWork) -> None:
    """Mark them as failed. A run that resumes after all is marked as running again."""
    for run in found.runs:
        workspace.catalog.runs.fail(run.id, REASON)
    for release in found.releases:
        workspace.catalog.releases.fail(release.name, REASON)
