"""`dataengine ...`: every command calls one flow or one query.

Flows and torch are imported inside the commands, so that `--help` is quick.
"""

from __future__ import annotations

import os
import sys
from typing import Annotated

# Read by OpenMP when torch is imported, here and in processes that this one starts. Threads that
# wait for each other by spinning take 2 to 3 times as long beside one busy process; sleeping costs
# a sixth on a quiet machine (docs/LOG.md, 2026-11-27).
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import typer
from rich.markup import escape

from engine.core.errors import DataEngineError
from flows.cli import (
    amg,
    audit,
    caption,
    detector,
    erase,
    evaluate,
    generate,
    gold,
    images,
    labels,
    loop,
    models,
    page,
    production,
    program,
    releases,
    schedules,
    settings,
    setup,
    suggest,
    train_clip,
    upkeep,
    verifier,
    webhooks,
)
from flows.cli.commands import LOOP, MODELS, NAMES, PRODUCTION, QUALITY, UPKEEP, WORDS
from flows.workspace.console import console, errors
from flows.workspace.logs import masked
from flows.workspace.permissions import private_files
from flows.workspace.workspace import code_version
from storage.os_errors import sentence_of

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    epilog="Start with `dataengine demo`, or `dataengine init` and `dataengine ingest`.",
)
for group in (
    setup,
    images,
    loop,
    generate,
    page,
    evaluate,
    audit,
    amg,
    releases,
    production,
    upkeep,
):
    app.add_typer(group.app)
app.add_typer(suggest.finder)
labels.app.add_typer(train_clip.app)
app.add_typer(page.annotators, name="annotators", rich_help_panel=LOOP)
app.add_typer(loop.reviewer, name="review", rich_help_panel=LOOP)
app.add_typer(labels.app, name="labels", rich_help_panel=NAMES)
app.add_typer(caption.app, name="caption", rich_help_panel=WORDS)
app.add_typer(program.app, name="program", rich_help_panel=WORDS)
app.add_typer(gold.app, name="gold", rich_help_panel=QUALITY)
app.add_typer(verifier.app, name="verifier", rich_help_panel=QUALITY)
app.add_typer(models.app, name="models", rich_help_panel=MODELS)
app.add_typer(detector.app, name="detector", rich_help_panel=MODELS)
app.add_typer(schedules.app, name="schedule", rich_help_panel=PRODUCTION)
app.add_typer(settings.app, name="settings", rich_help_panel=PRODUCTION)
app.add_typer(webhooks.app, name="webhooks", rich_help_panel=PRODUCTION)
app.add_typer(erase.app, name="erase", rich_help_panel=UPKEEP)


def _print_version(wanted: bool) -> None:
    if wanted:
        console.print(f"dataengine {code_version()}", highlight=False)
        raise typer.Exit


@app.callback()
def dataengine(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """The open data engine: images in, masks and a better model out."""


def main() -> None:
    """Run a command; an error that the user can fix is printed in one line, without a trace."""
    try:
        with private_files():
            app(standalone_mode=True)
    except DataEngineError as error:
        _fail(str(error))
    except OSError as error:
        if (message := sentence_of(error)) is None:
            raise
        _fail(message)


def _fail(message: str) -> None:
    errors.print(f"[red]error:[/red] {escape(masked(message))}", highlight=False, soft_wrap=True)
    sys.exit(1)


if __name__ == "__main__":
    main()
