"""`dataengine generate`."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.cli.commands import (
    LOOP,
    RESUMES,
    DatasetOption,
    JsonOption,
    example,
    in_workspace,
    print_json,
)
from flows.encoders.names import PUBLISHED_CLIP
from flows.workspace.console import console, errors

if TYPE_CHECKING:
    from flows.workspace.workspace import Workspace

app = typer.Typer(rich_markup_mode="markdown")


@app.command(
    rich_help_panel=LOOP,
    epilog=example(
        "dataengine generate --dataset photos",
        'dataengine generate --dataset photos --text "cat, dog"',
        "dataengine generate --resume RUN",
    ),
)
def generate(
    dataset: DatasetOption = "default",
    limit: Annotated[int | None, typer.Option(min=1, help="Maximum number of images.")] = None,
    only_new: Annotated[
        bool, typer.Option("--only-new", help="Only images that no generate run has processed.")
    ] = False,
    text: Annotated[
        str | None,
        typer.Option(help='Words with commas between, as "cat, dog": keep only their masks.'),
    ] = None,
    encoder: Annotated[
        str, typer.Option(help="What reads the words: clip:NAME; or imagenet, for its classes.")
    ] = PUBLISHED_CLIP,
    least: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Least probability of a word.")
    ] = 0.5,
    resume: Annotated[str | None, typer.Option(help="Id of a run to resume.")] = None,
    new: Annotated[
        bool, typer.Option("--new", help="Start a new run instead of resuming a stopped one.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Make masks of everything in a dataset's images with the current model (stage 3).

    With --text, masks of other things are dropped, and those of a word that is a category of the
    dataset get its label (docs/labels.md). Stopped in any way, it resumes when the same command is
    given again.
    """
    if text and only_new:
        raise typer.BadParameter("--text takes all images", param_hint="--only-new")
    after_stop = "the same command without --new resumes it" if new else RESUMES
    with in_workspace(as_json, orchestrated=True, after_stop=after_stop) as workspace:
        from flows.stages.asked_words import AskedWords, word_classifier
        from flows.stages.fully_automatic import generate as flow

        if resume is not None:
            run = workspace.catalog.runs.get(resume)
            run_id, asked = resume, AskedWords.of_run(run)
            dataset = workspace.catalog.datasets.get_by_id(run.dataset_id).name
        else:
            asked = None if text is None else AskedWords.parse(text, encoder, least)
            if asked is not None:  # before a run is started
                word_classifier(workspace, workspace.catalog.datasets.get(dataset), asked)
            wanted = {"limit": limit, "only_new": only_new, "asked": asked}
            run_id = _run_to_do(workspace, dataset, wanted, new=new)
        words = None if asked is None else (", ".join(asked.words), asked.encoder, asked.least)
        root = str(workspace.settings.root)
        figures = flow(root, run_id, dataset, None, limit, only_new, *(words or ()))
    if as_json:
        print_json({"run": run_id, **figures})
    else:
        console.print(
            f"{figures['masks']} masks on {figures['images']} images "
            f"({figures['masks_per_image']:.1f} per image)"
        )
        if "kept" in figures:
            _print_words(figures)


def _run_to_do(workspace: Workspace, dataset: str, wanted: dict[str, Any], *, new: bool) -> str:
    """Return the id of the stopped run that wants the same, or of a new one, and say which."""
    from flows.stages.fully_automatic import images_since, unfinished_generate
    from storage.catalog import new_id

    begun = unfinished_generate(workspace, dataset, **wanted)
    if begun is None or new:
        run_id = new_id()
        errors.print(f"run {run_id}")
        return run_id
    done = workspace.catalog.shards.totals(begun.id)
    errors.print(
        f"resuming run {begun.id}: {done.committed_images} of {done.images} images are done; --new "
        "starts a new run"
    )
    if since := images_since(workspace, begun):
        then = f"dataengine generate --only-new --dataset {shlex.quote(dataset)}"
        told = f"{since} images came in after it began; make theirs afterwards: {then}"
        errors.print(told, markup=False, highlight=False, soft_wrap=True)
    return begun.id


def _print_words(figures: dict[str, Any]) -> None:
    """Print how many masks were kept for each word, and dropped for which reason."""
    kept = ", ".join(f"{word} {count}" for word, count in figures["kept"].items())
    dropped = ", ".join(f"{reason} {count}" for reason, count in figures["dropped"].items())
    console.print(f"kept: {kept}; dropped: {dropped}", markup=False, soft_wrap=True)
    if words := figures["no_categories"]:
        told = f"no labels for {', '.join(words)}: no categories of the dataset (`labels set`)"
        console.print(told, markup=False, soft_wrap=True)
