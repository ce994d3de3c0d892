"""`dataengine gold`: images whose true masks are known, and the scores of people's answers."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from flows.cli.commands import (
    ChoiceOption,
    DatasetOption,
    JsonOption,
    example,
    in_workspace,
    print_json,
)
from flows.workspace.console import console, errors

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Gold tasks: images whose true masks are known, mixed unseen into annotators' tasks.",
    epilog=example(
        "dataengine gold add --dataset photos --from-truth 30",
        "dataengine gold list --dataset photos",
        "dataengine gold scores --json",
    ),
)


@app.command(
    epilog=example(
        "dataengine gold add --dataset photos --from-truth 30",
        "dataengine gold add --dataset photos --images a.jpg --images b.jpg",
    )
)
def add(
    dataset: DatasetOption = "default",
    images: Annotated[
        list[str] | None,
        typer.Option("--images", help="File name or id of an image with known masks; repeatable."),
    ] = None,
    from_truth: Annotated[
        int | None,
        typer.Option(min=1, help="Take so many random images with ingested true masks."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of --from-truth.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Make images gold images.

    Their true masks are the ingested ones, or those that reviewers accepted or fixed. Annotators
    get gold tasks once `gold_first` or `gold_share` is set in dataengine.toml, under [quality]
    (docs/quality.md).
    """
    if bool(images) == (from_truth is not None):
        raise typer.BadParameter("give either --images or --from-truth", param_hint="--images")
    with in_workspace(as_json) as workspace:
        from flows.review.gold import add_from_truth, add_images
        from flows.workspace.gold import advice

        if from_truth is None:
            found = add_images(workspace, dataset, images or [])
        else:
            found = add_from_truth(workspace, dataset, from_truth, seed)
        row = workspace.catalog.datasets.get(dataset)
        total = len(workspace.catalog.gold.image_ids(row.id))
        rules, told = workspace.settings.quality, advice(workspace, dataset)
    if as_json:
        print_json({"dataset": dataset, "images": found, "gold_images": total})
        return
    console.print(f"{escape(dataset)} has {total} gold images")
    if not (rules.gold_first or rules.gold_share):
        told = ["gold tasks are off: set gold_first and gold_share in dataengine.toml, [quality]"]
    for line in told:
        errors.print(escape(line), soft_wrap=True)


@app.command(epilog=example("dataengine gold remove --dataset photos --images a.jpg"))
def remove(
    images: Annotated[
        list[str], typer.Option("--images", help="File name or id of a gold image; repeatable.")
    ],
    dataset: DatasetOption = "default",
    as_json: JsonOption = False,
) -> None:
    """Make gold images ordinary ones, for example because their true masks are wrong.

    The answers to them count no longer in annotators' scores; they do again after `gold add`.
    """
    with in_workspace(as_json) as workspace:
        from flows.review.gold import remove_images

        found = remove_images(workspace, dataset, images)
        row = workspace.catalog.datasets.get(dataset)
        total = len(workspace.catalog.gold.image_ids(row.id))
    if as_json:
        print_json({"dataset": dataset, "images": found, "gold_images": total})
        return
    console.print(f"{len(found)} removed; {escape(dataset)} has {total} gold images")


@app.command("list", epilog=example("dataengine gold list --dataset photos --json"))
def list_images(dataset: DatasetOption = "default", as_json: JsonOption = False) -> None:
    """List a dataset's gold images, with the answers to each.

    An image on which everybody scores low probably has wrong or incomplete true masks.
    """
    with in_workspace(as_json) as workspace:
        from flows.review.gold import gold_images
        from flows.workspace.gold import advice

        rows, told = gold_images(workspace, dataset), advice(workspace, dataset)
    if as_json:
        print_json({"dataset": dataset, "images": rows, "advice": told})
        return
    table = Table("image", "file", "true masks", "answers", "score", header_style="bold")
    for row in rows:
        share = "–" if row["score"] is None else f"{row['score']:.3f}"
        numbers = (str(row["truths"]), str(row["answers"]), share)
        table.add_row(str(row["image"]), escape(row["file_name"]), *numbers)
    console.print(table)
    for line in told:
        errors.print(escape(line), soft_wrap=True)


@app.command(epilog=example("dataengine gold scores", "dataengine gold scores --json"))
def scores(dataset: ChoiceOption = None, as_json: JsonOption = False) -> None:
    """Show annotators' scores in gold tasks: the share of objects found, with an interval.

    `below`: the whole interval lies below `gold_threshold`; `above`: at it or above. `--json` has
    each answer, with the score after it.
    """
    with in_workspace(as_json) as workspace:
        from flows.review.gold import gold_scores
        from flows.workspace.gold import advice

        rows, told = gold_scores(workspace, dataset), advice(workspace, dataset)
        threshold = workspace.settings.quality.gold_threshold
    if as_json:
        print_json({"threshold": threshold, "annotators": rows, "advice": told})
        return
    names = ("annotator", "answers", "objects found", "against", "IoU", "outline F", "extra masks")
    table = Table(*names, header_style="bold")
    for row in rows:
        share = f"{row['score']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"
        against = f"{row['judgement']} {threshold:g}"
        if row["judgement"] == "undecided":
            against = f"undecided at {threshold:g}"
        means = ("–" if row[n] is None else f"{row[n]:.2f}" for n in ("iou", "boundary_f"))
        numbers = (str(row["answers"]), share, against, *means, str(row["extra"]))
        table.add_row(escape(row["annotator"]), *numbers)
    console.print(table)
    for line in told:
        errors.print(escape(line), soft_wrap=True)
