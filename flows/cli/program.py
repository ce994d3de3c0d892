"""`dataengine program ...`: questions about images as programs of one call a line."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlencode

import click
import typer
from rich.syntax import Syntax
from rich.table import Table

from flows.cli.commands import (
    RESUMES,
    DatasetOption,
    JsonOption,
    example,
    in_workspace,
    print_json,
)
from flows.workspace.console import console
from flows.workspace.permissions import for_people

if TYPE_CHECKING:
    from flows.programs.saved import SavedProgram
    from flows.workspace.workspace import Workspace


class ProgramGroup(typer.core.TyperGroup):
    """Takes several words that are no command as those of `write`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """See Typer: `program "two dogs"` is `program write "two dogs"`."""
        if args and " " in args[0].strip() and args[0] not in self.commands:
            args = ["write", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=ProgramGroup,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Questions about images as visual programs: written by a language model or by you, run "
    "over masks and labels, and used to select work (docs/words.md).",
    epilog=example(
        'dataengine program "images with at least two dogs left of a person" --dataset photos',
        "dataengine program run two-dogs --dataset photos --html rationale.html",
    ),
)

NameArgument = Annotated[str, typer.Argument(help="Name of a saved program.")]
ProgramArgument = Annotated[str, typer.Argument(help="Name of a saved program, or a file.")]
RunArgument = Annotated[str, typer.Argument(help="A run's id, its tag, or its program's name.")]
VersionOption = Annotated[int | None, typer.Option(min=1, help="Version; the newest by default.")]


