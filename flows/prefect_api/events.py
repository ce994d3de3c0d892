"""Events that the app sends to Prefect, whose triggers start the next step, and to webhooks.

Events are hints: the catalog holds the state, and `dataengine advance` finds it there. So an event
that cannot be sent is logged, and raises nothing.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import httpx

from engine.core.events import (
    LABELS_GIVEN,
    MASKS_ACCEPTED,
    MASKS_REJECTED,
    MODEL_PROMOTED,
    ROUND_DRAINED,
    event_body,
)
from flows.prefect_api.client import api_url, login
from storage.catalog import CatalogError

if TYPE_CHECKING:
    from flows.workspace.workspace import Workspace

__all__ = [
    "LABELS_GIVEN",
    "MASKS_ACCEPTED",
    "MASKS_REJECTED",
    "MODEL_PROMOTED",
    "ROUND_DRAINED",
    "emit",
    "model_promoted",
    "round_drained",
]

SEND_SECONDS = 5.0

log = logging.getLogger("dataengine.events")


def round_drained(workspace: Workspace, round_id: int) -> bool:
    """Send that the last task of a round was submitted."""
    row = workspace.catalog.rounds.get(round_id)
    entry = workspace.catalog.loops.get(row.loop_id).plan[row.position]
    return emit(
        workspace,
        ROUND_DRAINED,
        {
            "dataset": workspace.catalog.datasets.get_by_id(row.dataset_id).name,
            "round": round_id,
            "stage": str(row.stage),
        },
        annotator=entry.annotator,
    )


def model_promoted(workspace: Workspace, version: str) -> bool:
    """Send that another model version became current."""
    return emit(workspace, MODEL_PROMOTED, {"version": version})


def emit(workspace: Workspace, event: str, payload: dict[str, Any], **labels: str) -> bool:
    """Send an event about the workspace to the Prefect server in use, if there is one, and queue it
    for the webhooks that want it, which servers of the page send.

    Args:
        workspace: its subject; triggers of its deployments match its name.
        event: name of the event.
        payload: JSON values; triggers pass some of them to the flow.
        labels: further labels that triggers can match.

    Returns:
        Whether a Prefect server accepted it.
    """
    _announce(workspace, event, payload)
    root = workspace.settings.root
    url = api_url(root)
    if url is None:
        return False
    resource = {
        "prefect.resource.id": f"dataengine.workspace.{workspace.settings.production.name}",
        "prefect.resource.name": root.name,
        **{f"dataengine.{name}": value for name, value in labels.items()},
    }
    body = {
        "id": str(uuid4()),
        "occurred": datetime.now(UTC).isoformat(),
        "event": event,
        "resource": resource,
        "payload": payload,
    }
    try:
        answer = httpx.post(f"{url}/events", json=[body], timeout=SEND_SECONDS, **login(root))
        answer.raise_for_status()
    except httpx.HTTPError as error:
        log.warning("event %s was not sent, `dataengine advance` catches up: %s", event, error)
        return False
    return True


def _announce(workspace: Workspace, event: str, payload: dict[str, Any]) -> None:
    """Queue the event for webhooks. What it reports has happened, so a failure is only logged."""
    data = {**payload, "workspace": workspace.settings.production.name}
    try:
        body = event_body(event, workspace.catalog.now(), data)
        workspace.catalog.webhooks.announce(event, body)
    except CatalogError as error:
        log.warning("event %s is not queued for webhooks: %s", event, error)
