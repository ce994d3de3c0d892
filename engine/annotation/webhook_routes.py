"""The HTTP interface of webhooks, for admins; see `routes`."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Request

from engine.annotation.admission import GuardedRoute, admits
from engine.annotation.routes import CHANGES, READS, WORDS
from engine.annotation.team_routes import Admin, RowId
from engine.annotation.webhook_desk import WebhookDesk
from engine.annotation.webhook_schemas import DeliveryView, MadeWebhook, NewWebhook, WebhooksView

router = APIRouter(route_class=GuardedRoute)
DeliveryId = Annotated[int, Path(ge=1, lt=2**63)]


def desk_of(request: Request) -> WebhookDesk:
    """The app's webhooks."""
    found: WebhookDesk = request.app.state.webhooks
    return found


Desk = Annotated[WebhookDesk, Depends(desk_of)]


@router.get("")
@admits("admin", READS)
def webhooks(desk: Desk) -> WebhooksView:
    """All webhooks, the latest deliveries, and the events there are."""
    return desk.view()


@router.post("")
@admits("admin", CHANGES, max_body=WORDS)
def add(given: NewWebhook, by: Admin, desk: Desk) -> MadeWebhook:
    """Add a webhook; the response has the secret that signs what it gets."""
    return desk.add(by.annotator, given)


@router.post("/{webhook_id}/pause", status_code=204)
@admits("admin", CHANGES)
def pause(webhook_id: RowId, by: Admin, desk: Desk) -> None:
    """Send a webhook nothing until it is resumed."""
    desk.pause(by.annotator, webhook_id, True)


@router.post("/{webhook_id}/resume", status_code=204)
@admits("admin", CHANGES)
def resume(webhook_id: RowId, by: Admin, desk: Desk) -> None:
    """Send a paused webhook events again."""
    desk.pause(by.annotator, webhook_id, False)


@router.post("/{webhook_id}/remove", status_code=204)
@admits("admin", CHANGES)
def remove(webhook_id: RowId, by: Admin, desk: Desk) -> None:
    """Delete a webhook."""
    desk.drop(by.annotator, webhook_id)


@router.post("/{webhook_id}/test")
@admits("admin", CHANGES)
def test(webhook_id: RowId, by: Admin, desk: Desk) -> DeliveryView:
    """Send a webhook an event that says nothing."""
    return desk.test(by.annotator, webhook_id)


@router.post("/deliveries/{delivery_id}/again")
@admits("admin", CHANGES)
def again(delivery_id: DeliveryId, by: Admin, desk: Desk) -> DeliveryView:
    """Send an event that was delivered or given up once more."""
    return desk.again(by.annotator, delivery_id)