@app.command(
    epilog=example(
        'dataengine program write "images with at least two dogs left of a person" '
        "--dataset photos --save two-dogs",
    )
)
def write(
    request: Annotated[str, typer.Argument(help="What to find or to do, in words.")],
    dataset: DatasetOption = "default",
    save: Annotated[str | None, typer.Option(help="Save the program under this name.")] = None,
    edit: Annotated[bool, typer.Option("--edit", help="Open it in your editor first.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Have a language model write a program for a request. Nothing is run: read it, edit it, save
    it, run it.

    The model is that of DATAENGINE_LLM_URL and DATAENGINE_LLM_MODEL.
    """
    with in_workspace(as_json) as workspace:
        from engine.programs.language import parse
        from engine.programs.writing import write_program
        from flows.programs.saved import check_program_name, save_program
        from flows.workspace.endpoint import chat_of

        if save is not None:
            check_program_name(save)
        row = workspace.catalog.datasets.get(dataset)
        names = list(workspace.catalog.categories.current(row.id).categories.names.values())
        program = write_program(chat_of(workspace), request, names)
        if edit:
            program = parse(_edited(program.text))
        saved = None
        if save is not None:
            saved = save_program(workspace, save, program, request=request)
    if as_json:
        version = None if saved is None else saved.version
        print_json({"program": program.text, "name": save, "version": version})
        return
    _print_program(program.text)
    if saved is not None:
        console.print(f"saved as {saved.name}, version {saved.version}", markup=False)
    else:
        console.print("not saved: --save NAME keeps it, --edit opens it first", markup=False)


def _edited(text: str) -> str:
    """Return a text after the user has changed it in an editor."""
    found = click.edit(text, extension=".txt")
    return text if found is None else found


def _print_program(text: str) -> None:
    console.print(Syntax(text.strip(), "python", background_color="default", word_wrap=True))


@app.command(epilog=example("dataengine program save two-dogs.txt --name two-dogs"))
def save(
    file: Annotated[Path, typer.Argument(help="A file with the program, or - for the input.")],
    name: Annotated[str, typer.Option(help="Name to save it under.")],
    as_json: JsonOption = False,
) -> None:
    """Save a program that you wrote, as the next version of its name."""
    with in_workspace(as_json) as workspace:
        from engine.programs.language import LONGEST_PROGRAM, parse
        from flows.programs.saved import program_of, save_program

        if str(file) == "-":
            program = parse(typer.get_text_stream("stdin").read(LONGEST_PROGRAM + 1))
        else:
            program = program_of(workspace, str(file.resolve())).program
        saved = save_program(workspace, name, program)
    _print_saved(saved, as_json)


def _print_saved(saved: SavedProgram, as_json: bool) -> None:
    if as_json:
        print_json({"name": saved.name, "version": saved.version, "file": str(saved.path)})
    else:
        told = f"{saved.name}, version {saved.version}: {saved.path}"
        console.print(told, markup=False, soft_wrap=True)


@app.command("list", epilog=example("dataengine program list"))
def list_programs(as_json: JsonOption = False) -> None:
    """List the saved programs."""
    with in_workspace(as_json) as workspace:
        from flows.programs.saved import saved_programs

        found = saved_programs(workspace)
    if as_json:
        listed: list[dict[str, Any]] = [
            {"name": one.name, "version": one.version, "request": one.request}
            | {"result": one.program.kind}
            for one in found
        ]
        print_json({"programs": listed})
        return
    table = Table("name", "version", "result", "request", header_style="bold")
    for saved in found:
        table.add_row(saved.name, str(saved.version), str(saved.program.kind), saved.request)
    console.print(table)


@app.command(epilog=example("dataengine program show two-dogs --version 1"))
def show(name: NameArgument, version: VersionOption = None, as_json: JsonOption = False) -> None:
    """Print a saved program."""
    with in_workspace(as_json) as workspace:
        from flows.programs.saved import load_program

        saved = load_program(workspace, name, version)
    if as_json:
        print_json(
            {"name": saved.name, "version": saved.version, "request": saved.request}
            | {"program": saved.program.text}
        )
        return
    told = f"# {saved.name}, version {saved.version}{f': {saved.request}' if saved.request else ''}"
    console.print(told, markup=False, soft_wrap=True)
    _print_program(saved.program.text)


@app.command(epilog=example("dataengine program edit two-dogs"))
def edit(name: NameArgument, as_json: JsonOption = False) -> None:
    """Change a saved program in your editor ($EDITOR); the change is its next version."""
    with in_workspace(as_json) as workspace:
        from engine.programs.language import parse
        from flows.programs.saved import load_program, save_program

        before = load_program(workspace, name)
        program = parse(_edited(before.program.text))
        saved = save_program(workspace, name, program, request=before.request)
    _print_saved(saved, as_json)


@app.command(
    epilog=example(
        "dataengine program run two-dogs --dataset photos --tag two-dogs",
        "dataengine program run two-dogs --dataset photos --image cats/7.jpg --html why.html",
        "dataengine program run same-people.txt --dataset photos --pairs pairs.csv",
    )
)
def run(
    program: ProgramArgument,
    dataset: DatasetOption = "default",
    version: VersionOption = None,
    encoder: Annotated[
        str | None,
        typer.Option(help="clip:NAME, for objects without a label (docs/labels.md)."),
    ] = None,
    tag: Annotated[str | None, typer.Option(help="A name for what the run selects.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="The most images.")] = None,
    pairs: Annotated[
        Path | None, typer.Option(help="CSV: two file names a line, LEFT and RIGHT.")
    ] = None,
    image: Annotated[
        list[str] | None,
        typer.Option(help="Only try it on this image, or two: nothing is stored."),
    ] = None,
    html: Annotated[
        Path | None, typer.Option(help="New file: the picture after each step.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Run a program over a dataset's images, with their masks and labels.

    Stopped in any way, it resumes when the same command is repeated.
    """
    if html is not None and html.exists():
        raise typer.BadParameter(f"{html} exists; name a new file", param_hint="--html")
    orchestrated = not image
    with in_workspace(as_json, orchestrated=orchestrated, after_stop=RESUMES) as workspace:
        from flows.programs.saved import program_of

        saved = program_of(workspace, program, version)
        if image:
            _try(workspace, dataset, saved, image, encoder, html, as_json)
            return
        from flows.programs.pairs import read_pairs
        from flows.programs.running import RunOptions, run_program
        from flows.programs.using import write_rationale

        row = workspace.catalog.datasets.get(dataset)
        chosen = () if pairs is None else read_pairs(workspace, row, pairs)
        options = RunOptions(encoder=encoder, tag=tag, limit=limit, pairs=chosen)
        figures = run_program(
            str(workspace.settings.root),
            dataset,
            saved.program.text,
            saved.name if saved.version else None,
            saved.version or None,
            options.to_config(),
        )
        if html is not None:
            with for_people():
                write_rationale(workspace, workspace.catalog.runs.get(figures["run"]), html)
    if as_json:
        print_json(figures)
    else:
        print_figures(figures)


def _try(
    workspace: Workspace,
    dataset: str,
    saved: SavedProgram,
    names: list[str],
    encoder: str | None,
    html: Path | None,
    as_json: bool,
) -> None:
    """Run a program on one image or pair, and print the result."""
    from engine.programs.interpreter import is_selected
    from engine.programs.rationale import described, page
    from flows.programs.pairs import images_named
    from flows.programs.running import try_program

    row = workspace.catalog.datasets.get(dataset)
    images = images_named(workspace, row, names)
    value, part = try_program(workspace, row, saved, images, encoder)
    if html is not None:
        with for_people(), html.open("x", encoding="utf-8") as file:
            file.write(page(saved.name, saved.program.text, [part]))
    told, chosen = described(value), is_selected(value)
    if as_json:
        print_json({"images": names, "result": told, "selected": chosen})
    else:
        console.print(f"{' and '.join(names)}: {told}", markup=False)


def print_figures(figures: dict[str, Any]) -> None:
    """Print the figures of a run."""
    told = f"{figures['selected']:,} of {figures['images']:,} selected"
    for name in ("objects", "pictures", "failed"):
        told += f"; {figures[name]:,} {name}" if figures[name] else ""
    console.print(f"run {figures['run']}: {told}", markup=False, soft_wrap=True)
    if len(figures["answers"]) > 1:
        table = Table("answer", header_style="bold")
        table.add_column("images", justify="right")
        for answer, count in figures["answers"].items():
            table.add_row(answer, f"{count:,}")
        console.print(table)
    for error, count in figures["errors"].items():
        console.print(f"{count:,} failed: {error}", markup=False, soft_wrap=True)


@app.command(epilog=example("dataengine program runs --dataset photos"))
def runs(dataset: DatasetOption = "default", as_json: JsonOption = False) -> None:
    """List the runs of programs over a dataset, the newest first."""
    with in_workspace(as_json) as workspace:
        from storage.catalog import RunKind

        row = workspace.catalog.datasets.get(dataset)
        found = workspace.catalog.runs.all(dataset_id=row.id, kind=RunKind.PROGRAM, limit=100)
    rows = [
        {
            "run": one.id,
            "program": one.config["asked"]["name"],
            "version": one.config["asked"]["version"],
            "tag": one.config["asked"]["tag"],
            "state": one.state,
            "started_at": one.started_at,
            "selected": one.metrics.get("selected"),
            "images": one.metrics.get("images"),
        }
        for one in found
    ]
    if as_json:
        print_json({"dataset": dataset, "runs": rows})
        return
    table = Table("run", "program", "tag", "state", "selected", header_style="bold")
    for row_ in rows:
        name = f"{row_['program']} v{row_['version']}" if row_["program"] else "–"
        count = "–" if row_["images"] is None else f"{row_['selected']:,} of {row_['images']:,}"
        table.add_row(row_["run"], name, row_["tag"] or "–", str(row_["state"]), count)
    console.print(table)


@app.command(
    epilog=example(
        "dataengine program results two-dogs --dataset photos --html rationale.html",
        "dataengine program results popped --dataset photos --out pictures/",
    )
)
def results(
    run: RunArgument,
    dataset: DatasetOption = "default",
    html: Annotated[
        Path | None, typer.Option(help="New file: the picture after each step.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for edited pictures.")] = None,
    selected: Annotated[
        bool, typer.Option("--selected", help="Only the images that the run selected.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Show what a run found, image by image; write its rationale, or its edited pictures."""
    if html is not None and html.exists():
        raise typer.BadParameter(f"{html} exists; name a new file", param_hint="--html")
    written: dict[str, int] = {}
    with in_workspace(as_json) as workspace:
        from engine.programs.rationale import described
        from flows.programs.using import result_rows, write_pictures, write_rationale
        from flows.workspace.selections import program_run

        found = program_run(workspace, workspace.catalog.datasets.get(dataset).id, run)
        with for_people():
            if html is not None:
                written["explained"] = write_rationale(workspace, found, html)
            if out is not None:
                written["pictures"] = write_pictures(workspace, found, out)
        rows = [row for row in result_rows(workspace, found) if row["selected"] or not selected]
    if as_json:
        print_json({"run": found.id, **written, "images": rows})
        return
    if written:
        words = {"explained": "images explained", "pictures": "pictures written"}
        told = ", ".join(f"{count:,} {words[what]}" for what, count in written.items())
        console.print(told, markup=False)
        return
    table = Table("image", "selected", "answer", header_style="bold")
    for row in rows:
        name = " | ".join(filter(None, (row["file_name"], row.get("right"))))
        said = row["error"] or ("–" if row["answer"] is None else described(row["answer"]))
        table.add_row(name, "yes" if row["selected"] else "no", said)
    console.print(table)
    if any(row["selected"] for row in rows):
        query = urlencode({"dataset": dataset, "show": "images", "program": run})
        told = f"on the page: /browse?{query}"
        console.print(told, markup=False, soft_wrap=True)


@app.command(
    epilog=example(
        "dataengine program send two-dogs --to review --dataset photos",
        "dataengine program send red-cars --to labels --category car --dataset photos",
    )
)
def send(
    run: RunArgument,
    to: Annotated[str, typer.Option(help="review or labels.")],
    dataset: DatasetOption = "default",
    category: Annotated[
        str | None,
        typer.Option(help="For labels: of all objects; by default each has its own name."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Send what a run selected to people's review, or label the objects that it found.

    For annotation: `dataengine run --choice program:RUN`; for a release: `dataengine release NAME
    --program RUN`.
    """
    if to not in ("review", "labels"):
        raise typer.BadParameter("send to review or labels", param_hint="--to")
    with in_workspace(as_json) as workspace:
        from flows.programs.using import send_to_review, write_labels
        from flows.workspace.selections import program_run

        row = workspace.catalog.datasets.get(dataset)
        found = program_run(workspace, row.id, run)
        result: dict[str, Any] = {"run": found.id}
        if to == "review":
            result |= send_to_review(workspace, row, found)
            told = f"{result['masks']:,} masks on {result['images']:,} images wait for review"
        else:
            result |= write_labels(workspace, row, found, category)
            told = f"{result['labelled']:,} new labels"
            for name, count in result["unknown"].items():
                told += f"; {count:,} objects named {name!r}, which is no category"
    if as_json:
        print_json(result)
    else:
        console.print(told, markup=False, soft_wrap=True)
