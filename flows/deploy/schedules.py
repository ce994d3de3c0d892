"""`dataengine schedule ...`: when Prefect starts the deployments by itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from flows.cli.console import JsonOption, console, example, in_workspace, number, print_json
from flows.deploy.deployments import DEPLOYMENTS, deploy_all, full_name
from flows.prefect_api.client import connected, refused_in_a_line
from flows.workspace.settings import WorkspaceError

if TYPE_CHECKING:
    from uuid import UUID

    from flows.workspace.settings import ProductionSettings
    from flows.workspace.workspace import Workspace

schedule = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="When generate, advance, retrain and so on start by themselves.",
    epilog=example("dataengine schedule list", 'dataengine schedule advance --cron "*/10 * * * *"'),
)

CronOption = Annotated[str, typer.Option(help='When: five fields of cron, e.g. "0 2 * * *".')]
NameOption = Annotated[
    str | None, typer.Option(help="Of the schedule; what it starts and the dataset by default.")
]
ZoneOption = Annotated[str, typer.Option("--timezone", help="What the times mean.")]
NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="Of the schedule.")]
DatasetOption = Annotated[str, typer.Option(help="Name of the dataset.")]
ChoiceOption = Annotated[str | None, typer.Option(help="Name of a dataset; all by default.")]


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
    return _row(Found(kind, deployment.id, made[0]))


def _cron(cron: str, timezone: str) -> Any:
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


def _row(found: Found) -> dict[str, Any]:
    when = found.schedule.schedule
    return {
        "name": found.name,
        "starts": found.kind,
        "cron": getattr(when, "cron", None) or str(when),
        "timezone": getattr(when, "timezone", None),
        "active": found.schedule.active,
        "parameters": found.schedule.parameters,
    }


def _add(
    kind: str, cron: str, name: str | None, timezone: str, as_json: bool, **given: Any
) -> None:
    with in_workspace(as_json) as workspace:
        when = _cron(cron, timezone)
    with connected(workspace.settings.root):
        if given.get("dataset") is not None:
            workspace.catalog.datasets.get(given["dataset"])
        row = add_schedule(workspace, kind, when, name=name, parameters=given)
    if as_json:
        print_json(row)
    else:
        console.print(f"{row['name']}: {kind} at {cron} ({timezone})", markup=False)


@schedule.command(epilog=example('dataengine schedule generate --dataset cells --cron "0 2 * * *"'))
def generate(
    dataset: DatasetOption,
    cron: CronOption,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many images.")] = None,
    name: NameOption = None,
    timezone: ZoneOption = "UTC",
    as_json: JsonOption = False,
) -> None:
    """Make masks in the images that have not been gone over yet (stage 3)."""
    _add("generate", cron, name, timezone, as_json, dataset=dataset, limit=limit)


@schedule.command(epilog=example('dataengine schedule advance --cron "*/10 * * * *"'))
def advance(
    cron: CronOption,
    dataset: ChoiceOption = None,
    name: NameOption = None,
    timezone: ZoneOption = "UTC",
    as_json: JsonOption = False,
) -> None:
    """Take the loop's next step wherever nobody has to be waited for."""
    _add("advance", cron, name, timezone, as_json, dataset=dataset)


@schedule.command(epilog=example('dataengine schedule retrain --dataset cells --cron "0 3 * * 6"'))
def retrain(
    dataset: DatasetOption,
    cron: CronOption,
    name: NameOption = None,
    timezone: ZoneOption = "UTC",
    as_json: JsonOption = False,
) -> None:
    """Train a new model version; promote it if it is better."""
    _add("retrain", cron, name, timezone, as_json, dataset=dataset)


@schedule.command(epilog=example('dataengine schedule review --dataset cells --cron "0 7 * * 1"'))
def review(
    dataset: DatasetOption,
    cron: CronOption,
    images: Annotated[int, typer.Option(min=1, help="Images to sample.")] = 20,
    name: NameOption = None,
    timezone: ZoneOption = "UTC",
    as_json: JsonOption = False,
) -> None:
    """Queue a sample of automatic masks for people to judge."""
    _add("review", cron, name, timezone, as_json, dataset=dataset, images=images)


@schedule.command(epilog=example('dataengine schedule release --dataset cells --cron "0 4 1 * *"'))
def release(
    dataset: DatasetOption,
    cron: CronOption,
    name: NameOption = None,
    timezone: ZoneOption = "UTC",
    as_json: JsonOption = False,
) -> None:
    """Make a release, named after the dataset and the time."""
    _add("release", cron, name, timezone, as_json, dataset=dataset)


@schedule.command(epilog=example('dataengine schedule sweep --cron "30 4 * * *"'))
def sweep(
    cron: CronOption,
    name: NameOption = None,
    timezone: ZoneOption = "UTC",
    as_json: JsonOption = False,
) -> None:
    """Remove what nothing refers to any more."""
    _add("sweep", cron, name, timezone, as_json)


@schedule.command("list", epilog=example("dataengine schedule list --json"))
def list_schedules(as_json: JsonOption = False) -> None:
    """What is started when."""
    with in_workspace(as_json) as workspace, connected(workspace.settings.root):
        rows = [_row(row) for row in found_schedules(workspace.settings.production)]
    if as_json:
        print_json({"schedules": rows})
        return
    table = Table("name", "starts", "cron", "zone", "", "with")
    for row in rows:
        told = ", ".join(f"{key} {value}" for key, value in row["parameters"].items())
        state = "" if row["active"] else "paused"
        table.add_row(row["name"], row["starts"], row["cron"], number(row["timezone"]), state, told)
    console.print(table)


def _set_active(name: str, active: bool, as_json: bool) -> None:
    with in_workspace(as_json) as workspace, connected(workspace.settings.root):
        from prefect.client.orchestration import get_client  # not before it is configured

        found = the_schedule(workspace.settings.production, name)
        with get_client(sync_client=True) as client:
            client.update_deployment_schedule(found.deployment_id, found.schedule.id, active=active)
    if as_json:
        print_json({"name": name, "active": active})
    else:
        console.print(f"{name} {'starts again' if active else 'is paused'}", markup=False)


@schedule.command(epilog=example("dataengine schedule pause generate-cells"))
def pause(name: NameArgument, as_json: JsonOption = False) -> None:
    """Start nothing by this schedule until it is resumed."""
    _set_active(name, False, as_json)


@schedule.command(epilog=example("dataengine schedule resume generate-cells"))
def resume(name: NameArgument, as_json: JsonOption = False) -> None:
    """Start by this schedule again, from its next time on."""
    _set_active(name, True, as_json)


@schedule.command(epilog=example("dataengine schedule remove generate-cells"))
def remove(name: NameArgument, as_json: JsonOption = False) -> None:
    """Forget a schedule. What it has started goes on."""
    with in_workspace(as_json) as workspace, connected(workspace.settings.root):
        from prefect.client.orchestration import get_client  # not before it is configured

        found = the_schedule(workspace.settings.production, name)
        with get_client(sync_client=True) as client:
            client.delete_deployment_schedule(found.deployment_id, found.schedule.id)
    if as_json:
        print_json({"name": name, "removed": True})
    else:
        console.print(f"{name} is removed", markup=False)
