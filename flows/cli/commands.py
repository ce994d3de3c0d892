"""What every command of `dataengine` does alike: open the workspace, print, show an example."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from flows.workspace import progress
from flows.workspace.console import errors
from flows.workspace.settings import find_workspace

if TYPE_CHECKING:
    from flows.workspace.workspace import Workspace


SETUP, LOOP, MODELS, QUALITY, RELEASES = "Set-up", "The loop", "Models", "Quality", "Releases"
PRODUCTION, UPKEEP = "Production", "Upkeep"
"""Panels of `dataengine --help`."""

DatasetOption = Annotated[str, typer.Option(help="Name of the dataset.")]
ChoiceOption = Annotated[str | None, typer.Option(help="Name of a dataset; all by default.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object, for scripts.")]
CrowdsOption = Annotated[
    Literal["auto", "objects", "skip"],
    typer.Option(help="What annotations with iscrowd are (docs/inputs.md)."),
]
FrameOption = Annotated[
    Literal["auto", "upright", "stored"],
    typer.Option(help="Which pixels annotations are of where EXIF turns an image."),
]


GOES_ON = "the same command goes on where it was"


def example(*lines: str) -> str:
    """The end of a command's help."""
    return "**Example**\n\n" + "\n\n".join(f"`{line}`" for line in lines)


@contextmanager
def in_workspace(
    as_json: bool = False, *, orchestrated: bool = False, after_stop: str | None = None
) -> Iterator[Workspace]:
    """The workspace around the current folder, ready for use.

    Args:
        as_json: nothing but the result is to be printed.
        orchestrated: the body runs flows.
        after_stop: what is said after Ctrl-C, of how to go on.
    """
    from flows.prefect_api import temporary_server

    root = find_workspace()
    temporary_server.configure(root)
    progress.use(progress.Silent() if as_json else progress.on(errors))
    from flows.workspace.workspace import open_workspace

    opened = open_workspace(str(root))
    opened.prepare()
    with ExitStack() as stack:
        if orchestrated:
            if not errors.is_terminal:
                progress.current().say("starting Prefect")
            with errors.status("starting Prefect"):
                stack.enter_context(temporary_server.server(root))
        try:
            yield opened
        except KeyboardInterrupt:
            told = "stopped" if after_stop is None else f"stopped; {after_stop}"
            errors.print(told, markup=False, highlight=False, soft_wrap=True)
            raise typer.Exit(130) from None


def print_json(value: Any) -> None:
    """One line of JSON; what JSON has no type for, times above all, as text."""
    print(json.dumps(value, default=str))


def number(value: Any, style: str = "") -> str:
    """A cell of a table; a dash for None."""
    return "–" if value is None else format(value, style)
