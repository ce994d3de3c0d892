"""`dataengine detector ...`: stage 2's detector."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from flows.cli.commands import DatasetOption, JsonOption, example, in_workspace, print_json
from flows.workspace.console import console

app = typer.Typer(rich_markup_mode="markdown", no_args_is_help=True)


@app.callback(epilog=example("dataengine detector train --dataset photos"))
def detector() -> None:
    """Train the detector whose masks pre-fill images in stage 2."""


@app.command(
    epilog=example(
        "dataengine detector train --dataset photos",
        "dataengine detector train --dataset photos --name photos-detector-2 --json",
    )
)
def train(
    dataset: DatasetOption = "default",
    name: Annotated[
        str | None, typer.Option(help="Name of the version; by default with the time.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Train a detector on the current model's embeddings and people's masks, in minutes.

    It is promoted if its masks on held-out images are significantly better than those of the
    current detector. It pre-fills images with `[prefill] source = "detector"` or `"union"`, with
    which every retrain trains one too.
    """
    with in_workspace(as_json) as workspace:
        from flows.training.detector import run_detector_training

        row = workspace.catalog.datasets.get(dataset)
        version = name or f"{dataset}-detector-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
        result = run_detector_training(workspace, row, version)
    if as_json:
        print_json(result.to_json())
        return
    state = "promoted" if result.promoted else "not promoted"
    console.print(f"{result.version}: {state}, {result.reason}", markup=False, soft_wrap=True)
    names = ("ar_100", "ap", "precision", "recall")
    figures = ", ".join(f"{name} {result.scores[name]:.3f}" for name in names)
    console.print(f"on {result.scores['images']} held-out images: {figures}", markup=False)
