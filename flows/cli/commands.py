"""Shared by the commands of `dataengine`: options, opening the workspace, printing."""

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
NAMES, WORDS, PRODUCTION, UPKEEP = "Names", "Words", "Production", "Upkeep"
"""Panels of `dataengine --help`."""

DatasetOption = Annotated[str, typer.Option(help="Name of the dataset.")]
ChoiceOption = Annotated[str | None, typer.Option(help="Name of a dataset; all by default.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object, for scripts.")]
CrowdsOption = Annotated[
    Literal["auto", "objects", "skip"],
    typer.Option(help="How to treat annotations with iscrowd (docs/inputs.md)."),
]
FrameOption = Annotated[
    Literal["auto", "upright", "stored"],
    typer.Option(help="Orientation that annotations refer to if EXIF rotates the image."),
]


RESUMES = "the same command resumes it"


def example(*lines: str) -> str:
    """The example at the end of a command's help."""
    return "**Example**\n\n" + "\n\n".join(f"`{line}`" for line in lines)


@contextmanager
def in_workspace(
    as_json: bool = False, *, orchestrated: bool = False, after_stop: str | None = None
) -> Iterator[Workspace]:
    """The workspace around the current folder, ready for use.

    Args:
        as_json: print nothing but the result.
        orchestrated: the body runs flows, so start or find a Prefect server.
        after_stop: message after Ctrl-C that says how to resume.
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
            message = "stopped" if after_stop is None else f"stopped; {after_stop}"
            errors.print(message, markup=False, highlight=False, soft_wrap=True)
            raise typer.Exit(130) from None


def print_json(value: Any) -> None:
    """Print one line of JSON; values without a JSON type, such as times, as text."""
    print(json.dumps(value, default=str))


def number(value: Any, style: str = "") -> str:
    """The value as a table cell; a dash for None."""
    return "–" if value is None else format(value, style)
