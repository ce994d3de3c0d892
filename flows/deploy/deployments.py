"""The steps as Prefect deployments in a work pool, with what triggers them.

`infra/prefect.yaml` says the same for `prefect deploy`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from flows.prefect_api import events
from flows.prefect_api.client import UnreachableError, refused_in_a_line

if TYPE_CHECKING:
    from flows.workspace.setting_sections import ProductionSettings
    from flows.workspace.workspace import Workspace


@dataclass(frozen=True, kw_only=True, slots=True)
class Trigger:
    """An event that starts a deployment."""

    event: str
    labels: dict[str, str] = field(default_factory=dict)
    """Of the event's resource, that have to be there too."""
    parameters: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Deployment:
    """A flow of `flows.deploy.prefect_flows` that Prefect starts."""

    function: str
    flow: str
    """The flow's name in Prefect."""
    triggers: tuple[Trigger, ...] = ()
    of_dataset: bool = True
    """Whether it needs `dataset`; others take it as a choice, or not at all."""
    options: tuple[str, ...] = ()
    """Parameters that a schedule may set."""


OF_ITS_DATASET = {"dataset": "{{ event.payload.dataset }}"}
IF_DUE = {**OF_ITS_DATASET, "only_if_due": True}

DEPLOYMENTS = {
    "generate": Deployment(
        function="generate_dataset", flow="generate-dataset", options=("dataset", "limit")
    ),
    "advance": Deployment(
        function="advance_loop",
        flow="advance-loop",
        of_dataset=False,
        options=("dataset",),
        triggers=(
            Trigger(
                event=events.ROUND_DRAINED,
                labels={"dataengine.annotator": "people"},  # others go on by themselves
                parameters=OF_ITS_DATASET,
            ),
        ),
    ),
    "retrain": Deployment(
        function="retrain_dataset",
        flow="retrain-dataset",
        options=("dataset",),
        triggers=(
            Trigger(event=events.MASKS_ACCEPTED, parameters=IF_DUE),
            Trigger(event=events.MASKS_REJECTED, parameters=IF_DUE),
        ),
    ),
    "review": Deployment(
        function="review_sample", flow="review-sample", options=("dataset", "images")
    ),
    "release": Deployment(function="release_dataset", flow="release-dataset", options=("dataset",)),
    "rescore": Deployment(
        function="rescore_masks",
        flow="rescore-masks",
        of_dataset=False,
        options=("dataset",),
        triggers=(Trigger(event=events.MODEL_PROMOTED),),
    ),
    "sweep": Deployment(function="sweep_workspace", flow="sweep-workspace", of_dataset=False),
}
"""By the names that `dataengine schedule` knows them by."""


def full_name(kind: str, chosen: ProductionSettings) -> str:
    """The deployment's name in Prefect."""
    return f"{DEPLOYMENTS[kind].flow}/{chosen.name}"


def deploy_all(workspace: Workspace) -> list[dict[str, Any]]:
    """Make the work pool and the deployments, or bring them up to date. Schedules stay.

    Returns:
        A row a deployment: `name`, `deployment`, `triggers`.

    Raises:
        UnreachableError: no Prefect server answers, or it has another workspace's deployments of
            this name.
    """
    chosen = workspace.settings.production
    with refused_in_a_line():
        _make_work_pool(chosen.work_pool)
        _check_owner(workspace)
        rows = []
        for kind, item in DEPLOYMENTS.items():
            _apply(workspace, item)
            rows.append(
                {
                    "name": kind,
                    "deployment": full_name(kind, chosen),
                    "triggers": [trigger.event for trigger in item.triggers],
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
            except ObjectAlreadyExists:  # another `deploy` was faster
                return


def _check_owner(workspace: Workspace) -> None:
    from prefect.client.orchestration import get_client
    from prefect.exceptions import ObjectNotFound

    chosen, root = workspace.settings.production, str(workspace.settings.root)
    with get_client(sync_client=True) as client:
        try:
            there = client.read_deployment_by_name(full_name("advance", chosen))
        except ObjectNotFound:
            return
    owner = there.parameters.get("workspace")
    if owner != root:
        raise UnreachableError(
            f"the Prefect server has deployments named {chosen.name!r} for {owner}; set another "
            "`name` under [production] in dataengine.toml"
        )


def _apply(workspace: Workspace, item: Deployment) -> None:
    from prefect.types.entrypoint import EntrypointType

    from flows.deploy import prefect_flows

    chosen = workspace.settings.production
    getattr(prefect_flows, item.function).to_deployment(
        chosen.name,
        parameters={"workspace": str(workspace.settings.root)},
        work_pool_name=chosen.work_pool,
        triggers=[_trigger(chosen, item, trigger) for trigger in item.triggers],
        entrypoint_type=EntrypointType.MODULE_PATH,
        tags=["dataengine"],
    ).apply()


def _trigger(chosen: ProductionSettings, item: Deployment, trigger: Trigger) -> Any:
    from prefect.events import DeploymentEventTrigger

    resource: dict[str, str | list[str]] = {
        "prefect.resource.id": f"dataengine.workspace.{chosen.name}",
        **trigger.labels,
    }
    return DeploymentEventTrigger(
        name=f"{chosen.name}: {trigger.event} -> {item.flow}",
        match=resource,
        expect={trigger.event},
        parameters=trigger.parameters or None,
    )
