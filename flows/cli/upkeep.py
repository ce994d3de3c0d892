"""Maintenance commands: `sweep`, `compact`, `backup`, `restore`, `requeue`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from flows.cli.commands import UPKEEP, DatasetOption, JsonOption, example, in_workspace, print_json
from flows.operations.backup import backup_catalog, restore_catalog
from flows.operations.compact import compact_workspace
from flows.operations.requeue import requeue_dataset
from flows.operations.sweep import sweep_workspace
from flows.workspace.console import console
from flows.workspace.settings import find_workspace, load_settings

if TYPE_CHECKING:
    from storage.catalog.backup import Manifest

app = typer.Typer(rich_markup_mode="markdown")


DeleteOption = Annotated[bool, typer.Option("--delete", help="Delete; without it, only list.")]


@app.command(
    rich_help_panel=UPKEEP, epilog=example("dataengine sweep", "dataengine sweep --delete")
)
def sweep(delete: DeleteOption = False, as_json: JsonOption = False) -> None:
    """Find objects that nothing refers to, and runs that no process works on. `--delete` deletes
    the objects and closes the runs."""
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
            done = "are marked as failed" if delete else "would be marked as failed with --delete"
            console.print(
                f"{len(names)} {kind} that no process works on {done}: {', '.join(names)}"
            )


@app.command(rich_help_panel=UPKEEP, epilog=example("dataengine compact"))
def compact(as_json: JsonOption = False) -> None:
    """Merge small files of the mask table, and delete files that no version in use needs."""
    with in_workspace(as_json) as workspace:
        found = compact_workspace(workspace)
    if as_json:
        print_json(found)
        return
    for name, row in found.items():
        console.print(
            f"{name}: {row['files_before']} files merged into {row['files_after']}; "
            f"{row['vacuumed']} old ones deleted, {row['vacuumed_bytes'] / 2**20:.1f} MiB"
        )


@app.command(rich_help_panel=UPKEEP, epilog=example("dataengine backup catalog-$(date +%F).backup"))
def backup(
    file: Annotated[Path, typer.Argument(help="File to write; an earlier backup is replaced.")],
    as_json: JsonOption = False,
) -> None:
    """Write the whole catalog to one compressed file; work may run meanwhile."""
    url = load_settings(find_workspace()).catalog_url
    manifest = backup_catalog(url, file.resolve())
    _print_manifest(manifest, file, as_json, "written to")


@app.command(rich_help_panel=UPKEEP, epilog=example("dataengine restore catalog-2026-01-31.backup"))
def restore(
    file: Annotated[
        Path, typer.Argument(help="A file of `dataengine backup`.", exists=True, dir_okay=False)
    ],
    beside_newer_store: Annotated[
        bool,
        typer.Option(
            "--beside-newer-store",
            help="Restore although the store is newer; later work is lost.",
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Restore a backup into an empty database, SQLite or PostgreSQL, whichever it came from, and
    repeat the erasures made since."""
    from flows.operations.erase import erase_pending
    from flows.workspace.workspace import Workspace

    workspace = Workspace(load_settings(find_workspace()))
    manifest = restore_catalog(
        workspace.settings.catalog_url, file, workspace.objects, beside_newer=beside_newer_store
    )
    _print_manifest(manifest, file, as_json, "restored from")
    erased = erase_pending(workspace)
    if not as_json:
        if erased:
            console.print(f"{len(erased)} erasures were repeated")
        console.print(
            "all annotators are signed out: `dataengine annotators add NAME` makes a link"
        )


def _print_manifest(manifest: Manifest, file: Path, as_json: bool, what: str) -> None:
    if as_json:
        rows = {name: table.rows for name, table in manifest.tables.items()}
        print_json({"file": str(file), "revision": manifest.revision, "rows": rows})
    else:
        console.print(f"{manifest.rows} rows of {len(manifest.tables)} tables {what} {file}")


@app.command(rich_help_panel=UPKEEP, epilog=example("dataengine requeue --dataset photos"))
def requeue(
    dataset: DatasetOption = "default",
    as_json: JsonOption = False,
) -> None:
    """Reopen tasks that were skipped or whose image was quarantined, and plan stage 3 again for the
    images that it quarantined."""
    with in_workspace(as_json) as workspace:
        found = requeue_dataset(workspace, dataset)
    if as_json:
        print_json(found)
        return
    console.print(f"{found['tasks']} tasks reopened")
    if found["run"]:
        command = f"dataengine generate --resume {found['run']}"
        console.print(f"{found['images']} images wait for stage 3: {command}", soft_wrap=True)
