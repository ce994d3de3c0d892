"""`dataengine ingest`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

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
        "dataengine ingest done/ --annotations tasks.json --annotations-as masks --dataset photos",
    ),
)
def ingest(
    folder: Annotated[Path, typer.Argument(help="Folder of images, searched recursively.")],
    dataset: DatasetOption = "default",
    coco: Annotated[
        Path | None, typer.Option(help="COCO instance annotations, the ground truth of the images.")
    ] = None,
    annotations: Annotated[
        Path | None,
        typer.Option(help="Annotations of other tools, a file or folder (docs/formats.md)."),
    ] = None,
    form: Annotated[
        Literal["auto", "coco", "sa1b", "yolo", "label-png", "cvat", "label-studio", "labelme"],
        typer.Option("--format", help="Format of --annotations."),
    ] = "auto",
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
    annotations_as: Annotated[
        Literal["truth", "masks"],
        typer.Option(
            help="What annotations are: ground truth, for scores, or masks of people, to train on "
            "and to release."
        ),
    ] = "truth",
    as_json: JsonOption = False,
) -> None:
    """Add images to a dataset. Unreadable files are quarantined and do not stop the rest.

    docs/inputs.md says which files are read, how, and which are skipped.
    """
    if not folder.is_dir():
        raise typer.BadParameter(f"{folder} is not a folder", param_hint="FOLDER")
    if coco is not None and not coco.is_file():
        raise typer.BadParameter(f"{coco} is not a file", param_hint="--coco")
    if coco is not None and annotations is not None:
        raise typer.BadParameter("give one of --coco and --annotations")
    if annotations is not None and not annotations.exists():
        raise typer.BadParameter(f"{annotations} does not exist", param_hint="--annotations")
    given_file = coco or annotations
    given = {
        "--replace-annotations": replace_annotations,
        "--annotations-as": annotations_as != "truth",
    }
    for option, is_given in given.items():
        if is_given and given_file is None:
            raise typer.BadParameter("give them with --coco or --annotations", param_hint=option)
    with in_workspace(as_json, orchestrated=True, after_stop=RESUMES) as workspace:
        from flows.data.ingest import ingest as flow
        from flows.data.ingest import path_as_parameter

        report = flow(
            str(workspace.settings.root),
            dataset,
            path_as_parameter(folder),
            path_as_parameter(given_file) if given_file else None,
            held_out,
            crowds=crowds,
            frame=frame,
            replace_annotations=replace_annotations,
            annotations_as=annotations_as,
            annotation_format="coco" if coco else form,
        )
    if as_json:
        print_json(report)
    else:
        _print_report(report, is_truth=annotations_as == "truth")


def _print_report(report: dict[str, Any], *, is_truth: bool) -> None:
    replaced = f", {report['replaced']} images with new annotations" if report["replaced"] else ""
    kind = "ground-truth masks" if is_truth else "masks of people"
    console.print(
        f"{report['added']} images added, {report['known']} already known, "
        f"{report['quarantined']} quarantined, {report['masks']} {kind}{replaced}"
    )
    if report["labels"] or report["new_categories"]:
        console.print(f"{report['labels']} labels, {report['new_categories']} new categories")
    print_near_duplicates(report["near_duplicates"], report["near_pairs"])
    print_left_out(report["passed_over"], report["problems"])
