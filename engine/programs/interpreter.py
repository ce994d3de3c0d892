"""Runs programs, within limits of pixels, time and calls."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast

from engine.programs.errors import ProgramError
from engine.programs.expression import Answer
from engine.programs.language import Program, Step, Variable
from engine.programs.modules import MODULES, Running
from engine.programs.values import Objects, Picture, Tools, Value


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What one run of a program on one image, or one pair, may take.

    Attributes:
        pixels: of the inputs and all new pictures together.
        seconds: of all steps; a step that is longer is not cut off, the next one is refused.
        calls: of plug-ins.
    """

    pixels: int = 400_000_000
    seconds: float = 120.0
    calls: int = 200


@dataclass(frozen=True, slots=True)
class Done:
    """A step and its value."""

    step: Step
    value: Value


@dataclass(slots=True)
class _Spent:
    limits: Limits
    line: int = 0
    pixels: int = 0
    calls: int = 0
    began: float = field(default_factory=time.monotonic)

    def allocate(self, pixels: int) -> None:
        self.pixels += pixels
        if self.pixels > self.limits.pixels:
            raise self.wrong(f"pictures have more than {self.limits.pixels:,} pixels together")

    def call(self) -> None:
        self.calls += 1
        if self.calls > self.limits.calls:
            raise self.wrong(f"plug-ins are called more than {self.limits.calls} times")
        self.check_time()

    def check_time(self) -> None:
        if time.monotonic() - self.began > self.limits.seconds:
            raise self.wrong(f"the program takes more than {self.limits.seconds:g} s")

    def wrong(self, reason: str) -> ProgramError:
        return ProgramError(reason, self.line or None)


def execute(
    program: Program,
    images: Mapping[str, Picture],
    tools: Tools,
    limits: Limits | None = None,
    done: list[Done] | None = None,
) -> Value:
    """Run a program and return its result.

    Args:
        program: of `parse`.
        images: by input.
        tools: what the modules work with.
        limits: of this run.
        done: each finished step is appended; complete up to the step that fails.

    Raises:
        ProgramError: a step fails, or a limit is reached; the message names the line.
    """
    spent = _Spent(limits or Limits())
    known: dict[str, Value] = {}
    for name in program.inputs:
        if name not in images:
            raise ProgramError(f"the program needs {' and '.join(program.inputs)}")
        spent.allocate(images[name].pixels_HWC.shape[0] * images[name].pixels_HWC.shape[1])
        known[name] = images[name]
    for step in program.steps:
        spent.line = step.line
        spent.check_time()
        known[step.target] = _value(step, known, tools, spent)
        if done is not None:
            done.append(Done(step, known[step.target]))
    return known[program.steps[-1].target]


def _value(step: Step, known: Mapping[str, Value], tools: Tools, spent: _Spent) -> Value:
    if step.expression is not None:
        return step.expression.value(cast("Mapping[str, Answer]", known))
    given = {
        name: known[value.name] if isinstance(value, Variable) else value
        for name, value in step.arguments.items()
    }
    return MODULES[step.module](Running(tools, step.line, spent.allocate, spent.call), given)


def is_selected(value: Value) -> bool:
    """Whether a result selects its image: an answer that is yes or not 0, or any objects; an edited
    image always does."""
    if isinstance(value, Objects):
        return bool(value.things)
    if isinstance(value, str):
        return value.casefold() not in ("", "no", "none", "false")
    return isinstance(value, Picture) or bool(value)
