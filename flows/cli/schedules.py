"""`dataengine schedule ...`: times at which Prefect starts the jobs."""

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
from flows.cli.job_options import job_parameter, parameter, with_parameters
from flows.deploy.jobs import JOBS, JobDefinition, ScheduleCommand
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
    help="Schedules: times at which generate, advance, retrain and other jobs start.",
    epilog=example("dataengine schedule list", 'dataengine schedule advance --cron "*/10 * * * *"'),
)


CronOption = Annotated[
    str, typer.Option(help='When: five fields of cron, for example "0 2 * * *".')
]
NameOption = Annotated[
    str | None,
    typer.Option(help="Name of the schedule; by default the name of the job and the dataset."),
]
ZoneOption = Annotated[str, typer.Option("--timezone", help="Time zone of the times.")]
NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="Name of the schedule.")]


def _add_command(job: JobDefinition, schedule: ScheduleCommand) -> None:
    """Add `dataengine schedule JOB` to the commands."""
    options = [job_parameter(option) for option in job.options if option.in_schedules]
    if job.dataset == "required":
        options.insert(0, parameter("dataset", DatasetOption))
    elif job.dataset == "optional":
        options.insert(0, parameter("dataset", ChoiceOption, None))
    dataset = " --dataset cells" if job.dataset == "required" else ""
    line = f'dataengine schedule {job.name}{dataset} --cron "{schedule.example}"'

    @app.command(job.name, help=schedule.help, epilog=example(line))
    @with_parameters(*options, before="name")
    def add(
        cron: CronOption,
        name: NameOption = None,
        timezone: ZoneOption = "UTC",
        as_json: JsonOption = False,
        **given: Any,
    ) -> None:
        with in_workspace(as_json) as workspace:
            when = cron_schedule(cron, timezone)
        with connected(workspace.settings.root):
            if given.get("dataset") is not None:
                workspace.catalog.datasets.get(given["dataset"])
            row = add_schedule(workspace, job.name, when, name=name, parameters=given)
        if as_json:
            print_json(row)
        else:
            console.print(f"{row['name']}: {job.name} at {cron} ({timezone})", markup=False)


for _job in JOBS.values():
    if _job.schedule is not None:
        _add_command(_job, _job.schedule)


@app.command("list", epilog=example("dataengine schedule list --json"))
def list_schedules(as_json: JsonOption = False) -> None:
    """List the schedules."""
    with in_workspace(as_json) as workspace, connected(workspace.settings.root):
        rows = [schedule_row(row) for row in found_schedules(workspace.settings.production)]
    if as_json:
        print_json({"schedules": rows})
        return
    table = Table("name", "starts", "cron", "zone", "", "with")
    for row in rows:
        parameters = ", ".join(f"{key} {value}" for key, value in row["parameters"].items())
        state = "" if row["active"] else "paused"
        table.add_row(
            row["name"], row["starts"], row["cron"], number(row["timezone"]), state, parameters
        )
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
    """Pause a schedule: it starts nothing until it is resumed."""
    _set_active(name, False, as_json)


@app.command(epilog=example("dataengine schedule resume generate-cells"))
def resume(name: NameArgument, as_json: JsonOption = False) -> None:
    """Resume a paused schedule, from its next time on."""
    _set_active(name, True, as_json)


@app.command(epilog=example("dataengine schedule remove generate-cells"))
def remove(name: NameArgument, as_json: JsonOption = False) -> None:
    """Remove a schedule. Runs that it has started continue."""
    with in_workspace(as_json) as workspace, connected(workspace.settings.root):
        from prefect.client.orchestration import get_client  # not before it is configured

        found = the_schedule(workspace.settings.production, name)
        with get_client(sync_client=True) as client:
            client.delete_deployment_schedule(found.deployment_id, found.schedule.id)
    if as_json:
        print_json({"name": name, "removed": True})
    else:
        console.print(f"{name} is removed", markup=False)
