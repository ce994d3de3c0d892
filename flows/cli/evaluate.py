"""`dataengine evaluate`: scores of a model on annotated images, as a table, JSON and charts.

A result is what `flows.training.scores.evaluate_sets` returns.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from flows.cli.commands import (
    QUALITY,
    CrowdsOption,
    FrameOption,
    JsonOption,
    example,
    in_workspace,
    print_json,
)
from flows.workspace.console import console
from flows.workspace.permissions import for_people
from storage.outputs import OutputFolder

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from flows.training.scores import EvaluationSet

FILES = ("evaluation.json", "miou.png", "predicted_iou.png")
"""Files that `write` makes."""

_ROWS = (
    ("mIoU, 1 click", "miou_1_click"),
    ("mIoU, 2 clicks", "miou_2_clicks"),
    ("mIoU, 3 clicks", "miou_3_clicks"),
    ("mIoU, 5 clicks", "miou_5_clicks"),
    ("mIoU, 9 clicks", "miou_9_clicks"),
    ("mIoU, 1 click, best of 3", "miou_1_click_oracle"),
    ("mIoU, box", "miou_box"),
    ("mIoU of the box itself", "miou_box_fill"),
    ("boundary F, 1 click", "boundary_f_1_click"),
    ("boundary F, box", "boundary_f_box"),
    ("clicks to IoU .85", "noc_85"),
    ("  never reach it", "noc_85_missed"),
    ("clicks to IoU .90", "noc_90"),
    ("  never reach it", "noc_90_missed"),
    ("predicted IoU, correlation", "predicted_iou_correlation"),
    ("predicted IoU, calibration error", "predicted_iou_error"),
    ("AR@10 of automatic masks", "ar_10"),
    ("AR@100", "ar_100"),
    ("AR@1000", "ar_1000"),
    ("AP", "ap"),
    ("AP at IoU .50", "ap_50"),
    ("AP at IoU .75", "ap_75"),
    ("automatic masks per image", "masks_per_image"),
)
_COLORS = ("#2563eb", "#d97706", "#059669", "#7c3aed", "#dc2626", "#0891b2")
_CLICKS = {1: "miou_1_click", **{n: f"miou_{n}_clicks" for n in (2, 3, 5, 9)}}


app = typer.Typer(rich_markup_mode="markdown")


@app.command(
    rich_help_panel=QUALITY,
    epilog=example(
        "dataengine evaluate --images val/images --coco val/instances.json --json",
        "dataengine evaluate --set cells=cells/images,cells/instances.json "
        "--set photos=photos/images,photos/instances.json --output scores/",
    ),
)
@for_people()
def evaluate(
    images: Annotated[Path | None, typer.Option(help="Folder of images.")] = None,
    coco: Annotated[Path | None, typer.Option(help="Their COCO instance annotations.")] = None,
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=IMAGES,COCO", help="A set; may be repeated."),
    ] = None,
    model: Annotated[str | None, typer.Option(help="Model version; default: current.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Maximum images per set.")] = None,
    crowds: CrowdsOption = "auto",
    frame: FrameOption = "auto",
    output: Annotated[
        Path | None,
        typer.Option(file_okay=False, help="Folder to write evaluation.json and charts to."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Score a model on annotated images: clicks, boxes, outlines, predicted IoU, automatic masks;
    each mean with its 95 % interval (docs/evaluation.md)."""
    from storage.formats.coco_annotations import Conventions, Crowds
    from storage.formats.frames import Frame

    conventions = Conventions(Crowds(crowds), Frame(frame))
    chosen = [
        replace(item, conventions=conventions) for item in chosen_sets(images, coco, sets or [])
    ]
    if output is not None:
        OutputFolder(output).refuse_others(FILES)  # before the long work
    with in_workspace(as_json) as workspace:
        from flows.stages.fully_automatic import mask_generator
        from flows.training.scores import evaluate_sets

        version = model or workspace.current_model().version
        generator = mask_generator(workspace, version)
        result = evaluate_sets(
            workspace.segmenter(version),
            generator,
            chosen,
            limit=limit,
            max_pixels=workspace.settings.max_pixels,
        )
    if output is not None:
        write(result, output)
    if as_json:
        print_json(result)
    else:
        print_scores(result)


def chosen_sets(
    images: Path | None, coco: Path | None, named: Sequence[str]
) -> list[EvaluationSet]:
    """The sets given by the options: `--images` with `--coco`, and each `NAME=IMAGES,COCO`.

    Raises:
        BadParameter: no set, one option without the other, two sets of the same name, or a folder
            or file that does not exist.
    """
    from flows.training.scores import EvaluationSet

    if (images is None) != (coco is None):
        raise typer.BadParameter("--images and --coco go together")
    found = [_named(text) for text in named]
    if images is not None and coco is not None:
        found.insert(0, EvaluationSet(images.resolve().name, images, coco))
    if not found:
        raise typer.BadParameter("nothing to score: give --images and --coco, or --set")
    for item in found:
        if not item.images.is_dir():
            raise typer.BadParameter(f"set {item.name}: {item.images} is not a folder")
        if not item.coco.is_file():
            raise typer.BadParameter(f"set {item.name}: {item.coco} is not a file")
    names = [item.name for item in found]
    if len(set(names)) < len(names):
        raise typer.BadParameter(f"each set needs a name of its own, got {', '.join(names)}")
    return found


