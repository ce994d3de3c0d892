"""`dataengine up`, `deploy` and `start`: services and Prefect deployments."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from flows.cli.commands import PRODUCTION, JsonOption, example, in_workspace, print_json
from flows.cli.job_options import JobName, shared_parameters, with_parameters
from flows.deploy.deployments import deploy_all
from flows.deploy.start import cancel, follow, parameters_of, print_line, start_run
from flows.prefect_api.client import connected
from flows.services.supervisor import (
    OPTIONAL,
    ServiceOptions,
    Supervisor,
    exclusive_services,
    run_services,
    stopped_by_signals,
)
from flows.workspace.console import console, errors
from flows.workspace.settings import find_workspace

app = typer.Typer(rich_markup_mode="markdown")


@app.command(
    rich_help_panel=PRODUCTION, epilog=example("dataengine deploy", "dataengine deploy --json")
)
def deploy(as_json: JsonOption = False) -> None:
    """Create the Prefect deployments of this workspace, or update them.

    They run in a work pool, on schedules (`dataengine schedule`) and on events: a round's queue
    drained, masks accepted or rejected, a model promoted. Schedules are not changed.
    """
    with in_workspace(as_json) as workspace:
        with connected(workspace.settings.root):
            rows = deploy_all(workspace)
    if as_json:
        print_json({"work_pool": workspace.settings.production.work_pool, "deployments": rows})
        return
    table = Table("name", "deployment", "started by")
    for row in rows:
        table.add_row(row["name"], row["deployment"], ", ".join(row["triggers"]))
    console.print(table)


@app.command(
    rich_help_panel=PRODUCTION,
    epilog=example(
        "dataengine start generate --dataset cells",
        "dataengine start retrain --dataset cells --no-follow --json",
    ),
)
@with_parameters(*shared_parameters(), before="wait")
def start(
    kind: Annotated[JobName, typer.Argument(help="The job to start.")],
    dataset: Annotated[str | None, typer.Option(help="Name of the dataset.")] = None,
    wait: Annotated[
        bool, typer.Option("--follow/--no-follow", help="Show its log until it ends.")
    ] = True,
    cancels: Annotated[
        bool, typer.Option("--cancel", help="Let Ctrl-C cancel the run, not only its log.")
    ] = False,
    as_json: JsonOption = False,
    **given: Any,
) -> None:
    """Start a job now: a worker of the work pool runs it, on whichever machine.

    Ctrl-C stops showing the log; the run continues, unless --cancel is given.
    """
    state = None
    with in_workspace(as_json) as workspace:
        parameters = parameters_of(kind, {"dataset": dataset, **given})
        if dataset is not None:
            workspace.catalog.datasets.get(dataset)  # raises if there is none
        pool = workspace.settings.production.work_pool
        with connected(workspace.settings.root):
            run_id = start_run(workspace, kind, parameters)
            try:
                print_line(f"flow run {run_id} in pool {pool!r}")
                if wait:
                    state = follow(run_id, pool)
            except KeyboardInterrupt:
                if not cancels:
                    errors.print("no longer followed; the run continues")
                    raise typer.Exit(130) from None
                print_line("cancelling the run; once more ends this log")
                cancel(run_id)
                state = follow(run_id, pool)
    if as_json:
        print_json({"flow_run": str(run_id), "kind": kind, "state": state})
    elif state is not None:
        console.print(f"{kind}: {state}")
    if state not in (None, "Completed"):
        raise typer.Exit(1)


WithoutOption = Annotated[
    list[str] | None,
    typer.Option("--without", help="page, postgres or s3; may be repeated."),
]


PortOption = Annotated[
    int | None,
    typer.Option(min=1, max=65535, help="By default that of the settings."),
]


@app.command(
    rich_help_panel=PRODUCTION,
    epilog=example("dataengine up", "dataengine up --without postgres --without s3 --json"),
)
def up(
    without: WithoutOption = None,
    page_port: PortOption = None,
    prefect_port: PortOption = None,
    s3_port: PortOption = None,
    as_json: JsonOption = False,
) -> None:
    """Start everything on this machine: PostgreSQL, S3, Prefect, a worker, the annotation page.

    Prints the address and health of each, and runs until Ctrl-C, which stops all. Data and logs
    stay in the workspace under `.services`. Other commands in the workspace use the services.
    """
    from flows.prefect_api.temporary_server import configure

    left_out = frozenset(without or [])
    if unknown := left_out - set(OPTIONAL):
        raise typer.BadParameter(
            f"services to leave out are {', '.join(OPTIONAL)}, not {', '.join(sorted(unknown))}",
            param_hint="--without",
        )
    root = find_workspace()
    configure(root)
    options = ServiceOptions(
        without=left_out, page_port=page_port, prefect_port=prefect_port, s3_port=s3_port
    )
    supervisor = Supervisor(root)
    with exclusive_services(root), stopped_by_signals(supervisor.stopping):
        try:
            with errors.status("starting services"):
                run_services(root, options, supervisor)
            if not supervisor.stopping.is_set():
                _print_services(supervisor, as_json)
                supervisor.watch()
        finally:
            with errors.status("stopping services"):
                supervisor.stop()
    errors.print("all services are stopped; the data is kept")


def _print_services(supervisor: Supervisor, as_json: bool) -> None:
    if as_json:
        print_json({"workspace": str(supervisor.root), "services": supervisor.rows()})
        sys.stdout.flush()
        return
    table = Table("service", "where", "health", "log", title=str(supervisor.root))
    for row in supervisor.rows():
        log = Path(row["log"]).relative_to(supervisor.root)
        table.add_row(row["service"], row["url"], f"[green]{row['health']}[/green]", str(log))
    console.print(table)
    console.print("Ctrl-C stops all services; no data is lost")
