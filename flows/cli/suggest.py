"""`dataengine labels vectors|suggest|status|evaluate|rollback` and `dataengine find`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from flows.cli.commands import (
    NAMES,
    RESUMES,
    DatasetOption,
    JsonOption,
    example,
    in_workspace,
    number,
    print_json,
)
from flows.cli.labels import app
from flows.semantics.sources import LearnFrom
from flows.workspace.console import console

finder = typer.Typer()

EncoderOption = Annotated[
    str, typer.Option(help="lite; imagenet; or clip:NAME, as in docs/labels.md.")
]


@app.command(
    epilog=example(
        "dataengine labels vectors --dataset photos",
        "dataengine labels vectors --dataset photos --encoder imagenet",
    )
)
def vectors(
    dataset: DatasetOption = "default", encoder: EncoderOption = "lite", as_json: JsonOption = False
) -> None:
    """Make the vectors that a dataset's masks lack, for suggestions and search.

    Stopped in any way, it resumes when the same command is repeated.
    """
    with in_workspace(as_json, orchestrated=True, after_stop=RESUMES) as workspace:
        from flows.semantics.vectors import make_vectors

        workspace.catalog.datasets.get(dataset)
        result = make_vectors(str(workspace.settings.root), dataset, encoder)
    if as_json:
        print_json(result)
        return
    text = f"{dataset}: {result['masks']:,} vectors of {result['encoder']}"
    console.print(f"{text} on {result['images']:,} images", markup=False)


@app.command(
    epilog=example(
        "dataengine labels suggest --dataset photos",
        "dataengine labels suggest --dataset photos --precision 0.98 --confirm",
        "dataengine labels suggest --encoder clip:ViT-B-32/laion2b_s34b_b79k --by texts",
    )
)
def suggest(
    dataset: DatasetOption = "default",
    encoder: EncoderOption = "lite",
    precision: Annotated[
        float,
        typer.Option(min=0.5, max=0.999, help="Share of confident suggestions to be right."),
    ] = 0.95,
    confirm: Annotated[
        bool, typer.Option("--confirm", help="Label the masks whose suggestion is confident.")
    ] = False,
    by: Annotated[
        LearnFrom,
        typer.Option(
            help="What to learn from: labels; texts, the names and descriptions, by a CLIP; best, "
            "whichever fits people's labels better; or trained, texts by the CLIP that `labels "
            "train` made."
        ),
    ] = LearnFrom.LABELS,
    as_json: JsonOption = False,
) -> None:
    """Learn from people's labels or from texts, and suggest categories for the other masks.

    Labels that --confirm writes have the source `model`; people's labels replace them.
    """
    with in_workspace(as_json, orchestrated=True, after_stop=RESUMES) as workspace:
        from flows.semantics.suggesting import suggest_labels

        workspace.catalog.datasets.get(dataset)
        root = str(workspace.settings.root)
        result = suggest_labels(root, dataset, encoder, precision, confirm, str(by))
    if as_json:
        print_json(result)
    else:
        print_suggestions(result)


def print_suggestions(result: dict[str, Any]) -> None:
    """Print what was learned, and how many suggestions are confident, by category."""
    learned = (
        f"{result['suggester']} ({result['reason']}), by {result['method']}: {result['labels']:,} "
        f"labels of {result['categories']} categories on {result['images']:,} images"
    )
    if result["accuracy"] is not None:
        learned += f"; right on {result['accuracy']:.1%} of labelled masks that it did not see"
    console.print(learned, markup=False, soft_wrap=True)
    table = Table(header_style="bold", title=f"{result['dataset']}: confident suggestions")
    table.add_column("category")
    table.add_column("masks", justify="right")
    for name, count in sorted(result["confident_by_category"].items(), key=lambda row: -row[1]):
        table.add_row(name, f"{count:,}")
    console.print(table)
    if result["least_probability"] is None:
        told = (
            "no suggestion is confident: the labels do not show a precision of "
            f"{result['precision']}; label more masks"
        )
    else:
        told = f"{result['confident']:,} of {result['masks']:,} masks need no person"
        told += f"; {result['confirmed']:,} labels written" if result["confirmed"] else ""
    console.print(told, markup=False, soft_wrap=True)


@app.command(
    epilog=example(
        "DATAENGINE_LLM_URL=http://127.0.0.1:11434/v1 DATAENGINE_LLM_MODEL=llama3.2 "
        "dataengine labels describe --dataset photos",
        'dataengine labels describe --dataset photos --domain "photographs of a sorting belt"',
    )
)
def describe(
    dataset: DatasetOption = "default",
    domain: Annotated[str, typer.Option(help="What the images show, for the questions.")] = "",
    renew: Annotated[
        bool, typer.Option("--renew", help="Ask about all categories again; edits are lost.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Have a language model describe the categories, for suggestions by texts (CuPL).

    The sentences are written to descriptions/DATASET.yaml in the workspace: read and edit them.
    """
    with in_workspace(as_json) as workspace:
        from flows.semantics.descriptions import describe_categories

        row = workspace.catalog.datasets.get(dataset)
        path, asked = describe_categories(workspace, row, domain=domain, renew=renew)
    if as_json:
        print_json({"dataset": dataset, "file": str(path), "described": asked})
    else:
        console.print(f"{asked} categories described: {path}", markup=False, soft_wrap=True)


