"""Runs and releases that were broken off: their process is gone, and they would go on as running
or being built for ever. They are found by `doctor` and closed by `sweep`."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from flows.workspace.run_lock import release_turn
from flows.workspace.workspace import Workspace
from storage.catalog import Release, Run

REASON = "broken off: its process is gone. Started again, it goes on where it can"


@dataclass(frozen=True, slots=True)
class Stale:
    """What nobody is at. `handed_in`: runs whose tasks are all handed in; nothing is lost of them,
    the next `advance` finishes them."""

    runs: list[Run]
    releases: list[Release]
    handed_in: list[Run]

    def as_dict(self) -> dict[str, list[str]]:
        """Ids and names of what `close` closes."""
        return {
            "runs": [f"{run.kind} {run.id}" for run in self.runs],
            "releases": [release.name for release in self.releases],
        }


def find(workspace: Workspace) -> Stale:
    """Runs and releases without a sign of life for `outage_seconds` after their last lease ran out.
    Runs that wait for people are left out, and with them late versions of a task
    (`engine.annotation.late`), which have no task of their own until the other version is there."""
    since = workspace.catalog.now() - timedelta(seconds=workspace.settings.outage_seconds)
    runs, handed_in = [], []
    for run in workspace.catalog.runs.silent(since):
        if "late_of" in run.config:
            continue
        if not any(workspace.queue.counts(run_id=run.id).values()):
            runs.append(run)
        elif not workspace.queue.pending(run.id):
            handed_in.append(run)
    releases = [
        release
        for release in workspace.catalog.releases.building()
        if release.created_at < since
        and workspace.catalog.locks.holder(release_turn(release.name)) is None
    ]
    return Stale(runs, releases, handed_in)


def close(workspace: Workspace, found: Stale) -> None:
    """Mark them as failed. A run that goes on after all is running again."""
    for run in found.runs:
        workspace.catalog.runs.fail(run.id, REASON)
    for release in found.releases:
        workspace.catalog.releases.fail(release.name, REASON)
