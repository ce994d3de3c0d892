"""`dataengine settings`: settings that may be changed while the workspace is in use."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer
from rich.table import Table

from flows.cli.commands import JsonOption, example, in_workspace, print_json
from flows.workspace.console import console

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Settings that may be changed while the workspace is in use (docs/operating.md).",
    epilog=example("dataengine settings list", "dataengine settings set quality.review_share 0.1"),
)

NameArgument = Annotated[str, typer.Argument(help="Section and name, as in `settings list`.")]


@app.command("list", epilog=example("dataengine settings list --json"))
def list_settings(as_json: JsonOption = False) -> None:
    """List the settings that may be changed, with who changed them last."""
    with in_workspace(as_json) as workspace:
        from flows.page.setting_book import WorkspaceSettings

        found = WorkspaceSettings(workspace).all()
    if as_json:
        print_json({"settings": [one.model_dump() for one in found]})
        return
    table = Table("setting", "value", "in the file", "what it is", "changed")
    for one in found:
        changed = "–"
        if one.is_fixed:
            changed = "set by the environment"
        elif one.at is not None and one.is_changed:
            changed = f"{one.at:%Y-%m-%d}, {one.author or 'by a command'}"
        table.add_row(one.name, str(one.value), str(one.of_file), one.text, changed)
    console.print(table)


@app.command("set", epilog=example("dataengine settings set quality.review_share 0.1"))
def set_value(
    name: NameArgument, value: Annotated[str, typer.Argument(help="The new value.")]
) -> None:
    """Change a setting for all processes of the workspace that start from now on, and the page."""
    _change(name, _parsed(value))


@app.command(epilog=example("dataengine settings reset quality.review_share"))
def reset(name: NameArgument) -> None:
    """Let what dataengine.toml says hold again."""
    _change(name, None)


def _change(name: str, value: Any) -> None:
    with in_workspace() as workspace:
        from engine.annotation.errors import RefusedError
        from flows.page.setting_book import WorkspaceSettings
        from flows.workspace.changed_settings import value_of

        try:
            WorkspaceSettings(workspace).change(None, name, value)
        except RefusedError as error:
            raise typer.BadParameter(error.message) from error
        console.print(f"{name} is {value_of(workspace.settings, name)}")


def _parsed(text: str) -> Any:
    """A number or true/false; else the text itself."""
    try:
        found = json.loads(text)
    except ValueError:
        return text
    return found if isinstance(found, int | float) else text
