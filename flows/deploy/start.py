"""Starts a job in the work pool, and prints its log until it ends."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any
from uuid import UUID

import httpx

from flows.deploy.deployments import full_name
from flows.deploy.jobs import JOBS
from flows.prefect_api.client import LOOK_SECONDS, api_url, login
from flows.workspace.console import errors
from flows.workspace.settings import WorkspaceError

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

    from flows.workspace.workspace import Workspace

POLL_SECONDS = 1.0
WAITING_SECONDS = 15.0
"""How long a run may wait for a worker before a message says so."""
LOG_LINES = 200
"""Entries per request; Prefect returns no more."""
LATE_LINES = 100
"""How many of the latest entries are read again: several processes log, so entries may arrive
late."""


def is_deployed(workspace: Workspace, kind: str) -> bool:
    """Whether the Prefect server in use has this workspace's deployment of the job."""
    root = workspace.settings.root
    if (url := api_url(root)) is None:
        return False
    name = full_name(kind, workspace.settings.production)
    try:
        answer = httpx.get(f"{url}/deployments/name/{name}", timeout=LOOK_SECONDS, **login(root))
    except httpx.HTTPError:
        return False
    return answer.is_success and answer.json()["parameters"].get("workspace") == str(root)


def parameters_of(kind: str, given: dict[str, Any]) -> dict[str, Any]:
    """The parameters of the job's flow: what is given and not None.

    Raises:
        WorkspaceError: the job has no such option, or needs a dataset.
        BadNameError: no release can have this name.
    """
    from storage.catalog import check_name

    job = JOBS[kind]
    chosen = {name: value for name, value in given.items() if value is not None}
    if unknown := sorted(set(chosen) - set(job.option_names)):
        raise WorkspaceError(f"{kind} has no --{unknown[0]}")
    if job.dataset == "required" and "dataset" not in chosen:
        raise WorkspaceError(f"{kind} needs a --dataset")
    if kind == "release" and "name" in chosen:
        check_name("release", str(chosen["name"]))
    return chosen


def start_run(workspace: Workspace, kind: str, parameters: dict[str, Any]) -> UUID:
    """Start a run in the work pool.

    Returns:
        The flow run's id.

    Raises:
        WorkspaceError: the job is not deployed.
        UnreachableError: no Prefect server.
    """
    from prefect.client.orchestration import get_client
    from prefect.exceptions import ObjectNotFound

    name = full_name(kind, workspace.settings.production)
    with get_client(sync_client=True) as client:
        try:
            deployment = client.read_deployment_by_name(name)
        except ObjectNotFound as error:
            raise WorkspaceError(f"no deployment {name}: run `dataengine deploy` first") from error
        run = client.create_flow_run_from_deployment(deployment.id, parameters=parameters)
    return run.id


def cancel(run_id: UUID) -> None:
    """Ask for the end of a run: its worker stops it; one that no worker has taken ends at once.

    Raises:
        UnreachableError: the server does not answer.
    """
    from prefect.client.orchestration import get_client
    from prefect.states import Cancelling

    with get_client(sync_client=True) as client:
        client.set_flow_run_state(run_id, Cancelling())


def follow(run_id: UUID, pool: str) -> str:
    """Print the run's log until it ends, the first line of each entry.

    Returns:
        The name of its last state, such as `Completed` or `Crashed`.

    Raises:
        UnreachableError: the server no longer answers; the run continues.
    """
    from prefect.client.orchestration import get_client

    began, is_warned, printed = time.monotonic(), False, set[UUID]()
    with get_client(sync_client=True) as client:
        while True:
            state = client.read_flow_run(run_id).state
            if state is not None and state.is_final():
                time.sleep(2 * POLL_SECONDS)  # the last entries arrive later
                _print_new_entries(client, run_id, printed)
                if not state.is_completed() and state.message:
                    print_line(state.message)
                return str(state.name)
            _print_new_entries(client, run_id, printed)
            waits = state is None or state.is_scheduled() or state.is_pending()
            if waits and not is_warned and time.monotonic() - began > WAITING_SECONDS:
                print_line(f"waiting for a worker of pool {pool!r} (`dataengine doctor`)")
                is_warned = True
            time.sleep(POLL_SECONDS)


def _print_new_entries(client: SyncPrefectClient, run_id: UUID, printed: set[UUID]) -> None:
    """Print the entries whose ids are not in `printed`, and add them."""
    from prefect.client.schemas.filters import LogFilter

    of_run = LogFilter.model_validate({"flow_run_id": {"any_": [str(run_id)]}})
    offset = max(0, len(printed) - LATE_LINES)
    while entries := client.read_logs(of_run, limit=LOG_LINES, offset=offset):
        offset += len(entries)
        for entry in entries:
            if entry.id not in printed:
                printed.add(entry.id)
                first, *more = entry.message.splitlines() or [""]
                rest = f" (and {len(more)} lines: see the run in Prefect)" if more else ""
                print_line(f"{entry.timestamp:%H:%M:%S} {first}{rest}")


def print_line(line: str) -> None:
    """Print a line on standard error."""
    errors.print(line, markup=False, highlight=False, soft_wrap=True)