@app.command(
    epilog=example(
        "dataengine labels propose --dataset photos",
        "dataengine labels propose --dataset photos --out classes.yaml",
        "dataengine labels propose --dataset photos --in-captions",
    )
)
def propose(
    dataset: DatasetOption = "default",
    images: Annotated[int, typer.Option(min=1, max=10_000, help="Images to look at.")] = 50,
    in_captions: Annotated[
        bool,
        typer.Option("--in-captions", help="Names in the captions of `dataengine caption`."),
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="New file for `labels set`: delete what does not fit.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Propose categories for photographs: ImageNet's classes of the masks of some images, or what
    captions name.

    ImageNet's needs the extra `labels`; only classes that it has are found.
    """
    if out is not None and out.exists():
        raise typer.BadParameter(f"{out} exists; name a new file", param_hint="--out")
    with in_workspace(as_json) as workspace:
        from flows.semantics.proposing import ProposedName, propose_names

        row = workspace.catalog.datasets.get(dataset)
        if in_captions:
            from flows.semantics.captioning import names_in_captions

            named, masks = names_in_captions(workspace, row)
            found = [ProposedName(*one) for one in named]
        else:
            found, masks = propose_names(workspace, row, images=images)
    if out is not None:
        import yaml

        with out.open("x", encoding="utf-8") as file:
            yaml.safe_dump([one.name for one in found], file, allow_unicode=True)
    if as_json:
        rows = [{"name": one.name, "masks": one.masks} for one in found]
        print_json({"dataset": dataset, "masks": masks, "names": rows})
        return
    what = "captions" if in_captions else "masks"
    table = Table("name", title=f"{dataset}: {masks:,} {what} looked at", header_style="bold")
    table.add_column("masks", justify="right")
    for one in found:
        table.add_row(one.name, f"{one.masks:,}")
    console.print(table)


@app.command(epilog=example("dataengine labels status --dataset photos"))
def status(dataset: DatasetOption = "default", as_json: JsonOption = False) -> None:
    """Show how many masks have labels and vectors, and the suggester in use."""
    with in_workspace(as_json) as workspace:
        from flows.semantics.evaluate import label_status

        result = label_status(workspace, workspace.catalog.datasets.get(dataset))
    if as_json:
        print_json(result)
        return
    table = Table(show_header=False, title=result["dataset"])
    table.add_column("")
    table.add_column("", justify="right")
    table.add_row("masks", f"{result['masks']:,}")
    for source, count in result["labels"].items():
        table.add_row(f"labels by {source}", f"{count:,}")
    table.add_row("labelled as none of these", f"{result['none_of_these']:,}")
    for version, count in result["vectors"].items():
        table.add_row(f"vectors of {version}", f"{count:,}")
    if (clip := result["trained_clip"]) is not None:
        table.add_row("trained CLIP", f"{clip['version']} of {clip['encoder']}")
        table.add_row("right, by texts", number(clip.get("accuracy"), ".1%"))
    found = result["suggester"]
    if found is not None:
        table.add_row("suggester", found["version"])
        table.add_row("right, by cross-validation", number(found["accuracy"], ".1%"))
        table.add_row("confident, by cross-validation", number(found["confident_share"], ".1%"))
        table.add_row("new labels since", "yes" if found["new_labels"] else "no")
    console.print(table)


@app.command(epilog=example("dataengine labels evaluate --dataset photos"))
def evaluate(dataset: DatasetOption = "default", as_json: JsonOption = False) -> None:
    """Score the suggester in use on the labelled masks of held-out images, by category."""
    with in_workspace(as_json) as workspace:
        from flows.semantics.evaluate import evaluate_suggester

        result = evaluate_suggester(workspace, workspace.catalog.datasets.get(dataset))
    if as_json:
        print_json(result)
        return
    title = f"{result['suggester']}: {result['masks']:,} masks of {result['images']:,} images"
    table = Table("category", title=title, header_style="bold")
    for name in ("masks", "precision", "recall"):
        table.add_column(name, justify="right")
    for name, row in result["categories"].items():
        shares = (number(row[key], ".1%") for key in ("precision", "recall"))
        table.add_row(name, f"{row['masks']:,}", *shares)
    console.print(table)
    told = f"{result['accuracy']:.1%} right; {result['confident_share']:.1%} confident, of these "
    console.print(f"{told}{number(result['confident_precision'], '.1%')} right", markup=False)


@app.command(
    epilog=example(
        "dataengine labels rollback --dataset photos",
        "dataengine labels rollback --dataset photos --trained",
    )
)
def rollback(
    dataset: DatasetOption = "default",
    trained: Annotated[
        bool, typer.Option("--trained", help="The trained CLIP instead of the suggester.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Bring the suggester before the present one into use again. Labels stay as they are."""
    with in_workspace(as_json) as workspace:
        row = workspace.catalog.datasets.get(dataset)
        if trained:
            from flows.encoders.trained import roll_back_clip

            result = roll_back_clip(workspace, row)
        else:
            from flows.semantics.suggesting import roll_back_suggester

            result = roll_back_suggester(workspace, row)
    if as_json:
        print_json({"dataset": dataset, "trained_clip" if trained else "suggester": result})
    else:
        console.print(f"{dataset}: {result or 'the CLIP as published'} is in use", markup=False)


@finder.command(
    rich_help_panel=NAMES,
    epilog=example(
        'dataengine find "red car" --dataset photos --encoder clip:ViT-B-32/laion2b_s34b_b79k',
        "dataengine find cup --dataset photos --sheet cups.png",
        "dataengine find --like RUN/IMAGE/NAME --dataset photos",
        'dataengine find "red cup" --dataset photos --in-captions',
    ),
)
def find(
    text: Annotated[
        str | None, typer.Argument(help="Words, with a CLIP; else the name of a category.")
    ] = None,
    like: Annotated[str | None, typer.Option(help="Id of a mask: find masks like it.")] = None,
    dataset: DatasetOption = "default",
    encoder: EncoderOption = "lite",
    count: Annotated[int, typer.Option(min=1, max=1000, help="Masks to find.")] = 24,
    sheet: Annotated[
        Path | None, typer.Option(help="New PNG file: a picture of the masks.")
    ] = None,
    in_captions: Annotated[
        bool,
        typer.Option("--in-captions", help="Look for the words in captions of masks and images."),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Find masks by words, or masks like a mask.

    Words are matched with a CLIP's text encoder (`--encoder clip:NAME`); with another encoder they
    are the name of a category.
    """
    if (text is None) == (like is None):
        raise typer.BadParameter("give either words or --like MASK", param_hint="TEXT")
    if sheet is not None and sheet.exists():
        raise typer.BadParameter(f"{sheet} exists; name a new file", param_hint="--sheet")
    if in_captions:
        _find_in_captions(str(text), dataset, count, like is None and sheet is None, as_json)
        return
    with in_workspace(as_json) as workspace:
        from flows.semantics.find import find_like, find_text

        row = workspace.catalog.datasets.get(dataset)
        if like is not None:
            found = find_like(workspace, row, like, encoder, count)
        else:
            found = find_text(workspace, row, str(text), encoder, count)
        if sheet is not None:
            from flows.semantics.sheet import write_sheet

            write_sheet(workspace, found, sheet)
        names = {
            one.id: one.file_name
            for one in workspace.catalog.images.get_many([mask.image_id for mask in found])
        }
    rows = [{**one.to_json(), "file_name": names[one.image_id]} for one in found]
    if as_json:
        print_json({"dataset": dataset, "encoder": encoder, "masks": rows})
        return
    table = Table("mask", "image", header_style="bold")
    table.add_column("score", justify="right")
    for row_ in rows:
        table.add_row(row_["mask_id"], row_["file_name"], f"{row_['score']:.3f}")
    console.print(table)
    if sheet is not None:
        console.print(f"picture of the masks: {sheet}", markup=False)


def _find_in_captions(words: str, dataset: str, count: int, fits: bool, as_json: bool) -> None:
    """Find captions, and print them with their masks and images."""
    if not fits:
        raise typer.BadParameter("takes words, and no --sheet", param_hint="--in-captions")
    with in_workspace(as_json) as workspace:
        from flows.semantics.captioning import find_captions

        row = workspace.catalog.datasets.get(dataset)
        found = find_captions(workspace, row, words, count)
        names = {
            one.id: one.file_name
            for one in workspace.catalog.images.get_many([one.image_id for one in found])
        }
    rows = [{**one.to_json(), "file_name": names.get(one.image_id)} for one in found]
    if as_json:
        print_json({"dataset": dataset, "captions": rows})
        return
    table = Table("mask", "image", "caption", header_style="bold")
    for row_ in rows:
        table.add_row(row_["mask_id"] or "–", row_["file_name"], row_["caption"])
    console.print(table)
