"""`dataengine release ...` and `export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.table import Table
from typer.core import TyperGroup

from flows.cli.commands import (
    RELEASES,
    RESUMES,
    ChoiceOption,
    DatasetOption,
    JsonOption,
    example,
    in_workspace,
    number,
    print_json,
)
from flows.cli.erase import (
    DryOption,
    YesOption,
    check_none_unfinished,
    confirm_forever,
    erasure_of,
)
from flows.workspace.console import console
from flows.workspace.permissions import for_people


class CreatesByDefault(TyperGroup):
    """`dataengine release NAME` is `dataengine release create NAME`."""

    default_command = "create"

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] != "--help":
            args = [self.default_command, *args]
        return super().parse_args(ctx, args)


app = typer.Typer(rich_markup_mode="markdown")
releases = typer.Typer(
    cls=CreatesByDefault,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Freeze a dataset, describe, check and compare what was frozen.",
    epilog=example(
        "dataengine release create nuclei-1 --dataset nuclei",
        "dataengine release nuclei-1 --dataset nuclei",
        "dataengine release diff nuclei-1 nuclei-2",
    ),
)
app.add_typer(releases, name="release", rich_help_panel=RELEASES)

NameArgument = Annotated[str, typer.Argument(help="Name of the release.")]


@releases.command(
    epilog=example(
        "dataengine release create nuclei-1 --dataset nuclei",
        "dataengine release create strict-1 --min-iou 0.9 --min-stability 0.95 --verdicts accepted",
        "dataengine release create night-1 --dataset street --program night",
        "dataengine release create street-1 --dataset street --blur faces --license cc-by-4.0",
    )
)
def create(
    name: NameArgument,
    dataset: DatasetOption = "default",
    stage: Annotated[
        list[str] | None,
        typer.Option(help="Only masks of this stage; may be repeated. All by default."),
    ] = None,
    verdicts: Annotated[
        Literal["not-rejected", "accepted"],
        typer.Option(help="`accepted`: automatic masks need an accept."),
    ] = "not-rejected",
    min_iou: Annotated[
        float | None, typer.Option(help="Least predicted IoU of automatic masks.")
    ] = None,
    min_stability: Annotated[
        float | None, typer.Option(help="Least stability score of automatic masks.")
    ] = None,
    min_accept: Annotated[
        float | None,
        typer.Option(help="Least probability by the current verifier that a mask is accepted."),
    ] = None,
    category: Annotated[
        list[str] | None,
        typer.Option(help="Only masks of this category; may be repeated."),
    ] = None,
    labelled_only: Annotated[
        bool, typer.Option("--labelled-only", help="Only masks with a category.")
    ] = False,
    program: Annotated[
        str | None,
        typer.Option(help="Run of a program, by id or tag: only the images that it selected."),
    ] = None,
    repeated_iou: Annotated[
        float,
        typer.Option(help="IoU with a mask already in from which an automatic mask is left out."),
    ] = 0.7,
    blur: Annotated[
        list[str] | None,
        typer.Option(help="Blur `faces`, or what an installed detector finds; may be repeated."),
    ] = None,
    licence: Annotated[
        str, typer.Option("--license", help="For the dataset card, as Hugging Face names it.")
    ] = "unknown",
    as_json: JsonOption = False,
) -> None:
    """Freeze a dataset: choose masks by rules; write Parquet, COCO, SA-1B, a report, a card, and a
    manifest with checksums. It never changes afterwards."""
    with in_workspace(as_json, orchestrated=True, after_stop=RESUMES) as workspace:
        from flows.release.release import is_released
        from flows.release.release import release as flow
        from flows.release.rules import Options, Rules

        rules = Rules(
            stages=tuple(stage or ()),
            verdicts=verdicts,
            min_predicted_iou=min_iou,
            min_stability=min_stability,
            min_accept_probability=min_accept,
            categories=tuple(category or ()),
            labelled_only=labelled_only,
            program=program,
            repeated_iou=repeated_iou,
        )
        options = Options(rules=rules, blur=tuple(blur or ()), license=licence)
        asked = None if options == Options() else options.as_json()
        was_done = is_released(workspace, name)
        card = flow(str(workspace.settings.root), dataset, name, asked)
    if as_json:
        print_json({**card, "made_before": was_done})
        return
    message = f"release {name}: {card['masks']} masks on {card['images']} images"
    if was_done:
        message += f", as made at {card['created_at']}; later masks need a release of a new name"
    console.print(message, markup=False, soft_wrap=True)
    _print_statuses(card)


@releases.command("list", epilog=example("dataengine release list --dataset nuclei"))
def list_releases(dataset: ChoiceOption = None, as_json: JsonOption = False) -> None:
    """List releases, newest first."""
    with in_workspace(as_json) as workspace:
        from flows.release.checking import release_rows

        rows = release_rows(workspace, dataset)
    if as_json:
        print_json({"releases": rows})
        return
    table = Table("release", "dataset", "state", "images", "masks", "MB", "made", "superseded by")
    for row in rows:
        size = None if row["bytes"] is None else row["bytes"] / 1e6
        table.add_row(
            *(row["name"], row["dataset"], row["state"]),
            *(number(row["images"]), number(row["masks"]), number(size, ".1f")),
            *(row["created_at"][:16], row["superseded_by"] or ""),
        )
    console.print(table)


@releases.command(epilog=example("dataengine release show nuclei-1 --json"))
def show(name: NameArgument, as_json: JsonOption = False) -> None:
    """Show a release: rules, counts, models, files and sums."""
    with in_workspace(as_json) as workspace:
        from flows.release.checking import described

        found = described(workspace, name)
    if as_json:
        print_json(found)
        return
    card, manifest = found["card"], found["manifest"]
    lines = [f"release {name} of dataset {found['dataset']}: {found['state']}"]
    if "masks" in card:
        lines.append(f"{card['masks']} masks on {card['images']} images, {found['created_at']}")
        lines.append(f"rule: {card['rule']}")
        lines.append(f"mask table version {card['table_version']}, models {_list(card['models'])}")
    if found["superseded_by"]:
        lines.append(f"superseded by {found['superseded_by']}")
    if "error" in card:
        lines.append(f"error: {card['error']}")
    for line in lines:
        console.print(line, markup=False, soft_wrap=True)
    _print_statuses(card)
    if manifest is not None:
        table = Table("file", "rows", "bytes", "SHA-256")
        for one in manifest["files"]:
            rows = number(one["rows"], ",")
            table.add_row(one["name"], rows, number(one["bytes"], ","), one["sha256"][:16])
        console.print(table)
        console.print(f"tree: {manifest['tree_sha256']}", soft_wrap=True)


def _list(names: list[str]) -> str:
    return ", ".join(names) or "none"


@releases.command(epilog=example("dataengine release verify nuclei-1"))
def verify(
    name: NameArgument,
    sample: Annotated[int, typer.Option(min=0, help="Masks to decode in each file.")] = 200,
    as_json: JsonOption = False,
) -> None:
    """Check a release's files against its manifest; exit with 1 if one is bad."""
    with in_workspace(as_json) as workspace:
        from flows.release.checking import verified

        found = verified(workspace, name, sample)
    if as_json:
        print_json(found)
    else:
        for one in found["problems"]:
            console.print(f"{one['file']}: {one['problem']}", markup=False, soft_wrap=True)
        told = "whole" if found["ok"] else f"damaged: {len(found['problems'])} problems"
        console.print(f"release {name} is {told}; {found['files']} files checked", markup=False)
    if not found["ok"]:
        raise typer.Exit(1)


