"""Fewer files in the mask tables, and none that no version in use needs."""

from __future__ import annotations

from dataclasses import asdict
from datetime import timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flows.workspace.workspace import Workspace


CLOCKS = timedelta(hours=1)
"""How much longer than needed versions stay readable: whoever wrote them may have another clock."""


def compact_workspace(workspace: Workspace) -> dict[str, Any]:
    """Make few files of the mask tables' many, then delete files that only versions older than
    `vacuum_days` need; versions of releases and models stay, and so does what a training or a
    release that is running may read.

    Returns:
        By table `files_before`, `files_after`, `rows`, `version`, `vacuumed` (files),
        `vacuumed_bytes` and `kept_versions`.

    Raises:
        StorageError, CatalogError: the store or the catalog does not answer; do it again.
    """
    from storage.compaction import compact as compact_table
    from storage.compaction import vacuum
    from storage.sweep import TABLES, pinned_versions

    found: dict[str, Any] = {}
    for name in TABLES:
        done = asdict(compact_table(workspace.objects, name))
        pinned = pinned_versions(workspace.catalog) if name == "masks" else set()
        gone = vacuum(
            workspace.objects,
            name,
            pinned=pinned,
            younger_than=_readable_for(workspace),
            delete=True,
        )
        found[name] = {
            **done,
            "vacuumed": gone.files,
            "vacuumed_bytes": gone.bytes,
            "kept_versions": gone.kept_versions,
        }
    return found


def _readable_for(workspace: Workspace) -> timedelta:
    """How long all versions stay: as the settings say, and from when the oldest training or release
    began that a process is at."""
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
