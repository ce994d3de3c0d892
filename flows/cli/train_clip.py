"""`dataengine labels train`."""

from __future__ import annotations

from typing import Annotated

import typer

from flows.cli.commands import (
    RESUMES,
    DatasetOption,
    JsonOption,
    example,
    in_workspace,
    print_json,
)
from flows.encoders.names import PUBLISHED_CLIP
from flows.workspace.console import console

app = typer.Typer(rich_markup_mode="markdown")


@app.command(
    epilog=example(
        f"dataengine labels train --dataset photos --encoder {PUBLISHED_CLIP}",
        "dataengine labels train --dataset photos --encoder clip:my-clip --towers --steps 500",
    )
)
def train(
    dataset: DatasetOption = "default",
    encoder: Annotated[str, typer.Option(help="clip:NAME, as in docs/labels.md.")] = PUBLISHED_CLIP,
    towers: Annotated[
        bool, typer.Option("--towers", help="Train the towers: with a GPU, or a small CLIP.")
    ] = False,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps of the optimiser.")] = None,
    batch: Annotated[int | None, typer.Option(min=2, help="Masks in a step.")] = None,
    learning_rate: Annotated[float | None, typer.Option(min=0.0, help="Its peak.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Train a CLIP on the masks that people labelled, for `labels suggest --by trained` and `find`.

    By default a small adapter of the stored vectors is trained, in minutes without a GPU. It comes
    into use unless it names masks of held-out images significantly worse.
    """
    with in_workspace(as_json, orchestrated=True, after_stop=RESUMES) as workspace:
        from flows.semantics.clip_training import train_clip

        workspace.catalog.datasets.get(dataset)
        root = str(workspace.settings.root)
        result = train_clip(root, dataset, encoder, towers, steps, batch, learning_rate)
    if as_json:
        print_json(result)
        return
    data, scores = result["data"], result["scores"]
    console.print(
        f"{result['version']}: {data['labels']:,} labelled masks of {data['categories']} "
        f"categories on {data['images']:,} images, {result['seconds']:.0f} s",
        markup=False,
        soft_wrap=True,
    )
    if scores:
        where = "held-out images" if scores["held_out"] else "images that are kept back"
        console.print(
            f"right by texts: {scores['accuracy_before']:.1%} before, {scores['accuracy']:.1%} "
            f"after, on {scores['masks']:,} masks of {scores['images']:,} {where}",
            soft_wrap=True,
        )
    state = "in use" if result["in_use"] else "not in use"
    console.print(f"{state}: {result['reason']}", markup=False, soft_wrap=True)