@releases.command(epilog=example("dataengine release diff nuclei-1 nuclei-2 --json"))
def diff(
    first: Annotated[str, typer.Argument(help="The older release.")],
    second: Annotated[str, typer.Argument(help="The newer release.")],
    as_json: JsonOption = False,
) -> None:
    """Compare two releases: masks added, removed and changed, by stage and source; labels."""
    with in_workspace(as_json) as workspace:
        from flows.release.comparing import compared

        found = compared(workspace, first, second)
    if as_json:
        print_json(found)
        return
    images = found["images"]
    told = f"images: {images['both']} in both, {images['added']} added, {images['removed']} removed"
    console.print(told, highlight=False)
    kinds = list(found["masks"])
    table = Table("stage", "source", *kinds)
    for row in found["groups"]:
        table.add_row(row["stage"], row["source"], *(number(row[kind], ",") for kind in kinds))
    if found["groups"]:
        table.add_section()
    table.add_row("all", "", *(number(found["masks"][kind], ",") for kind in kinds))
    console.print(table)
    _print_overlap(found["iou"])
    for one in found["labels"][:10]:
        old, new = (name or "no category" for name in (one["from"], one["to"]))
        console.print(f"label {old} -> {new}: {one['masks']}", markup=False, soft_wrap=True)


