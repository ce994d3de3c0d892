"""Names of the events that other systems are told of."""

from __future__ import annotations

from datetime import datetime
from typing import Any

ROUND_DRAINED = "dataengine.round.drained"
MASKS_ACCEPTED = "dataengine.masks.accepted"
MASKS_REJECTED = "dataengine.masks.rejected-in-a-row"
LABELS_GIVEN = "dataengine.labels.given"
MODEL_PROMOTED = "dataengine.model.promoted"
TEST = "dataengine.test"
"""Sent to one webhook, to see whether it arrives."""

EVENTS = {
    ROUND_DRAINED: "the last task of a round was submitted",
    MASKS_ACCEPTED: "enough masks were accepted for a retrain",
    MASKS_REJECTED: "enough masks were rejected in a row for a retrain",
    LABELS_GIVEN: "enough labels were given to learn the categories again",
    MODEL_PROMOTED: "another model version became current",
}
"""What each says."""


def event_body(event: str, at: datetime, data: dict[str, Any]) -> dict[str, Any]:
    """The body of a request about an event: its name, its time, and JSON values."""
    return {"type": event, "timestamp": at.isoformat(), "data": data}
