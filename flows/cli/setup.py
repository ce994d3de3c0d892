"""Set-up commands: `init`, `status`, `demo`, `doctor`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from flows.cli.commands import SETUP, JsonOption, example, in_workspace, print_json
from flows.cli.tables import print_checks, print_costs, print_rounds
from flows.workspace.console import console
from flows.workspace.settings import create_workspace, find_workspace

app = typer.Typer(rich_markup_mode="markdown")


@app.command(rich_help_panel=SETUP, epilog=example("dataengine init ws", "cd ws"))
def init(
    folder: Annotated[Path, typer.Argument(help="Folder of the new workspace.")] = Path(),
) -> None:
    """Create a workspace: a folder with a `dataengine.toml`."""
    root = create_workspace(folder)
    from flows.workspace.workspace import open_workspace

    workspace = open_workspace(str(root))
    workspace.prepare()
    if not (uri := workspace.settings.store_uri).startswith(str(root)):
        console.print(f"images and masks are stored in {uri} (uri under [store])", markup=False)
    where = shlex.quote(str(folder))
    message = f"workspace {root} is ready; next: cd {where} && dataengine ingest FOLDER"
    console.print(message, markup=False)
    from flows.data.import_model import MODEL_CHOICES

    console.print("its model is the shipped lite; for photographs use a public one:")
    for choice in MODEL_CHOICES:
        console.print(f"  {choice.where}  {choice.command:45}({choice.size})", soft_wrap=True)


@app.command(rich_help_panel=SETUP, epilog=example("dataengine status", "dataengine status --json"))
def status(as_json: JsonOption = False) -> None:
    """Show datasets, images, masks, rounds, models, tasks, runs, releases, quarantine, costs."""
    with in_workspace(as_json) as workspace:
        from flows.operations.status import status_of

        found = status_of(workspace)
    if as_json:
        print_json(found)
        return
    table = Table("", "", title=str(workspace.settings.root), show_header=False)
    for name in ("images", "masks", "tasks", "runs", "models", "quarantine"):
        parts = [f"{key} {value}" for key, value in found[name].items()]
        table.add_row(name, ", ".join(parts) or "none")
    unused = [row for rows in found["passed_over"].values() for row in rows]
    counts = ", ".join(f"{row['count']} {row['what']}" for row in unused)
    table.add_row("not used", Text(counts or "none"))
    near = sum(row["near_duplicates"] for row in found["datasets"].values())
    table.add_row("near-duplicates", f"{near} images, not annotated twice" if near else "none")
    table.add_row("datasets", ", ".join(found["datasets"]) or "none")
    table.add_row("releases", ", ".join(row["name"] for row in found["releases"]) or "none")
    for dataset, counts in found["categories"].items():
        parts = [f"{name} {count}" for name, count in counts.items() if count]
        table.add_row(Text(f"{dataset}, labels"), Text(", ".join(parts) or "none"))
    for row in found["consensus"]:
        agreed = f"F1 {row['f1']:.2f}, IoU {row['iou']:.2f}, {row['reviewed']} to a reviewer"
        what = f"{row['images']} images by several people: {agreed}"
        table.add_row(f"{row['dataset']}, {row['stage']} {row['round']}", what)
    console.print(table)
    if found["rounds"]:
        print_rounds(found["rounds"])
    print_costs(found["costs"])


@app.command(rich_help_panel=SETUP, epilog=example("dataengine demo", "make demo"))
def demo(
    folder: Annotated[Path, typer.Argument(help="Workspace; an earlier demo is replaced.")] = Path(
        "demo"
    ),
    as_json: JsonOption = False,
) -> None:
    """Run the whole loop once on generated scenes and real photographs, and write a report."""
    import os

    from flows.demo.demo_workspace import prepare_demo

    root = prepare_demo(folder.resolve())
    os.environ["DATAENGINE_WORKSPACE"] = str(root)
    with in_workspace(as_json, orchestrated=True) as workspace:
        from flows.demo.demo import demo as flow

        summary = flow(str(workspace.settings.root))
    if as_json:
        print_json(summary)
        return
    print_rounds(summary["rounds"])
    final = summary["final"]
    console.print(
        f"after the last retrain: {final['model']}, held-out mIoU {final['miou_1_click']:.3f} at 1 "
        f"click, {final['miou_3_clicks']:.3f} at 3 clicks"
    )
    console.print(f"{summary['seconds']:.0f} s; report: {summary['report']}", soft_wrap=True)


@app.command(rich_help_panel=SETUP, epilog=example("dataengine doctor"))
def doctor(as_json: JsonOption = False) -> None:
    """Run health checks: catalog, store, mask table, model, Prefect, disk, clock, leases, more."""
    from flows.operations.doctor import check_workspace

    checks = check_workspace(find_workspace())
    if as_json:
        print_json({"ok": all(check["ok"] for check in checks), "checks": checks})
    else:
        print_checks(checks)
    if not all(check["ok"] for check in checks):
        raise typer.Exit(1)
