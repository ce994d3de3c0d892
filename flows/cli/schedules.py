"""`dataengine schedule ...`: when Prefect starts the deployments by itself."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.table import Table

from flows.cli.commands import (
    ChoiceOption,
    DatasetOption,
    JsonOption,
    example,
    in_workspace,
    number,
    print_json,
)
from flows.deploy.schedules import (
    add_schedule,
    cron_schedule,
    found_schedules,
    schedule_row,
    the_schedule,
)
from flows.prefect_api.client import connected
from flows.workspace.console import console

app = typer.Typer(
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


def _add(
    kind: str, cron: str, name: str | None, timezone: str, as_json: bool, **given: Any
) -> None:
    with in_workspace(as_json) as workspace:
        when = cron_schedule(cron, timezone)
    with connected(workspace.settings.root):
        if given.get("dataset") is not None:
            workspace.catalog.datasets.get(given["dataset"])
        row = add_schedule(workspace, kind, when, name=name, parameters=given)
    if as_json:
        print_json(row)
    else:
        console.print(f"{row['name']}: {kind} at {cron} ({timezone})", markup=False)


@app.command(epilog=example('dataengine schedule generate --dataset cells --cron "0 2 * * *"'))
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


@app.command(epilog=example('dataengine schedule advance --cron "*/10 * * * *"'))
def advance(
    cron: CronOption,
    dataset: ChoiceOption = None,
    name: NameOption = None,
    timezone: ZoneOption = "UTC",
    as_json: JsonOption = False,
) -> None:
    """Take the loop's next step wherever nobody has to be waited for."""
    _add("advance", cron, name, timezone, as_json, dataset=dataset)


@app.command(epilog=example('dataengine schedule retrain --dataset cells --cron "0 3 * * 6"'))
def retrain(
    dataset: DatasetOption,
    cron: CronOption,
    name: NameOption = None,
    timezone: ZoneOption = "UTC",
    as_json: JsonOption = False,
) -> None:
    """Train a new model version; promote it if it is better."""
    _add("retrain", cron, name, timezone, as_json, dataset=dataset)


@app.command(epilog=example('dataengine schedule review --dataset cells --cron "0 7 * * 1"'))
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


@app.command(epilog=example('dataengine schedule release --dataset cells --cron "0 4 1 * *"'))
def release(
    dataset: DatasetOption,
    cron: CronOption,
    name: NameOption = None,
    timezone: ZoneOption = "UTC",
    as_json: JsonOption = False,
) -> None:
    """Make a release, named after the dataset and the time."""
    _add("release", cron, name, timezone, as_json, dataset=dataset)


@app.command(epilog=example('dataengine schedule sweep --cron "30 4 * * *"'))
def sweep(
    cron: CronOption,
    name: NameOption = None,
    timezone: ZoneOption = "UTC",
    as_json: JsonOption = False,
) -> None:
    """Remove what nothing refers to any more."""
    _add("sweep", cron, name, timezone, as_json)


@app.command("list", epilog=example("dataengine schedule list --json"))
def list_schedules(as_json: JsonOption = False) -> None:
    """What is started when."""
    with in_workspace(as_json) as workspace, connected(workspace.settings.root):
        rows = [schedule_row(row) for row in found_schedules(workspace.settings.production)]
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


@app.command(epilog=example("dataengine schedule pause generate-cells"))
def pause(name: NameArgument, as_json: JsonOption = False) -> None:
    """Start nothing by this schedule until it is resumed."""
    _set_active(name, False, as_json)


@app.command(epilog=example("dataengine schedule resume generate-cells"))
def resume(name: NameArgument, as_json: JsonOption = False) -> None:
    """Start by this schedule again, from its next time on."""
    _set_active(name, True, as_json)


@app.command(epilog=example("dataengine schedule remove generate-cells"))
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
