"""`dataengine erase image | dataset | person | pending`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.cli.commands import DatasetOption, JsonOption, example, in_workspace, print_json
from flows.operations.erase import check_idle, concerned, erase, erase_pending
from flows.workspace.console import console
from flows.workspace.settings import WorkspaceError

if TYPE_CHECKING:
    from flows.workspace.workspace import Workspace
    from storage.erasures import Erasure


app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Delete images, a dataset or a person's name everywhere, permanently.",
    epilog=example("dataengine erase image 17 18 --dataset photos --dry-run"),
)


DryOption = Annotated[bool, typer.Option("--dry-run", help="Only show what would be deleted.")]


YesOption = Annotated[
    bool, typer.Option("--yes", help="Skip the confirmation; required with --json.")
]


@app.command(epilog=example("dataengine erase image 17 birds/a.jpg --dataset photos"))
def image(
    images: Annotated[list[str], typer.Argument(help="Ids, or file names in the dataset.")],
    dataset: DatasetOption = "default",
    dry_run: DryOption = False,
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Delete images: pixels, masks in all versions, tasks, results, embeddings, release files."""

    def chosen(workspace: Workspace) -> Erasure:
        return erasure_of(workspace, dataset, images)

    _erase(chosen, dry_run, yes, as_json)


@app.command(epilog=example("dataengine erase dataset photos --dry-run"))
def dataset(
    name: Annotated[str, typer.Argument(help="Name of the dataset.")],
    dry_run: DryOption = False,
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Delete a dataset: its images with all their data, its loops, runs and releases."""
    from storage.erasures import of_dataset

    _erase(lambda w: of_dataset(w.catalog, w.catalog.datasets.get(name)), dry_run, yes, as_json)


@app.command(epilog=example("dataengine erase person ada"))
def person(
    name: Annotated[str, typer.Argument(help="Name of the annotator.")],
    dry_run: DryOption = False,
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Replace a person's name by a pseudonym everywhere and sign them out. Their work stays."""
    from storage import erasures

    def chosen(workspace: Workspace) -> Erasure:
        found = workspace.catalog.annotators.find(name)
        if found is None or found.kind != "person":
            raise typer.BadParameter(f"there is no annotator {name!r}", param_hint="NAME")
        return erasures.of_person(found)

    _erase(chosen, dry_run, yes, as_json)


@app.command(epilog=example("dataengine erase pending"))
def pending(dry_run: DryOption = False, as_json: JsonOption = False) -> None:
    """Finish erasures that were interrupted, or that a restored backup has undone."""
    from storage import erasures

    with in_workspace(as_json) as workspace:
        ids = erasures.pending(workspace.catalog, workspace.objects)
        done = [] if dry_run else erase_pending(workspace)
    if as_json:
        print_json({"pending": ids, "erased": done})
    elif dry_run:
        console.print(f"{len(ids)} erasures are not finished")
    else:
        console.print(f"{len(done)} erasures finished")


def erasure_of(workspace: Workspace, dataset: str, images: list[str]) -> Erasure:
    """The erasure of a dataset's images, by ids or file names."""
    from storage import erasures

    row = workspace.catalog.datasets.get(dataset)
    ids = [number for name in images for number in ids_of(workspace, row.id, name)]
    found = erasures.of_images(workspace.catalog, row, ids)
    if missing := sorted(set(ids) - set(found.work.image_ids)):
        raise typer.BadParameter(f"{dataset} has no image {missing[0]}", param_hint="IMAGES")
    return found


def check_none_unfinished(workspace: Workspace) -> None:
    """Refuse to erase while an erasure is unfinished, as the catalog lacks part of what that one
    deletes."""
    from storage.erasures import unfinished

    if left := unfinished(workspace.catalog):
        raise WorkspaceError(
            f"{len(left)} erasures were interrupted; `dataengine erase pending` finishes them"
        )


def confirm_forever(yes: bool, as_json: bool) -> None:
    """Ask whether to erase, unless `yes` says so."""
    if yes:
        return
    if as_json:
        raise typer.BadParameter("erasing cannot be undone: give --yes with --json")
    typer.confirm("this cannot be undone; erase it?", abort=True)


def ids_of(workspace: Workspace, dataset_id: int, name: str) -> list[int]:
    """Ids of the images that a name means: itself if it is a number, else those of a file name."""
    if name.isdecimal() and len(name) < 19:
        return [int(name)]
    from storage.erasures import ids_named

    found = ids_named(workspace.catalog, dataset_id, name)
    if not found:
        raise typer.BadParameter(f"there is no image {name!r}", param_hint="IMAGES")
    return found


def _erase(chosen: Callable[[Workspace], Erasure], dry_run: bool, yes: bool, as_json: bool) -> None:
    """Erase what `chosen` returns, once confirmed."""
    with in_workspace(as_json) as workspace:
        check_none_unfinished(workspace)
        erasure = chosen(workspace)
        affected = concerned(workspace, erasure)
        check_idle(workspace, erasure)
        if not as_json:
            _print_affected(affected)
        if not dry_run:
            confirm_forever(yes, as_json)
        done = None if dry_run else erase(workspace, erasure)
    if as_json:
        print_json({**affected, "dry_run": dry_run, "erased": done})
    elif done is not None:
        _print_done(done)


def _print_affected(affected: dict[str, Any]) -> None:
    subject = "the name" if affected["kind"] == "person" else f"{affected['images']} images"
    console.print(
        f"{affected['kind']} {affected['name']}: {subject}, {affected['masks']} masks", markup=False
    )
    if affected["releases"]:
        what = "deleted" if affected["kind"] == "dataset" else "withdrawn, and their files deleted"
        console.print(f"releases {', '.join(affected['releases'])} are {what}", markup=False)
    if affected["models"] and affected["kind"] != "person":
        console.print(
            f"models trained on them are kept: {', '.join(affected['models'])}", markup=False
        )


def _print_done(done: dict[str, Any]) -> None:
    console.print(
        f"erased ({done['id']}): {done['objects']} objects, {done['files_rewritten']} files of the "
        f"mask tables rewritten, {done['files_deleted']} old ones deleted"
    )
    if done["unreadable_versions"]:
        gone = ", ".join(map(str, done["unreadable_versions"]))
        console.print(f"versions of the mask table that are no longer readable: {gone}")
    console.print("next: restart the page and the workers, and delete copies (docs/security.md)")
