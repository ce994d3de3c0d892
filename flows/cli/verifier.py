"""`dataengine verifier ...`: a small model that learns from people's verdicts, and judges the masks
that it is sure of."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.table import Table

from engine.core.records import Stage
from flows.cli.commands import (
    RESUMES,
    DatasetOption,
    JsonOption,
    example,
    in_workspace,
    number,
    print_json,
)
from flows.workspace.console import console

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Train a model on people's verdicts, and let it judge the masks that it is sure of.",
    epilog=example(
        "dataengine verifier train --dataset photos",
        "dataengine verifier route --dataset photos --precision 0.95",
    ),
)


@app.command(epilog=example("dataengine verifier train --dataset photos"))
def train(dataset: DatasetOption = "default", as_json: JsonOption = False) -> None:
    """Train a verifier on people's verdicts on automatic masks.

    It becomes current only if it is significantly better than the current one, or than the masks'
    scores alone (docs/quality.md).
    """
    with in_workspace(as_json, orchestrated=True) as workspace:
        from flows.review.verifier_training import train_verifier

        workspace.catalog.datasets.get(dataset)
        result = train_verifier(str(workspace.settings.root), dataset)
    if as_json:
        print_json(result)
    else:
        print_training(result)


def print_training(result: dict[str, Any]) -> None:
    """Print the scores of a trained verifier and of what it was compared with."""
    title = f"{result['verdicts']} verdicts on {result['images']} images"
    table = Table("", title=title, header_style="bold")
    for name in ("log loss", "AUC", "calibration error"):
        table.add_column(name, justify="right")
    for name, row in result["scores"].items():
        shown = result["version"] if name == "cross_validated" else name
        table.add_row(shown, *(number(value, ".3f") for value in row.values()))
    console.print(table)
    became = "is current" if result["promoted"] else "stays a candidate"
    text = f"{result['version']} {became}: {result['reason']}"
    console.print(text, markup=False, soft_wrap=True)


@app.command(
    epilog=example(
        "dataengine verifier route --dataset photos --precision 0.95 --dry-run",
        "dataengine verifier route --dataset photos --precision 0.95",
    )
)
def route(
    precision: Annotated[
        float, typer.Option(help="Share of the verifier's verdicts that is to be right.")
    ],
    dataset: DatasetOption = "default",
    stage: Annotated[
        Stage, typer.Option(help="Stage whose automatic masks are judged.")
    ] = Stage.FULLY_AUTOMATIC,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Change nothing.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Accept or reject the masks that the verifier is sure of; send the rest to the review queue.

    Masks that people have judged or will judge stay theirs (docs/quality.md). Stopped in any way,
    it resumes when the same command is repeated.
    """
    from flows.review.route_options import RouteOptions

    RouteOptions(precision=precision, stage=stage)  # raises before Prefect starts
    with in_workspace(as_json, orchestrated=True, after_stop=RESUMES) as workspace:
        from flows.review.verifier_routing import route_masks

        workspace.catalog.datasets.get(dataset)
        root = str(workspace.settings.root)
        result = route_masks(root, dataset, precision, str(stage), dry_run)
    if as_json:
        print_json({**result, "dry_run": dry_run})
    else:
        print_route(result, dry_run=dry_run)


def print_route(result: dict[str, Any], *, dry_run: bool) -> None:
    """Print where the masks went, or would go."""
    table = Table(title=f"{result['dataset']} by {result['verifier']}", header_style="bold")
    for name in ("", "masks", "probability", "right among judged masks", "at least", "judged"):
        table.add_column(name, justify="right" if name else "left")
    rows = (("accepted", "passed", "accept", "from"), ("rejected", "dropped", "reject", "up to"))
    for name, count, side, word in rows:
        found = result[side]
        limit = "–" if found["threshold"] is None else f"{word} {found['threshold']:.3f}"
        shares = (f"{found['share']:.1%}", f"{found['low']:.1%}", str(found["judged"]))
        table.add_row(name, f"{result[count]:,}", limit, *shares)
    table.add_row("for people", f"{result['asked']:,}", *["–"] * 4)
    console.print(table)
    if result["saved"] is not None:
        told = "would need" if dry_run else "need"
        console.print(f"{result['saved']:.0%} of the masks {told} no person", markup=False)
    else:
        console.print("every automatic mask is judged or waits for people already")
