"""Sweeps a workspace: unreferenced objects, and runs that no process works on."""

from __future__ import annotations

from dataclasses import asdict
from datetime import timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flows.workspace.workspace import Workspace


def sweep_workspace(workspace: Workspace, delete: bool = False) -> dict[str, Any]:
    """Find objects that nothing refers to and that are older than `orphan_days`, and runs and
    releases that no process works on. `delete`: delete the objects and close the runs.

    Returns:
        `kinds` (objects and bytes by prefix), `objects`, `bytes`, `deleted`; `stale`: the runs and
        releases, which are marked as failed if `delete` is on.

    Raises:
        StorageError, CatalogError: the store or the catalog does not answer; repeat it.
    """
    from flows.operations import stale_runs
    from storage import generations
    from storage.sweep import sweep as sweep_store

    if delete:  # with an outdated catalog, objects in use look unreferenced
        generations.check(workspace.catalog, workspace.objects)
    report = sweep_store(
        workspace.catalog,
        workspace.objects,
        older_than=timedelta(days=workspace.settings.operations.orphan_days),
        delete=delete,
    )
    if delete and report.objects:
        workspace.catalog.audit.add("sweep", objects=report.objects, bytes=report.bytes)
    stale = stale_runs.find(workspace)
    if delete:
        stale_runs.close(workspace, stale)
    found = {**asdict(report), "objects": report.objects, "bytes": report.bytes}
    return {**found, "stale": stale.as_dict()}
