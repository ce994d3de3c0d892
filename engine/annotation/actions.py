"""Actions an admin can start from the dashboard. Flows are above this package, so the caller of
`create_app` passes the actions."""

from __future__ import annotations

from typing import Any, Protocol

from engine.annotation.schemas import ActionPlan, ActionView, JobView
from engine.annotation.setting_schemas import SettingView
from storage.catalog import Annotator

Values = dict[str, str | int | float | bool | None]


class Actions(Protocol):
    """Actions that can be started, and their jobs."""

    def all(self, dataset: str | None = None) -> list[ActionView]:
        """All actions, with field values for a dataset; by default the first one."""
        ...

    def plan(self, name: str, values: Values) -> ActionPlan:
        """Describe what the action will do.

        Raises:
            RefusedError: no such action, or a value is wrong.
        """
        ...

    def start(self, name: str, values: Values) -> JobView:
        """Start the action.

        Raises:
            RefusedError: as `plan`, or the same action is already running.
        """
        ...

    def jobs(self) -> list[JobView]:
        """The started jobs, newest first."""
        ...

    def stop(self, job_id: str) -> JobView:
        """Interrupt a job; the second call kills it.

        Raises:
            RefusedError: no such job.
        """
        ...

    def retry(self, job_id: str) -> JobView:
        """Start a job that failed or was stopped again, as a new job.

        Raises:
            RefusedError: no such job, it has not failed, or the same is running.
        """
        ...

    def job(self, job_id: str) -> JobView:
        """The job with this id.

        Raises:
            RefusedError: no such job.
        """
        ...


class Reports(Protocol):
    """The figures of the dashboard."""

    def overview(self) -> dict[str, Any]:
        """The fields of `Overview`."""
        ...


class Choices(Protocol):
    """Settings that may be changed while the workspace is in use."""

    def all(self) -> list[SettingView]:
        """All of them."""
        ...

    def change(self, by: Annotator | None, name: str, value: Any) -> None:
        """Change one; None: what the file says holds again.

        Raises:
            RefusedError: it cannot be changed here, or not to this value.
        """
        ...
