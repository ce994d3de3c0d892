"""Registers the jobs as Prefect deployments in a work pool, with the events that trigger them."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from flows.deploy.jobs import JOBS, JobDefinition, Trigger
from flows.prefect_api.client import UnreachableError, errors_as_unreachable

if TYPE_CHECKING:
    from flows.workspace.setting_sections import ProductionSettings
    from flows.workspace.workspace import Workspace


def full_name(kind: str, chosen: ProductionSettings) -> str:
    """The deployment's name in Prefect."""
    return f"{JOBS[kind].flow_name}/{chosen.name}"


def deploy_all(workspace: Workspace) -> list[dict[str, Any]]:
    """Create the work pool and the deployments, or update them: their work pool, triggers and
    import paths, also those that an older version has stored. Schedules are not changed.

    Returns:
        One row per deployment: `name`, `deployment`, `triggers`.

    Raises:
        UnreachableError: no Prefect server answers, or it has another workspace's deployments of
            this name.
    """
    chosen = workspace.settings.production
    with errors_as_unreachable():
        _make_work_pool(chosen.work_pool)
        _check_owner(workspace)
        rows = []
        for name, job in JOBS.items():
            _apply(workspace, job)
            rows.append(
                {
                    "name": name,
                    "deployment": full_name(name, chosen),
                    "triggers": [trigger.event for trigger in job.triggers],
                }
            )
    return rows


def _make_work_pool(name: str) -> None:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound

    with get_client(sync_client=True) as client:
        try:
            client.read_work_pool(name)
        except ObjectNotFound:
            try:
                client.create_work_pool(WorkPoolCreate(name=name, type="process"))
            except ObjectAlreadyExists:  # another `deploy` has just created it
                return


def _check_owner(workspace: Workspace) -> None:
    from prefect.client.orchestration import get_client
    from prefect.exceptions import ObjectNotFound

    chosen, root = workspace.settings.production, str(workspace.settings.root)
    with get_client(sync_client=True) as client:
        try:
            found = client.read_deployment_by_name(full_name("advance", chosen))
        except ObjectNotFound:
            return
    owner = found.parameters.get("workspace")
    if owner != root:
        raise UnreachableError(
            f"the Prefect server has deployments named {chosen.name!r} for {owner}; set another "
            "`name` under [production] in dataengine.toml"
        )


def flow_of(job: JobDefinition) -> Any:
    """The job's Prefect flow; loads Prefect."""
    module, _, function = job.entrypoint.rpartition(".")
    return getattr(import_module(module), function)


def _apply(workspace: Workspace, job: JobDefinition) -> None:
    from prefect.types.entrypoint import EntrypointType

    chosen = workspace.settings.production
    flow_of(job).to_deployment(
        chosen.name,
        parameters={"workspace": str(workspace.settings.root)},
        work_pool_name=chosen.work_pool,
        triggers=[_event_trigger(chosen, job, trigger) for trigger in job.triggers],
        entrypoint_type=EntrypointType.MODULE_PATH,
        tags=["dataengine"],
    ).apply()


def _event_trigger(chosen: ProductionSettings, job: JobDefinition, trigger: Trigger) -> Any:
    from prefect.events import DeploymentEventTrigger

    resource: dict[str, str | list[str]] = {
        "prefect.resource.id": f"dataengine.workspace.{chosen.name}",
        **trigger.labels,
    }
    return DeploymentEventTrigger(
        name=f"{chosen.name}: {trigger.event} -> {job.flow_name}",
        match=resource,
        expect={trigger.event},
        parameters=trigger.parameters or None,
    )
