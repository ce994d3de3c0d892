"""The registry of jobs, with a Prefect server of its own: an added job, and deployments of an
earlier version."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.settings import PREFECT_API_URL

from flows.deploy.deployments import deploy_all, full_name
from flows.deploy.jobs import JOBS
from flows.deploy.schedules import cron_schedule, found_schedules
from flows.prefect_api import temporary_server
from flows.prefect_api.client import auth_string
from flows.workspace.workspace import Workspace
from tests.flows.conftest import make_workspace
from tests.production.made_up_job import NAME

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    """A workspace with a dataset `d`, and an empty Prefect server."""
    made = make_workspace(tmp_path_factory.mktemp("jobs") / "ws")
    made.catalog.datasets.get_or_create("d")
    with temporary_server.server(made.settings.root):
        yield made


def environment_of(workspace: Workspace) -> dict[str, str]:
    """For processes that use this process's server."""
    server = {
        "PREFECT_API_URL": str(PREFECT_API_URL.value()),
        "PREFECT_API_AUTH_STRING": auth_string(workspace.settings.root),
        "PYTHONPATH": str(REPOSITORY),
        "COLUMNS": "300",
    }
    return {**os.environ, **server}


def with_the_made_up_job(workspace: Workspace, *commands: list[str]) -> dict[str, Any]:
    """The output of commands in a process whose registry has an additional job, and the job's
    button."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.production.made_up_job", json.dumps(commands)],
        cwd=workspace.settings.root,
        env=environment_of(workspace),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def deployment(name: str) -> Any:
    """The deployment as Prefect stores it."""
    with get_client(sync_client=True) as client:
        return client.read_deployment_by_name(name)


def test_a_job_that_is_added_is_a_command_a_deployment_and_a_button(workspace: Workspace) -> None:
    assert NAME not in JOBS
    given = [NAME, "--dataset", "d", "--shades", "2", "--json"]
    found = with_the_made_up_job(
        workspace,
        ["start", "--help"],
        ["schedule", "--help"],
        ["schedule", *given, "--cron", "0 5 * * *"],
        ["start", *given, "--no-follow"],
    )
    start, schedules, schedule, started = found["printed"]
    assert f"{NAME}: shades to tell apart." in start
    assert "Count the images by their shade." in schedules
    row = json.loads(schedule)
    assert (row["starts"], row["parameters"]) == (NAME, {"dataset": "d", "shades": 2})
    made = deployment(f"count-images/{workspace.settings.production.name}")
    assert made.entrypoint == "tests.production.made_up_job.count_images"
    with get_client(sync_client=True) as client:
        run = client.read_flow_run(json.loads(started)["flow_run"])
        triggers = client.read_resource_related_automations(f"prefect.deployment.{made.id}")
    assert (run.deployment_id, run.parameters["shades"]) == (made.id, 2)
    assert [row.name for row in triggers] == ["dataengine: dataengine.images.added -> count-images"]
    assert found["page"] == {
        "title": "Count images",
        "plan": "Count the images of d.",
        "command": f"dataengine start {NAME} --dataset d --shades 4 --cancel",
    }


def test_deploy_again_mends_deployments_of_the_version_before(workspace: Workspace) -> None:
    chosen, root = workspace.settings.production, str(workspace.settings.root)
    deploy_all(workspace)  # the work pool
    made = {name: deployment(full_name(name, chosen)) for name in JOBS}
    with get_client(sync_client=True) as client:
        for name, job in JOBS.items():  # as `deploy` created them before `flows` had folders
            client.create_deployment(
                flow_id=made[name].flow_id,
                name=chosen.name,
                entrypoint=f"flows.deployed.{job.entrypoint.rpartition('.')[2]}",
                parameters={"workspace": root},
                work_pool_name=chosen.work_pool,
            )
        nightly = DeploymentScheduleCreate(schedule=cron_schedule("30 4 * * *", "UTC"), slug="old")
        client.create_deployment_schedules(made["sweep"].id, [nightly])
    assert deployment(full_name("sweep", chosen)).entrypoint == "flows.deployed.sweep_workspace"
    deploy_all(workspace)
    for name, job in JOBS.items():
        mended = deployment(full_name(name, chosen))
        assert (mended.id, mended.entrypoint) == (made[name].id, job.entrypoint)
    assert [row.name for row in found_schedules(chosen)] == ["old"]


def test_ctrl_c_cancels_a_run_if_it_is_to_and_else_ends_the_log_alone(workspace: Workspace) -> None:
    deploy_all(workspace)
    states = {}
    for option in ("--cancel", "--follow"):
        command = subprocess.Popen(
            [sys.executable, "-m", "flows.cli.main", "start", "sweep", option],
            cwd=workspace.settings.root,
            env=environment_of(workspace),
            stderr=subprocess.PIPE,
            text=True,
            # a test that was started in the background ignores the signal, and its children too
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        assert command.stderr is not None
        run_id = next(line.split()[2] for line in command.stderr if line.startswith("flow run"))
        command.send_signal(signal.SIGINT)
        rest = command.stderr.read()
        command.wait(60)
        with get_client(sync_client=True) as client:
            states[option] = str(client.read_flow_run(UUID(run_id)).state_name)
        assert ("cancelling" in rest) == (option == "--cancel")
        assert command.returncode == (1 if option == "--cancel" else 130)
    assert states["--cancel"] == "Cancelled"
    assert states["--follow"] in ("Scheduled", "Late")