def _named(text: str) -> EvaluationSet:
    from flows.training.scores import EvaluationSet

    name, _, paths = text.partition("=")
    images, _, coco = paths.rpartition(",")
    if not (name.strip() and images and coco):
        raise typer.BadParameter(f"expected NAME=IMAGES,COCO, got {text!r}", param_hint="--set")
    return EvaluationSet(name.strip(), Path(images).expanduser(), Path(coco).expanduser())


def print_scores(result: dict[str, Any]) -> None:
    """Print one row per figure and one column per set, each mean with its interval; then what was
    left out of the sets."""
    from flows.cli.tables import print_left_out

    table = Table(title=f"scores of {escape(result['model'])}", header_style="bold")
    table.add_column("", no_wrap=True)
    columns = list(_sets(result).items())
    for name, scores in columns:
        head = f"{escape(name)}\n{scores['images']} images, {scores['masks']} masks"
        table.add_column(head, justify="right")
    if len(columns) > 1:
        table.add_column(f"mean of {len(columns)} sets", justify="right")
        columns.append(("mean", result["mean"]))
    for label, key in _ROWS:
        table.add_row(label, *(_cell(scores, key) for _, scores in columns))
    console.print(table)
    confidence, resamples = (result["interval"][key] for key in ("confidence", "resamples"))
    console.print(
        f"Intervals: {confidence:.0%}, {resamples} draws of whole images. A mask that never "
        f"reaches an IoU counts as {columns[0][1]['noc_cap']} clicks."
    )
    skipped = sum(scores.get("skipped", 0) for _, scores in columns)
    if skipped:
        console.print(f"{skipped} images are not scored: unreadable, or without annotations")
    for _, scores in columns:
        print_left_out(scores.get("passed_over", []), scores.get("problems", []))


def _cell(scores: dict[str, Any], key: str) -> str:
    value, ends = scores[key], scores.get(f"{key}_ci")
    return f"{value:.3f}" if ends is None else f"{value:.3f} [{ends[0]:.3f}, {ends[1]:.3f}]"


def _sets(result: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The scores of each set by name."""
    found: dict[str, dict[str, Any]] = result.get("sets") or {result["set"]: result}
    return found


def write(result: dict[str, Any], folder: Path) -> None:
    """Write FILES into a folder, which is created if missing: the result, mean IoU over clicks with
    intervals, and true over predicted IoU.

    Raises:
        OutputExistsError: the folder has a file of such a name that this command did not write.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    outputs = OutputFolder(folder)
    outputs.refuse_others(FILES)
    outputs.write(FILES[0], json.dumps(result, indent=2))
    for name, draw in zip(FILES[1:], (_draw_clicks, _draw_reliability), strict=True):
        figure = Figure(figsize=(6, 4.5), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        axes.grid(color="#e5e7eb")
        axes.spines[["right", "top"]].set_visible(False)
        for (label, scores), color in zip(_sets(result).items(), cycle(_COLORS), strict=False):
            draw(axes, scores, color=color, label=f" {label}")  # "_..." would not be shown
        for text in axes.legend(frameon=False).get_texts():
            text.set_parse_math(False)
        axes.set_title(result["model"], parse_math=False)
        with outputs.writing(name) as fresh:
            figure.savefig(fresh, format="png", dpi=150)


def _draw_clicks(axes: Axes, scores: dict[str, Any], *, color: str, label: str) -> None:
    values = [scores[key] for key in _CLICKS.values()]
    axes.plot(list(_CLICKS), values, marker="o", color=color, label=label)
    ends = [scores[f"{key}_ci"] for key in _CLICKS.values()]
    if None not in ends:
        low, high = zip(*ends, strict=True)
        axes.fill_between(list(_CLICKS), low, high, color=color, alpha=0.15, linewidth=0)
    axes.set_xticks(list(_CLICKS))
    axes.set_xlabel("clicks")
    axes.set_ylabel("mean IoU and its 95 % interval")


def _draw_reliability(axes: Axes, scores: dict[str, Any], *, color: str, label: str) -> None:
    """One dot per bin with masks, larger for more masks; on the diagonal predictions are exact."""
    bins = [item for item in scores["predicted_iou_bins"] if item["masks"]]
    x, y = ([item[key] for item in bins] for key in ("predicted", "iou"))
    sizes = [10 + 150 * item["masks"] / scores["masks"] for item in bins]
    error = scores["predicted_iou_error"]
    axes.plot([0, 1], [0, 1], color="#9ca3af", linewidth=1, linestyle="--")
    axes.plot(x, y, color=color, linewidth=1)
    axes.scatter(x, y, sizes, color=color, label=f"{label}, calibration error {error:.3f}")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.set_xlabel("predicted IoU of the mask for 1 click")
    axes.set_ylabel("true IoU")
