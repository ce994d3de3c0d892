"""The schedules of the deployments: times at which Prefect starts them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flows.deploy.deployments import deploy_all, full_name
from flows.deploy.jobs import JOBS
from flows.prefect_api.client import errors_as_unreachable
from flows.workspace.settings import WorkspaceError

if TYPE_CHECKING:
    from uuid import UUID

    from flows.workspace.setting_sections import ProductionSettings
    from flows.workspace.workspace import Workspace


@dataclass(frozen=True, slots=True)
class DeployedSchedule:
    """A schedule of a deployment, as Prefect has it."""

    kind: str
    deployment_id: UUID
    schedule: Any

    @property
    def name(self) -> str:
        """The name that commands use."""
        return str(self.schedule.slug or self.schedule.id)


def add_schedule(
    workspace: Workspace,
    kind: str,
    when: Any,
    *,
    name: str | None = None,
    parameters: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Create a schedule of a deployment; one of the same name is replaced.

    Args:
        workspace: whose deployment.
        kind: the job, a name in JOBS.
        when: a Prefect schedule.
        name: of the schedule; by default the job's and the dataset's.
        parameters: of the flow; those that are None are left out.

    Raises:
        BadNameError: no schedule can have this name.
        UnreachableError: no Prefect server.
    """
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import DeploymentScheduleCreate

    from storage.catalog import check_name

    chosen = workspace.settings.production
    given = {key: value for key, value in (parameters or {}).items() if value is not None}
    default = "-".join([kind, *([str(given["dataset"])] if "dataset" in given else [])])
    slug = check_name("schedule", default if name is None else name)
    deploy_all(workspace)
    with get_client(sync_client=True) as client:
        deployment = client.read_deployment_by_name(full_name(kind, chosen))
        for old in found_schedules(chosen):
            if old.name == slug:
                client.delete_deployment_schedule(old.deployment_id, old.schedule.id)
        made = client.create_deployment_schedules(
            deployment.id, [DeploymentScheduleCreate(schedule=when, slug=slug, parameters=given)]
        )
    return schedule_row(DeployedSchedule(kind, deployment.id, made[0]))


def cron_schedule(cron: str, timezone: str) -> Any:
    """A Prefect schedule.

    Raises:
        WorkspaceError: `cron` is not five valid fields, or there is no such time zone.
    """
    from prefect.client.schemas.schedules import CronSchedule
    from pydantic import ValidationError

    if len(cron.split()) != 5:
        raise WorkspaceError(f'{cron!r} is not five fields of cron, such as "0 2 * * *"')
    try:
        return CronSchedule(cron=cron, timezone=timezone)
    except ValidationError as error:
        reason = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise WorkspaceError(
            f"{cron!r} in {timezone!r} is not a valid schedule: {reason}"
        ) from error


def found_schedules(chosen: ProductionSettings) -> list[DeployedSchedule]:
    """All schedules of the workspace's deployments.

    Raises:
        UnreachableError: no Prefect server.
    """
    from prefect.client.orchestration import get_client
    from prefect.exceptions import ObjectNotFound

    found = []
    with errors_as_unreachable(), get_client(sync_client=True) as client:
        for kind in JOBS:
            try:
                deployment = client.read_deployment_by_name(full_name(kind, chosen))
            except ObjectNotFound:
                continue
            for row in client.read_deployment_schedules(deployment.id):
                found.append(DeployedSchedule(kind, deployment.id, row))
    return found


def the_schedule(chosen: ProductionSettings, name: str) -> DeployedSchedule:
    """The schedule of that name.

    Raises:
        WorkspaceError: there is none; the message lists the existing ones.
        UnreachableError: no Prefect server.
    """
    found = found_schedules(chosen)
    for row in found:
        if row.name == name:
            return row
    names = ", ".join(sorted(row.name for row in found)) or "none"
    raise WorkspaceError(f"there is no schedule {name!r}; there are: {names}")


def schedule_row(found: DeployedSchedule) -> dict[str, Any]:
    """The schedule as JSON."""
    when = found.schedule.schedule
    return {
        "name": found.name,
        "starts": found.kind,
        "cron": getattr(when, "cron", None) or str(when),
        "timezone": getattr(when, "timezone", None),
        "active": found.schedule.active,
        "parameters": found.schedule.parameters,
    }
