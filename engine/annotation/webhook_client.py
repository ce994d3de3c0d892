"""The part of the client that manages webhooks, for admins."""

from __future__ import annotations

from collections.abc import Callable, Collection

import httpx

from engine.annotation.webhook_schemas import DeliveryView, MadeWebhook, WebhooksView


class WebhookClient:
    """Reached as `client.webhooks`; methods raise as those of the client."""

    def __init__(self, send: Callable[..., httpx.Response]) -> None:
        self._send = send

    def view(self) -> WebhooksView:
        """All webhooks, the latest deliveries, and the events there are."""
        return WebhooksView.model_validate_json(self._send("GET", "/api/webhooks").content)

    def add(self, url: str, events: Collection[str]) -> MadeWebhook:
        """Add a webhook; returns the secret that signs what it gets."""
        body = {"url": url, "events": list(events)}
        return MadeWebhook.model_validate_json(self._send("POST", "/api/webhooks", body).content)

    def pause(self, webhook_id: int) -> None:
        """Send a webhook nothing until it is resumed."""
        self._send("POST", f"/api/webhooks/{webhook_id}/pause")

    def resume(self, webhook_id: int) -> None:
        """Send a paused webhook events again."""
        self._send("POST", f"/api/webhooks/{webhook_id}/resume")

    def remove(self, webhook_id: int) -> None:
        """Delete a webhook."""
        self._send("POST", f"/api/webhooks/{webhook_id}/remove")

    def test(self, webhook_id: int) -> DeliveryView:
        """Send a webhook an event that says nothing."""
        answer = self._send("POST", f"/api/webhooks/{webhook_id}/test")
        return DeliveryView.model_validate_json(answer.content)

    def again(self, delivery_id: int) -> DeliveryView:
        """Send an event that was delivered or given up once more."""
        answer = self._send("POST", f"/api/webhooks/deliveries/{delivery_id}/again")
        return DeliveryView.model_validate_json(answer.content)
