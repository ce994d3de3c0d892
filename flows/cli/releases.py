"""`dataengine release` and `export`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

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
    rich_help_panel=RELEASES, epilog=example("dataengine release nuclei-1 --dataset nuclei")
)
def release(
    name: Annotated[str, typer.Argument(help="Name of the release.")],
    dataset: DatasetOption = "default",
    as_json: JsonOption = False,
) -> None:
    """Freeze a dataset: pin the mask table's version; write COCO, SA-1B, a report and a card."""
    with in_workspace(as_json, orchestrated=True, after_stop=RESUMES) as workspace:
        from flows.release.release import is_released
        from flows.release.release import release as flow

        was_done = is_released(workspace, name)
        card = flow(str(workspace.settings.root), dataset, name)
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
        "dataengine export latest --format yolo --out photos-yolo/ --splits 0.8,0.1,0.1",
        "dataengine export photos-1 --format parquet --out s3://bucket/photos-1",
    ),
)
def export(
    name: Annotated[str, typer.Argument(help="A release, or `latest`.")] = "latest",
    style: Annotated[
        str,
        typer.Option(
            "--format",
            help="coco, lvis, sa1b, yolo, label-png, webdataset, parquet (Hugging Face), cvat or "
            "label-studio: docs/formats.md.",
        ),
    ] = "coco",
    out: Annotated[str, typer.Option(help="Folder to write to, or s3://bucket/prefix.")] = "out",
    dataset: Annotated[
        str | None,
        typer.Option(help="Dataset of the latest release; required if several."),
    ] = None,
    all_images: Annotated[
        bool,
        typer.Option("--all-images", help="Include images neither annotated nor generated."),
    ] = False,
    splits: Annotated[
        str | None,
        typer.Option(help="Shares of train, val and test, such as 0.8,0.1,0.1; kept for good."),
    ] = None,
    split_by: Annotated[
        Literal["image", "folder"],
        typer.Option(help="What is in one split as a whole: an image, or a folder of images."),
    ] = "image",
    polygons: Annotated[
        bool, typer.Option("--polygons", help="coco, lvis: polygons, which lose holes.")
    ] = False,
    tars: Annotated[bool, typer.Option("--tars", help="sa1b: tars of 1,000 images.")] = False,
    image_root: Annotated[
        str, typer.Option(help="label-studio: what its addresses of images begin with.")
    ] = "/data/local-files/?d=",
    as_json: JsonOption = False,
) -> None:
    """Write a release into a folder or S3. `latest` makes a first release if the dataset has none.

    Files that are there already are replaced only if this command wrote them. Repeated after a
    stop, it goes on with shards and images that are not written yet.
    """
    with in_workspace(as_json, orchestrated=True, after_stop=RESUMES) as workspace:
        from flows.release.export import ExportOptions, export_release
        from flows.release.release import release_to_export
        from flows.release.splits import SplitPlan

        options = ExportOptions(
            all_images=all_images,
            polygons=polygons,
            tars=tars,
            splits=None if splits is None else SplitPlan.parse(splits, split_by),
            image_root=image_root,
        )
        chosen = release_to_export(workspace, name, dataset)
        with for_people():
            counts = export_release(workspace, chosen, out, style, options)
    if as_json:
        print_json({"release": chosen.name, "folder": out, **counts})
    else:
        _print_export(counts, style, out)


def _print_export(counts: dict[str, Any], style: str, out: str) -> None:
    """Print what was written, and what the format cannot show."""
    told = f"{counts['masks']} masks of {counts['images']} images are in {out}"
    if parts := [f"{images} {split}" for split, images in counts.get("splits", {}).items()]:
        told += f" ({', '.join(parts)})"
    console.print(told, markup=False, soft_wrap=True)
    _print_statuses(counts)
    own = counts[style]
    lost = [f"{own[name]} {text}" for name, text in _LOSSES.items() if own.get(name)]
    if lost:
        console.print(f"{style} cannot show: {', '.join(lost)}", markup=False, soft_wrap=True)
    if style == "yolo" and not counts["splits"].get("val"):
        console.print("no image is held out: `val` in data.yaml names the training images")


_LOSSES = {
    "lost_holes": "holes",
    "lost_pieces": "further pieces of masks",
    "hidden_pixels": "pixels of masks under smaller ones",
    "hidden_masks": "masks entirely under others",
    "without_category": "masks without a category (left out)",
}
"""Counts of a format that say what it lost, in words."""
