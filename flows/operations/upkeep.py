"""Keeping a workspace well: `dataengine sweep`, `compact`, `backup`, `restore`."""

from __future__ import annotations

from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from flows.cli.console import JsonOption, console, example, in_workspace, number, print_json
from flows.operations.requeue import requeue
from flows.workspace.settings import find_workspace, load_settings

if TYPE_CHECKING:
    from flows.workspace.workspace import Workspace
    from storage.catalog.backup import Manifest
    from storage.objects import ObjectStore

CLOCKS = timedelta(hours=1)
"""How much longer than needed versions stay readable: whoever wrote them may have another clock."""

DeleteOption = Annotated[bool, typer.Option("--delete", help="Delete; without it, only tell.")]


def sweep_workspace(workspace: Workspace, delete: bool = False) -> dict[str, Any]:
    """Find, and delete if asked, objects that nothing refers to and that are older than
    `orphan_days`; find, and close if asked, runs and releases that nobody is at any more.

    Returns:
        `kinds` (objects and bytes by prefix), `objects`, `bytes`, `deleted`; `stale`: the runs and
        releases, which have failed now where `delete` is on.

    Raises:
        StorageError, CatalogError: the store or the catalog does not answer; do it again.
    """
    from flows.operations import stale_runs
    from storage import generations
    from storage.sweep import sweep as sweep_store

    if delete:  # what a forgotten row names looks like an orphan
        generations.check(workspace.catalog, workspace.objects)
    report = sweep_store(
        workspace.catalog,
        workspace.objects,
        older_than=timedelta(days=workspace.settings.operations.orphan_days),
        delete=delete,
    )
    if delete and report.objects:
        workspace.catalog.audit.add("sweep", objects=report.objects, bytes=report.bytes)
    left = stale_runs.find(workspace)
    if delete:
        stale_runs.close(workspace, left)
    found = {**asdict(report), "objects": report.objects, "bytes": report.bytes}
    return {**found, "stale": left.as_dict()}


def compact_workspace(workspace: Workspace, delete: bool = True) -> dict[str, Any]:
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
            delete=delete,
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


def backup_catalog(url: str, path: Path) -> Manifest:
    """Write the catalog at `url` to a file, and note in its audit log that it was.

    Raises:
        CatalogError: there is no catalog, or it does not answer.
        OSError: the file cannot be written.
    """
    from storage.catalog import CatalogNotMigratedError, CatalogTooNewError, open_catalog
    from storage.catalog.backup import write_backup

    with open_catalog(url) as catalog:
        manifest = write_backup(catalog.engine, path)
        try:
            catalog.audit.add("backup", path.name, rows=manifest.rows)
        except (CatalogNotMigratedError, CatalogTooNewError):
            return manifest  # of another version of the code: it is only read
        return manifest


def restore_catalog(
    url: str, path: Path, store: ObjectStore | None = None, *, beside_newer: bool = False
) -> Manifest:
    """Bring a backup into the empty database at `url`.

    Args:
        store: what the catalog belongs to; it has to be as old as the backup.
        beside_newer: or it may be newer, and what was done since is lost to the catalog.

    Raises:
        BackupError: the database is not empty, or the file is damaged or none.
        CatalogBehindError: the store has gone on since the backup; nothing was changed.
        CatalogError: the database does not answer, or the backup is of newer code.
        StorageError: the store does not answer.
    """
    from storage import generations
    from storage.catalog import open_catalog
    from storage.catalog.backup import first_values, restore_backup

    unknown = None
    if store is not None:
        marks = first_values(path, "generations")
        unknown = generations.unknown_to(lambda: marks, store)
    if unknown is not None and not beside_newer:
        raise generations.CatalogBehindError(
            f"{path}: {unknown}. Nothing was changed. Restore a newer backup; where there is none, "
            "--beside-newer-store restores this one (docs/maintenance.md)"
        )
    with open_catalog(url) as catalog:
        manifest = restore_backup(catalog.engine, path)
        if unknown is not None:
            generations.accept(catalog, unknown.ids)
        return manifest


# commands


