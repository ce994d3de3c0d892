"""`dataengine labels`: names for masks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from flows.cli.commands import DatasetOption, JsonOption, example, in_workspace, print_json
from flows.workspace.console import console

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Names for masks: the categories of a dataset, and how many masks have which.",
    epilog=example(
        "dataengine labels set classes.yaml --dataset photos",
        "dataengine labels show --dataset photos",
        "dataengine labels history --dataset photos",
    ),
)


@app.command(
    "set",
    epilog=example(
        "dataengine labels set classes.yaml --dataset photos",
        "dataengine labels set classes.yaml --dataset photos --removed-to vehicle",
    ),
)
def set_list(
    file: Annotated[Path, typer.Argument(help="YAML or JSON: a list of categories.")],
    dataset: DatasetOption = "default",
    removed_to: Annotated[
        str | None,
        typer.Option(help="Category for the masks of categories that the file lacks."),
    ] = None,
    unlabel: Annotated[
        bool,
        typer.Option("--unlabel", help="Masks of categories that the file lacks get none."),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Set a dataset's categories.

    The file lists names, or mappings with `name` and, if wanted, `key`, `color`, `parent`,
    `description`, `id`, and `was`, the old name of a renamed category (docs/labels.md). Categories
    that the file lacks are removed. The list before stays in the history.
    """
    if removed_to is not None and unlabel:
        raise typer.BadParameter("give either --removed-to or --unlabel", param_hint="--unlabel")
    if not file.is_file():
        raise typer.BadParameter(f"{file} is not a file", param_hint="FILE")
    with in_workspace(as_json) as workspace:
        from flows.labels.categories import differences, plan_categories, set_categories

        change = plan_categories(workspace, dataset, file)
        if change.labelled and not as_json:
            counts = ", ".join(f"{name} ({count})" for name, count in change.labelled.items())
            console.print(Text(f"masks of categories that the file lacks: {counts}"))
        made = set_categories(workspace, change, removed_to=removed_to, unlabel=unlabel)
    changed = made.version != change.present.version
    told = differences(change.present.categories, change.new)
    if as_json:
        moved = sum(change.labelled.values())
        print_json(
            {"dataset": dataset, "version": made.version, "changed": changed, **told}
            | {"categories": len(made.categories), "labels_moved": moved}
        )
        return
    parts = [f"{len(names)} {what}" for what, names in told.items() if names]
    what = ", ".join(parts) or ("other fields changed" if changed else "nothing changed")
    console.print(
        f"{dataset}: {len(made.categories)} categories, version {made.version} ({what})",
        markup=False,
    )


@app.command(
    epilog=example("dataengine labels show --dataset photos", "dataengine labels show --json")
)
def show(dataset: DatasetOption = "default", as_json: JsonOption = False) -> None:
    """List a dataset's categories with the number of masks that have each."""
    with in_workspace(as_json) as workspace:
        from flows.labels.categories import category_rows

        row = workspace.catalog.datasets.get(dataset)
        rows = category_rows(workspace, row)
        version = workspace.catalog.categories.current(row.id).version
    if as_json:
        print_json({"dataset": dataset, "version": version, "categories": rows})
        return
    if not rows:
        console.print(
            f"{escape(dataset)} has no categories, so its masks have no names: "
            "`dataengine labels set FILE` gives some"
        )
        return
    table = Table("id", "", "name", "key", "parent", "masks", "description", header_style="bold")
    for one in rows:
        texts = [Text(one[name] or "") for name in ("name", "key", "parent")]
        described = Text(one["description"] or "")
        shown = Text("■", style=one["color"])
        table.add_row(str(one["id"]), shown, *texts, str(one["masks"]), described)
    console.print(table)


@app.command(epilog=example("dataengine labels history --dataset photos"))
def history(dataset: DatasetOption = "default", as_json: JsonOption = False) -> None:
    """List the versions of a dataset's category list, newest first."""
    with in_workspace(as_json) as workspace:
        from flows.labels.categories import history_rows

        rows = history_rows(workspace, workspace.catalog.datasets.get(dataset))
    if as_json:
        print_json({"dataset": dataset, "versions": rows})
        return
    table = Table("version", "when", "who", "categories", "what", header_style="bold")
    for row in rows:
        renamed = [" → ".join(pair) for pair in row["renamed"]]
        changes = (("added", row["added"]), ("renamed", renamed), ("removed", row["removed"]))
        what = "; ".join(f"{word} {', '.join(names)}" for word, names in changes if names)
        when = f"{row['created_at']:%Y-%m-%d %H:%M}"
        count = str(row["categories"])
        table.add_row(str(row["version"]), when, Text(row["author"] or ""), count, Text(what))
    console.print(table)
