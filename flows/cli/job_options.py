"""Command-line options that are made from the registry of jobs."""

from __future__ import annotations

from collections.abc import Callable
from inspect import Parameter, signature
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from flows.deploy.jobs import JOBS, JobOption

if TYPE_CHECKING:
    JobName = str
else:
    JobName = Literal[tuple(JOBS)]


def parameter(name: str, annotation: Any, default: Any = Parameter.empty) -> Parameter:
    """A keyword parameter of a command."""
    return Parameter(name, Parameter.KEYWORD_ONLY, annotation=annotation, default=default)


def job_parameter(option: JobOption) -> Parameter:
    """The option of a command for one job."""
    text = option.help[0].upper() + option.help[1:]
    return parameter(option.name, _annotation(option, text), option.default)


def shared_parameters() -> list[Parameter]:
    """The options of a command for all jobs, None by default; their help names the jobs."""
    found: dict[str, list[tuple[JobOption, str]]] = {}
    for job in JOBS.values():
        for option in job.options:
            text = f"{job.name}: {option.help}"
            found.setdefault(option.name, []).append((option, text))
    return [
        parameter(name, _annotation(uses[0][0], " ".join(text for _, text in uses)), None)
        for name, uses in found.items()
    ]


def _annotation(option: JobOption, text: str) -> Any:
    least = 1 if option.kind is int else None
    # without a default the value may be None
    kind = option.kind if option.default is not None else option.kind | None
    return Annotated[kind, typer.Option(min=least, help=text)]


def with_parameters(
    *parameters: Parameter, before: str
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A decorator for a command that takes `**given`: Typer sees these parameters in its place,
    listed before the one named."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        listed: list[Parameter] = []
        for own in signature(command, eval_str=True).parameters.values():
            if own.name == before:
                listed += parameters
            if own.kind != Parameter.VAR_KEYWORD:
                listed.append(own.replace(kind=Parameter.KEYWORD_ONLY))
        taken: Any = command  # mypy knows no __signature__
        taken.__signature__ = signature(command).replace(parameters=listed)
        return command

    return decorate