def sweep(delete: DeleteOption = False, as_json: JsonOption = False) -> None:
    """Find objects that nothing refers to any more, and runs that nobody is at; delete those and
    close these with `--delete`."""
    with in_workspace(as_json) as workspace:
        found = sweep_workspace(workspace, delete)
    if as_json:
        print_json(found)
        return
    table = Table("kind", "objects", "MiB")
    for name, kind in found["kinds"].items():
        table.add_row(name, str(kind["objects"]), f"{kind['bytes'] / 2**20:.1f}")
    if found["kinds"]:
        console.print(table)
    what = "deleted" if delete else "would be deleted with --delete"
    console.print(f"{found['objects']} objects, {found['bytes'] / 2**20:.1f} MiB {what}")
    for kind, names in found["stale"].items():
        if names:
            done = "have failed now" if delete else "would fail with --delete"
            console.print(f"{len(names)} {kind} that nobody is at {done}: {', '.join(names)}")


def compact(as_json: JsonOption = False) -> None:
    """Make few files of the mask table's many, and delete those that no version in use needs."""
    with in_workspace(as_json) as workspace:
        found = compact_workspace(workspace)
    if as_json:
        print_json(found)
        return
    for name, row in found.items():
        console.print(
            f"{name}: {row['files_before']} files became {row['files_after']}; {row['vacuumed']} "
            f"old ones deleted, {row['vacuumed_bytes'] / 2**20:.1f} MiB"
        )


def backup(
    file: Annotated[Path, typer.Argument(help="File to write; an earlier backup is replaced.")],
    as_json: JsonOption = False,
) -> None:
    """Write the whole catalog to one compressed file, beside running work."""
    url = load_settings(find_workspace()).catalog_url
    manifest = backup_catalog(url, file.resolve())
    _tell(manifest, file, as_json, "are in")


def restore(
    file: Annotated[
        Path, typer.Argument(help="A file of `dataengine backup`.", exists=True, dir_okay=False)
    ],
    beside_newer_store: Annotated[
        bool,
        typer.Option(
            "--beside-newer-store", help="Though the store has gone on since: that work is lost."
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Bring a backup into an empty database, SQLite or PostgreSQL, whichever it came from, and
    erase again what was erased since."""
    from flows.operations.erase import erase_pending
    from flows.workspace.workspace import Workspace

    workspace = Workspace(load_settings(find_workspace()))
    manifest = restore_catalog(
        workspace.settings.catalog_url, file, workspace.objects, beside_newer=beside_newer_store
    )
    _tell(manifest, file, as_json, "were restored from")
    erased = erase_pending(workspace)
    if not as_json:
        if erased:
            console.print(f"{len(erased)} erasures were done again")
        console.print("nobody is signed in: `dataengine annotators add NAME` makes a sign-in link")


def _tell(manifest: Manifest, file: Path, as_json: bool, what: str) -> None:
    if as_json:
        rows = {name: table.rows for name, table in manifest.tables.items()}
        print_json({"file": str(file), "revision": manifest.revision, "rows": rows})
    else:
        console.print(f"{manifest.rows} rows of {len(manifest.tables)} tables {what} {file}")


def print_costs(costs: dict[str, Any]) -> None:
    """The cost ledger by stage and model, and its total; nothing where nothing ran."""
    if not costs["stages"]:
        return
    names = ("runs", "images", "masks", "accepted", "CPU h", "GPU h", "people h", "cost")
    table = Table("stage", "model", title="costs", header_style="bold")
    for name in (*names, "per accepted mask"):
        table.add_column(name, justify="right")
    for row in [*costs["stages"], {"stage": "total", "model": None, **costs["total"]}]:
        hours = [f"{row[f'{of}_seconds'] / 3600:.2f}" for of in ("cpu", "gpu", "people")]
        table.add_row(
            row["stage"],
            row["model"] or "",
            str(row.get("runs", "")),
            str(row["images"]),
            str(row["masks"]),
            ("~" if row["accepted_is_estimate"] else "") + number(row["accepted_masks"]),
            *hours,
            _money(row["cost"]),
            _money(row["cost_per_accepted_mask"]),
        )
    console.print(table)
    if costs["total"]["accepted_is_estimate"]:
        console.print("~ by the share of the judged masks that was accepted")


def _money(value: float | None) -> str:
    """Two places, small amounts by two digits."""
    return number(value, ".2f" if value is None or value >= 1 or value == 0 else ".2g")


def register(app: typer.Typer) -> None:
    """Add these commands."""
    for command, lines in (
        (sweep, ("dataengine sweep", "dataengine sweep --delete")),
        (compact, ("dataengine compact",)),
        (backup, ("dataengine backup catalog-$(date +%F).backup",)),
        (requeue, ("dataengine requeue --dataset photos",)),
        (restore, ("dataengine restore catalog-2026-01-31.backup",)),
    ):
        app.command(command.__name__, epilog=example(*lines))(command)
