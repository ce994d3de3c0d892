"""`dataengine caption`: masks and images described in words."""

from __future__ import annotations

from pathlib import Path
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
from flows.workspace.console import console

app = typer.Typer(
    rich_markup_mode="markdown",
    epilog=example(
        "DATAENGINE_LLM_URL=http://127.0.0.1:11434/v1 DATAENGINE_LLM_MODEL=llava "
        "dataengine caption --dataset photos",
        "dataengine caption --dataset photos --images --model "
        "coca:coca_ViT-B-32/mscoco_finetuned_laion2b_s13b_b90k",
    ),
)

ModelOption = Annotated[
    str, typer.Option(help="llm, the language model of the settings; or coca:NAME.")
]


@app.callback(invoke_without_command=True)
def caption(
    context: typer.Context,
    dataset: DatasetOption = "default",
    images: Annotated[
        bool,
        typer.Option("--images/--masks", help="Describe images; by default masks."),
    ] = False,
    model: ModelOption = "llm",
    limit: Annotated[int | None, typer.Option(min=1, help="The most images.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Describe a dataset's masks or images by a language model that sees, or by a CoCa.

    Only what has no caption of the model is described. `dataengine find --in-captions` searches the
    captions, `dataengine labels propose --in-captions` finds names in them (docs/words.md). Stopped
    in any way, it resumes when the same command is repeated.
    """
    if context.invoked_subcommand is not None:
        return
    with in_workspace(as_json, orchestrated=True, after_stop=RESUMES) as workspace:
        from flows.semantics.captioning import caption_dataset

        workspace.catalog.datasets.get(dataset)
        root, what = str(workspace.settings.root), "images" if images else "masks"
        result = caption_dataset(root, dataset, what, model, limit)
    if as_json:
        print_json(result)
        return
    told = f"{dataset}: {result['captions']:,} captions by {result['model']}"
    console.print(f"{told} on {result['images']:,} images", markup=False, soft_wrap=True)


@app.command(
    epilog=example(
        "dataengine caption train pairs.csv --out my-coca",
        "dataengine caption train pairs.csv --out my-coca --steps 2000 --base "
        "coca:coca_ViT-B-32/laion2b_s13b_b90k",
    )
)
def train(
    pairs: Annotated[Path, typer.Argument(help="CSV without a header: image file, caption.")],
    out: Annotated[Path, typer.Option(help="New folder for the model.")],
    base: Annotated[
        str | None, typer.Option(help="coca:NAME to start from; by default a small new one.")
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Steps of the optimiser.")] = 1500,
    batch: Annotated[int, typer.Option(min=2, help="Pairs in a step.")] = 32,
    learning_rate: Annotated[float | None, typer.Option(min=0.0, help="Its peak.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Train a CoCa on your own pairs, for `dataengine caption --model coca:FOLDER`.

    The contrastive and the captioning loss are trained together, so that the model also serves as
    `clip:FOLDER`. Needs the extra `clip`.
    """
    with in_workspace(as_json) as workspace:
        from flows.semantics.coca_training import train_coca

        result = train_coca(
            pairs,
            out,
            base=base,
            steps=steps,
            batch=batch,
            learning_rate=learning_rate,
            max_pixels=workspace.settings.max_pixels,
            device=workspace.device(),
        )
    if as_json:
        print_json(result)
        return
    told = f"{result['model']}: {result['pairs']:,} pairs, {result['seconds']:,.0f} s"
    console.print(told, markup=False, soft_wrap=True)
    for path, why in result["skipped"].items():
        console.print(f"skipped {path}: {why}", markup=False, soft_wrap=True)
