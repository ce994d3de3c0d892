"""Schedules: when Prefect starts the deployments by itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flows.deploy.deployments import DEPLOYMENTS, deploy_all, full_name
from flows.prefect_api.client import refused_in_a_line
from flows.workspace.settings import WorkspaceError

if TYPE_CHECKING:
    from uuid import UUID

    from flows.workspace.setting_sections import ProductionSettings
    from flows.workspace.workspace import Workspace


@dataclass(frozen=True, slots=True)
class Found:
    """A schedule of a deployment, as Prefect has it."""

    kind: str
    deployment_id: UUID
    schedule: Any

    @property
    def name(self) -> str:
        """What the user calls it."""
        return str(self.schedule.slug or self.schedule.id)


def add_schedule(
    workspace: Workspace,
    kind: str,
    when: Any,
    *,
    name: str | None = None,
    parameters: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Start a deployment at times from now on; a schedule of the same name is replaced.

    Args:
        workspace: whose deployment. kind: which, a name of DEPLOYMENTS.
        when: a schedule of Prefect's.
        name: of the schedule; by default what it starts, and the dataset.
        parameters: what the flow gets; None is left out.

    Raises:
        WorkspaceError: the version has no such deployment.
        BadNameError: no schedule can be named so.
        UnreachableError: no Prefect server.
    """
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import DeploymentScheduleCreate

    from storage.catalog import check_name

    chosen = workspace.settings.production
    given = {key: value for key, value in (parameters or {}).items() if value is not None}
    default = "-".join([kind, *([str(given["dataset"])] if "dataset" in given else [])])
    slug = check_name("schedule", default if name is None else name)
    if kind not in {row["name"] for row in deploy_all(workspace)}:
        raise WorkspaceError(f"this version has no {kind}")
    with get_client(sync_client=True) as client:
        deployment = client.read_deployment_by_name(full_name(kind, chosen))
        for old in found_schedules(chosen):
            if old.name == slug:
                client.delete_deployment_schedule(old.deployment_id, old.schedule.id)
        made = client.create_deployment_schedules(
            deployment.id, [DeploymentScheduleCreate(schedule=when, slug=slug, parameters=given)]
        )
    return schedule_row(Found(kind, deployment.id, made[0]))


def cron_schedule(cron: str, timezone: str) -> Any:
    from prefect.client.schemas.schedules import CronSchedule
    from pydantic import ValidationError

    if len(cron.split()) != 5:
        raise WorkspaceError(f'{cron!r} is not five fields of cron, such as "0 2 * * *"')
    try:
        return CronSchedule(cron=cron, timezone=timezone)
    except ValidationError as error:
        reason = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise WorkspaceError(f"{cron!r} in {timezone!r} is no schedule: {reason}") from error


def found_schedules(chosen: ProductionSettings) -> list[Found]:
    """All schedules of the workspace's deployments.

    Raises:
        UnreachableError: no Prefect server.
    """
    from prefect.client.orchestration import get_client
    from prefect.exceptions import ObjectNotFound

    found = []
    with refused_in_a_line(), get_client(sync_client=True) as client:
        for kind in DEPLOYMENTS:
            try:
                deployment = client.read_deployment_by_name(full_name(kind, chosen))
            except ObjectNotFound:
                continue
            for row in client.read_deployment_schedules(deployment.id):
                found.append(Found(kind, deployment.id, row))
    return found


def the_schedule(chosen: ProductionSettings, name: str) -> Found:
    """The schedule of that name.

    Raises:
        WorkspaceError: there is none; the message names those that there are.
        UnreachableError: no Prefect server.
    """
    found = found_schedules(chosen)
    for row in found:
        if row.name == name:
            return row
    names = ", ".join(sorted(row.name for row in found)) or "none"
    raise WorkspaceError(f"there is no schedule {name!r}; there are: {names}")


def schedule_row(found: Found) -> dict[str, Any]:
    when = found.schedule.schedule
    return {
        "name": found.name,
        "starts": found.kind,
        "cron": getattr(when, "cron", None) or str(when),
        "timezone": getattr(when, "timezone", None),
        "active": found.schedule.active,
        "parameters": found.schedule.parameters,
    }