@releases.command(
    epilog=example(
        "dataengine release takedown 17 birds/a.jpg --dataset photos --dry-run",
        "dataengine release takedown 17 birds/a.jpg --dataset photos",
    )
)
def takedown(
    images: Annotated[list[str], typer.Argument(help="Ids, or file names in the dataset.")],
    dataset: DatasetOption = "default",
    dry_run: DryOption = False,
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Delete images everywhere, as `erase image` does; replace the releases that hold them by ones
    without them, and mark the models that were trained on them."""
    with in_workspace(as_json) as workspace:
        from flows.release.takedown import plan, take_down

        check_none_unfinished(workspace)
        erasure = erasure_of(workspace, dataset, images)
        planned = plan(workspace, erasure)
        if not as_json:
            _print_takedown(planned)
        done = None
        if not dry_run:
            confirm_forever(yes, as_json)
            row = workspace.catalog.datasets.get(dataset)
            done = take_down(workspace, row, erasure)["erased"]
    if as_json:
        print_json({**planned, "dry_run": dry_run, "erased": done})
    elif done is not None:
        console.print(
            f"taken down ({done['id']}): {done['objects']} objects deleted; restart the page and "
            "the workers, and delete published copies (docs/releases.md)",
            soft_wrap=True,
        )


@app.command(
    rich_help_panel=RELEASES,
    epilog=example("dataengine stats nuclei-1", "dataengine stats latest --out nuclei-1.html"),
)
def stats(
    name: Annotated[str, typer.Argument(help="A release, or `latest`.")] = "latest",
    out: Annotated[
        Path | None, typer.Option(help="Write the report with all figures to this HTML file.")
    ] = None,
    dataset: Annotated[
        str | None, typer.Option(help="Dataset of the latest release; required if several.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Describe a release beside SA-1B: sizes, shapes, scores, where masks come from, what is
    thin."""
    with in_workspace(as_json) as workspace:
        from flows.release.describing import latest_release, release_stats, write_release_report

        chosen = latest_release(workspace, dataset) if name == "latest" else name
        found = release_stats(workspace, chosen)
        if out is not None:
            with for_people():
                write_release_report(workspace, chosen, out)
    if as_json:
        print_json({"release": chosen, **found})
        return
    _print_stats(chosen, found)
    if out is not None:
        console.print(f"the figures are in {out}", markup=False, soft_wrap=True)


def _print_stats(name: str, found: dict[str, Any]) -> None:
    masks, images = found["masks"], found["images"]
    console.print(f"release {name}: {masks:,} masks on {images:,} images", markup=False)
    table = Table("stage", "source", "model", "annotator", "masks", "share")
    for row in found["provenance"][:20]:
        cells = [row[one] or "" for one in ("stage", "source", "model", "annotator")]
        table.add_row(*cells, number(row["masks"], ","), number(row["masks"] / masks, ".1%"))
    console.print(table)
    for title, lines in (("beside SA-1B", found["findings"]), ("thin", found["thin"])):
        console.print(f"{title}:", markup=False)
        for line in lines:
            console.print(f"  {line}", markup=False, soft_wrap=True)


def _print_takedown(planned: dict[str, Any]) -> None:
    lines = [f"{planned['images']} images of {planned['name']}, {planned['masks']} masks"]
    for name in planned["releases"]:
        new = planned["successors"].get(name)
        after = f"is replaced by {new}" if new else "is withdrawn: it has no files to replace it by"
        lines.append(f"release {name} {after}")
    if planned["models"]:
        lines.append(f"models trained on them are marked: {', '.join(planned['models'])}")
    for line in lines:
        console.print(line, markup=False, soft_wrap=True)


def _print_overlap(iou: dict[str, Any]) -> None:
    """Print the histogram of changed masks."""
    if iou["mean"] is None:
        return
    console.print(f"changed masks: mean IoU with the old ones {iou['mean']:.3f}", highlight=False)
    most = max(iou["counts"])
    for low, high, count in zip(iou["edges"], iou["edges"][1:], iou["counts"], strict=False):
        bar = "#" * round(40 * count / most)
        console.print(f"  {low:4.2f} - {high:4.2f}  {count:9,}  {bar}", highlight=False)


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
