"""`dataengine ...`: every command calls one flow or one query.

Flows and torch are imported inside the commands, so that `--help` is quick.
"""

from __future__ import annotations

import sys

import typer
from rich.markup import escape

from flows.cli import (
    amg,
    erase,
    evaluate,
    images,
    loop,
    models,
    page,
    production,
    releases,
    schedules,
    setup,
    upkeep,
)
from flows.cli.commands import LOOP, MODELS, PRODUCTION, UPKEEP
from flows.workspace.console import errors
from flows.workspace.logs import masked
from flows.workspace.permissions import private_files
from flows.workspace.settings import WorkspaceError

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="The open data engine: images in, masks and a better model out.",
    epilog="Start with `dataengine demo`, or `dataengine init` and `dataengine ingest`.",
)
for group in (setup, images, loop, page, evaluate, amg, releases, production, upkeep):
    app.add_typer(group.app)
app.add_typer(page.annotators, name="annotators", rich_help_panel=LOOP)
app.add_typer(models.app, name="models", rich_help_panel=MODELS)
app.add_typer(schedules.app, name="schedule", rich_help_panel=PRODUCTION)
app.add_typer(erase.app, name="erase", rich_help_panel=UPKEEP)


def main() -> None:
    """Run a command; an error that its user can mend is printed in one line, without a trace."""
    try:
        with private_files():
            app(standalone_mode=True)
    except WorkspaceError as error:
        _fail(str(error))
    except Exception as error:
        from flows.cli.error_messages import told_in_a_line

        if (message := told_in_a_line(error)) is None:
            raise
        _fail(message)


def _fail(message: str) -> None:
    errors.print(f"[red]error:[/red] {escape(masked(message))}", highlight=False, soft_wrap=True)
    sys.exit(1)


if __name__ == "__main__":
    main()
