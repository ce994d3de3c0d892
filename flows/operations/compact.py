"""Merges small files of the mask tables, and deletes files that no version in use needs."""

from __future__ import annotations

from dataclasses import asdict
from datetime import timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flows.workspace.workspace import Workspace


CLOCKS = timedelta(hours=1)
"""Extra time that versions stay readable, as the clock of their writer may be off."""


def compact_workspace(workspace: Workspace) -> dict[str, Any]:
    """Merge small files of the mask tables, then delete files that only versions older than
    `vacuum_days` need. Versions of releases and models are kept, and those that a running training
    or release may read.

    Returns:
        Per table `files_before`, `files_after`, `rows`, `version`, `vacuumed` (files),
        `vacuumed_bytes` and `kept_versions`.

    Raises:
        StorageError, CatalogError: the store or the catalog does not answer; repeat it.
    """
    from storage import layout
    from storage.compaction import compact as compact_table
    from storage.compaction import vacuum
    from storage.sweep import pinned_versions

    found: dict[str, Any] = {}
    for name in layout.TABLES:
        done = asdict(compact_table(workspace.objects, name))
        pinned = pinned_versions(workspace.catalog) if name == layout.MASKS else set()
        vacuumed = vacuum(
            workspace.objects,
            name,
            pinned=pinned,
            younger_than=_readable_for(workspace),
            delete=True,
        )
        found[name] = {
            **done,
            "vacuumed": vacuumed.files,
            "vacuumed_bytes": vacuumed.bytes,
            "kept_versions": vacuumed.kept_versions,
        }
    return found


def _readable_for(workspace: Workspace) -> timedelta:
    """How long all versions stay readable: `vacuum_days`, and at least since the start of the
    oldest training or release that a process works on."""
    from flows.workspace.run_lock import at_work
    from storage.catalog import RunKind, RunState

    now = workspace.catalog.now()
    ages = [
        now - run.started_at + CLOCKS
        for kind in (RunKind.RETRAIN, RunKind.RELEASE)
        for run in workspace.catalog.runs.all(kind=kind, state=RunState.RUNNING, limit=1_000)
        if at_work(workspace, run)
    ]
    return max([timedelta(days=workspace.settings.operations.vacuum_days), *ages])
