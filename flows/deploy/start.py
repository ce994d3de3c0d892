"""A deployment's flow, started now in the work pool and followed to its end."""

from __future__ import annotations

import inspect
import time
from typing import TYPE_CHECKING, Any, Literal
from uuid import UUID

import httpx

from flows.deploy.deployments import DEPLOYMENTS, full_name
from flows.prefect_api.client import LOOK_SECONDS, api_url, login
from flows.workspace.console import errors
from flows.workspace.settings import WorkspaceError

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

    from flows.workspace.workspace import Workspace

POLL_SECONDS = 1.0
PATIENCE_SECONDS = 15.0
"""How long a run may wait for a worker before that is said."""
LOG_LINES = 200
"""Read at a time; Prefect gives no more at once."""
LATE_LINES = 100
"""Of those that were read, how many may still get another before them: several processes log."""

Kind = Literal["generate", "advance", "retrain", "review", "release", "rescore", "sweep"]


def is_deployed(workspace: Workspace, kind: str) -> bool:
    """Whether the Prefect server in use has this deployment of this workspace."""
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
    """What the flow gets: what is given and not None.

    Raises:
        WorkspaceError: the flow has no such parameter, or needs a dataset.
        BadNameError: no release can be named so.
    """
    from flows.deploy import prefect_flows
    from storage.catalog import check_name

    flow = getattr(prefect_flows, DEPLOYMENTS[kind].function)
    known = set(inspect.signature(flow.fn).parameters) - {"workspace", "only_if_due"}
    chosen = {name: value for name, value in given.items() if value is not None}
    if wrong := sorted(set(chosen) - known):
        raise WorkspaceError(f"{kind} has no --{wrong[0]}")
    if DEPLOYMENTS[kind].of_dataset and "dataset" not in chosen:
        raise WorkspaceError(f"{kind} needs a --dataset")
    if kind == "release" and "name" in chosen:
        check_name("release", str(chosen["name"]))
    return chosen


def start_run(workspace: Workspace, kind: str, parameters: dict[str, Any]) -> UUID:
    """Hand a run to the work pool.

    Returns:
        The flow run's id.

    Raises:
        WorkspaceError: there is no such deployment.
        UnreachableError: no Prefect server.
    """
    from prefect.client.orchestration import get_client
    from prefect.exceptions import ObjectNotFound

    name = full_name(kind, workspace.settings.production)
    with get_client(sync_client=True) as client:
        try:
            deployment = client.read_deployment_by_name(name)
        except ObjectNotFound as error:
            raise WorkspaceError(f"no deployment {name}: give `dataengine deploy` first") from error
        run = client.create_flow_run_from_deployment(deployment.id, parameters=parameters)
    return run.id


def follow(run_id: UUID, pool: str) -> str:
    """Print what the run logs until it has ended, the first line of each entry.

    Returns:
        The name of its last state, such as `Completed` or `Crashed`.

    Raises:
        UnreachableError: the server went away; the run goes on.
    """
    from prefect.client.orchestration import get_client

    began, is_said, told = time.monotonic(), False, set[UUID]()
    with get_client(sync_client=True) as client:
        while True:
            state = client.read_flow_run(run_id).state
            if state is not None and state.is_final():
                time.sleep(2 * POLL_SECONDS)  # the last lines come after it
                _tell(client, run_id, told)
                if not state.is_completed() and state.message:
                    say(state.message)
                return str(state.name)
            _tell(client, run_id, told)
            waits = state is None or state.is_scheduled() or state.is_pending()
            if waits and not is_said and time.monotonic() - began > PATIENCE_SECONDS:
                say(f"waiting for a worker of pool {pool!r} (`dataengine doctor`)")
                is_said = True
            time.sleep(POLL_SECONDS)


def _tell(client: SyncPrefectClient, run_id: UUID, told: set[UUID]) -> None:
    """Print the entries that were not told yet."""
    from prefect.client.schemas.filters import LogFilter

    wanted = LogFilter.model_validate({"flow_run_id": {"any_": [str(run_id)]}})
    offset = max(0, len(told) - LATE_LINES)
    while entries := client.read_logs(wanted, limit=LOG_LINES, offset=offset):
        offset += len(entries)
        for entry in entries:
            if entry.id not in told:
                told.add(entry.id)
                first, *more = entry.message.splitlines() or [""]
                rest = f" (and {len(more)} lines: see the run in Prefect)" if more else ""
                say(f"{entry.timestamp:%H:%M:%S} {first}{rest}")


def say(line: str) -> None:
    """Print a line beside the result."""
    errors.print(line, markup=False, highlight=False, soft_wrap=True)
