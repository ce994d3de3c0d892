"""What the person in charge can start from the dashboard. Flows are above this package: who makes
the app hands in the actions."""

from __future__ import annotations

from typing import Any, Protocol

from engine.annotation.schemas import ActionPlan, ActionView, JobView

Values = dict[str, str | int | float | bool | None]


class Actions(Protocol):
    """Things that can be started, and what became of them."""

    def all(self, dataset: str | None = None) -> list[ActionView]:
        """What there is, with the values of the fields for a dataset; for the first by default."""
        ...

    def plan(self, name: str, values: Values) -> ActionPlan:
        """What the action will do.

        Raises:
            RefusedError: no such action, or a value is wrong.
        """
        ...

    def start(self, name: str, values: Values) -> JobView:
        """Start it.

        Raises:
            RefusedError: as `plan`, or the same is running already.
        """
        ...

    def jobs(self) -> list[JobView]:
        """What was started, the newest first."""
        ...

    def stop(self, job_id: str) -> JobView:
        """Interrupt one of them; a second time, end it at once.

        Raises:
            RefusedError: there is none.
        """
        ...

    def job(self, job_id: str) -> JobView:
        """One of them.

        Raises:
            RefusedError: there is none.
        """
        ...


class Reports(Protocol):
    """What the dashboard shows."""

    def overview(self) -> dict[str, Any]:
        """The fields of `Overview`."""
        ...
