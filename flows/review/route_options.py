"""What to route by a model that judges masks. Commands check it before they start Prefect, whose
settings must be set before its first import: this module does not import it."""

from __future__ import annotations

from dataclasses import dataclass

from engine.core.errors import DataEngineError
from engine.core.records import Stage


class RouteError(DataEngineError):
    """Masks cannot be routed as asked; the message says what to do."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RouteOptions:
    """What to route.

    Raises:
        RouteError: the precision is out of range.
    """

    precision: float
    """The share of sure accepts that people would accept, at least; and of sure rejects that they
    would not."""
    stage: Stage = Stage.FULLY_AUTOMATIC

    def __post_init__(self) -> None:
        if not 0.5 < self.precision < 1:
            raise RouteError(
                f"precision must be above 0.5 and below 1, got {self.precision:g}; "
                "95 percent is 0.95"
            )
