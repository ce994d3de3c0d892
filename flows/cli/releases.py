"""`dataengine release` and `export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from flows.cli.commands import (
    RELEASES,
    RESUMES,
    DatasetOption,
    JsonOption,
    example,
    in_workspace,
    print_json,
)
from flows.workspace.console import console
from flows.workspace.permissions import for_people

app = typer.Typer(rich_markup_mode="markdown")


@app.command(
    rich_help_panel=RELEASES,
    epilog=example(
        "dataengine release nuclei-1 --dataset nuclei",
        "dataengine release night-1 --dataset streets --program night",
    ),
)
def release(
    name: Annotated[str, typer.Argument(help="Name of the release.")],
    dataset: DatasetOption = "default",
    program: Annotated[
        str | None,
        typer.Option(help="Run of a program, by id or tag: only the images that it selected."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Freeze a dataset: pin the mask table's version; write COCO, SA-1B, a report and a card."""
    with in_workspace(as_json, orchestrated=True, after_stop=RESUMES) as workspace:
        from flows.release.release import is_released
        from flows.release.release import release as flow

        was_done = is_released(workspace, name)
        card = flow(str(workspace.settings.root), dataset, name, program)
    if as_json:
        print_json({**card, "made_before": was_done})
        return
    message = f"release {name}: {card['masks']} masks on {card['images']} images"
    if was_done:
        message += f", as made at {card['created_at']}; later masks need a release of a new name"
    console.print(message, markup=False, soft_wrap=True)
    _print_statuses(card)


def _print_statuses(counts: dict[str, Any]) -> None:
    """Print how many images are annotated and generated; releases of old versions lack this."""
    statuses = counts.get("statuses")
    if statuses is None:
        return
    console.print(f"{statuses['annotated']} images annotated, {statuses['generated']} generated")
    if statuses["neither"]:
        console.print(
            f"{statuses['neither']} images neither annotated nor generated: exports leave them out "
            "without --all-images"
        )


@app.command(
    rich_help_panel=RELEASES,
    epilog=example(
        "dataengine export latest --format coco --out out/",
        "dataengine export latest --format yolo --out photos-yolo/",
    ),
)
def export(
    name: Annotated[str, typer.Argument(help="A release, or `latest`.")] = "latest",
    style: Annotated[str, typer.Option("--format", help="coco, sa1b or yolo.")] = "coco",
    out: Annotated[Path, typer.Option(help="Folder to write to.")] = Path("out"),
    dataset: Annotated[
        str | None,
        typer.Option(help="Dataset of the latest release; required if several."),
    ] = None,
    all_images: Annotated[
        bool,
        typer.Option("--all-images", help="Include images neither annotated nor generated."),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Write a release and its report into a folder. `latest` makes a first release if the dataset
    has none."""
    with in_workspace(as_json, orchestrated=True) as workspace:
        from flows.release.release import export_release, release_to_export

        chosen = release_to_export(workspace, name, dataset)
        with for_people():
            counts = export_release(workspace, chosen, out, style, all_images=all_images)
    if as_json:
        print_json({"release": chosen.name, "folder": str(out), **counts})
    else:
        console.print(f"{counts['masks']} masks of {counts['images']} images are in {out}")
        _print_statuses(counts)
        if "yolo" in counts:
            _print_yolo(counts["yolo"])


def _print_yolo(counts: dict[str, int]) -> None:
    """Print what polygons could not show."""
    told = (
        f"{counts['polygons']} polygons on {counts['train']} images to train on and "
        f"{counts['val']} held out; lost: {counts['lost_holes']} holes, {counts['lost_pieces']} "
        f"further pieces; left out: {counts['without_category']} masks without a category"
    )
    console.print(told, markup=False, soft_wrap=True)
    if not counts["val"]:
        console.print("no image is held out: `val` in data.yaml names the training images")
