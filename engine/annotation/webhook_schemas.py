"""Requests and responses about webhooks; see `schemas`."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import Field

from engine.annotation.schemas import PLAIN, Id, Schema
from engine.annotation.webhook_sending import MAX_URL


class NewWebhook(Schema):
    """An address to tell of these events."""

    url: Annotated[str, Field(min_length=1, max_length=MAX_URL, pattern=PLAIN)]
    events: Annotated[list[Id], Field(min_length=1, max_length=20)]


class WebhookView(Schema):
    """A webhook. `author`: who added it."""

    id: int
    url: str
    events: list[str]
    author: str | None
    created_at: datetime
    is_paused: bool


class MadeWebhook(Schema):
    """A new webhook with the secret that signs what it gets, shown this once."""

    secret: str
    view: WebhookView


class DeliveryView(Schema):
    """An event that was or is to be sent. `status` (of HTTP) and `error`: of the last attempt;
    `due_at`: when it is tried next; `ended_at`: when it was delivered or given up."""

    id: int
    webhook_id: int
    event_id: str
    event: str
    payload: dict[str, Any]
    state: Literal["waiting", "delivered", "failed"]
    attempts: int
    due_at: datetime | None
    status: int | None
    error: str | None
    created_at: datetime
    ended_at: datetime | None


class WebhooksView(Schema):
    """All webhooks, the latest deliveries, newest first, and what each event says, by name."""

    webhooks: list[WebhookView]
    deliveries: list[DeliveryView]
    events: dict[str, str]
