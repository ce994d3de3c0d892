"""`dataengine ingest`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.cli.commands import (
    RESUMES,
    SETUP,
    CrowdsOption,
    DatasetOption,
    FrameOption,
    JsonOption,
    example,
    in_workspace,
    print_json,
)
from flows.cli.tables import print_left_out, print_near_duplicates
from flows.workspace.console import console

app = typer.Typer(rich_markup_mode="markdown")


@app.command(
    rich_help_panel=SETUP,
    epilog=example(
        "dataengine ingest photos/ --dataset photos",
        "dataengine ingest nuclei/images --coco nuclei/instances.json --dataset nuclei",
    ),
)
def ingest(
    folder: Annotated[Path, typer.Argument(help="Folder of images, searched recursively.")],
    dataset: DatasetOption = "default",
    coco: Annotated[
        Path | None, typer.Option(help="COCO instance annotations, the ground truth of the images.")
    ] = None,
    held_out: Annotated[
        float | None, typer.Option(min=0, max=0.99, help="Share of images never trained on.")
    ] = None,
    crowds: CrowdsOption = "auto",
    frame: FrameOption = "auto",
    replace_annotations: Annotated[
        bool,
        typer.Option(
            "--replace-annotations",
            help="Replace annotations that images already have; the history keeps the old ones.",
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Add images to a dataset. Unreadable files are quarantined and do not stop the rest.

    docs/inputs.md says which files are read, how, and which are skipped.
    """
    if not folder.is_dir():
        raise typer.BadParameter(f"{folder} is not a folder", param_hint="FOLDER")
    if coco is not None and not coco.is_file():
        raise typer.BadParameter(f"{coco} is not a file", param_hint="--coco")
    if replace_annotations and coco is None:
        raise typer.BadParameter(
            "give the annotations with --coco", param_hint="--replace-annotations"
        )
    with in_workspace(as_json, orchestrated=True, after_stop=RESUMES) as workspace:
        from flows.data.ingest import ingest as flow
        from flows.data.ingest import path_as_parameter

        report = flow(
            str(workspace.settings.root),
            dataset,
            path_as_parameter(folder),
            path_as_parameter(coco) if coco else None,
            held_out,
            crowds=crowds,
            frame=frame,
            replace_annotations=replace_annotations,
        )
    if as_json:
        print_json(report)
        return
    replaced = f", {report['replaced']} images with new annotations" if report["replaced"] else ""
    console.print(
        f"{report['added']} images added, {report['known']} already known, "
        f"{report['quarantined']} quarantined, {report['masks']} ground-truth masks{replaced}"
    )
    print_near_duplicates(report["near_duplicates"], report["near_pairs"])
    print_left_out(report["passed_over"], report["problems"])
