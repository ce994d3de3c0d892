"""The error of programs."""

from __future__ import annotations

from engine.core.errors import DataEngineError


class ProgramError(DataEngineError):
    """A program is refused, or a step of it fails; the message names the line and the reason.

    Attributes:
        line: counted from 1; None: no line is to blame.
    """

    def __init__(self, reason: str, line: int | None = None) -> None:
        super().__init__(reason if line is None else f"line {line}: {reason}")
        self.line, self.reason = line, reason
