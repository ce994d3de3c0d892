"""Webhooks as people in charge manage them. Every change is an entry of the audit log."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from urllib.parse import urlsplit

from engine.annotation.errors import RefusedError, invalid, not_found
from engine.annotation.webhook_schemas import (
    DeliveryView,
    MadeWebhook,
    NewWebhook,
    WebhooksView,
    WebhookView,
)
from engine.annotation.webhook_sending import (
    RefusedAddressError,
    WebhookSender,
    address_of,
    new_secret,
)
from engine.core.events import EVENTS, TEST, event_body
from storage.catalog import Annotator, Catalog, ConstraintError, Delivery, NotFoundError, Webhook

MAX_WEBHOOKS = 20
SHOWN = 50
"""Deliveries that are shown."""


class WebhookDesk:
    """Thread-safe. `by` is the admin who makes a change; None: a command."""

    def __init__(self, catalog: Catalog, sender: WebhookSender) -> None:
        self._catalog, self._sender = catalog, sender

    def view(self) -> WebhooksView:
        """All webhooks with the latest deliveries."""
        return WebhooksView(
            webhooks=[_view(one) for one in self._catalog.webhooks.all()],
            deliveries=[
                _delivery_view(one) for one in self._catalog.webhooks.deliveries(limit=SHOWN)
            ],
            events=EVENTS,
        )

    def add(self, by: Annotator | None, given: NewWebhook) -> MadeWebhook:
        """Add a webhook.

        Raises:
            RefusedError: its address is not allowed or not found, there is no such event, or there
                are too many webhooks.
        """
        if unknown := set(given.events) - EVENTS.keys():
            raise invalid(
                f"there is no event {sorted(unknown)[0]!r}; there are {', '.join(EVENTS)}"
            )
        if len(self._catalog.webhooks.all()) >= MAX_WEBHOOKS:
            raise RefusedError(409, "too_many", f"there are {MAX_WEBHOOKS} webhooks, the most")
        try:
            address_of(given.url, self._sender.allowed)
        except RefusedAddressError as error:
            raise invalid(str(error)) from error
        except OSError as error:
            raise invalid(f"the host of {given.url} is not found: {error}") from error
        secret, author = new_secret(), None if by is None else by.name
        made = self._catalog.webhooks.add(given.url, given.events, secret, author=author)
        self._log(by, "webhook_added", made, events=made.events)
        return MadeWebhook(secret=secret, view=_view(made))

    def pause(self, by: Annotator | None, webhook_id: int, is_paused: bool) -> None:
        """Send nothing to a webhook, or send again.

        Raises:
            RefusedError: no such webhook.
        """
        with _missing():
            self._catalog.webhooks.pause(webhook_id, is_paused)
            found = self._catalog.webhooks.get(webhook_id)
        self._log(by, "webhook_paused" if is_paused else "webhook_resumed", found)
        self._sender.wake()

    def drop(self, by: Annotator | None, webhook_id: int) -> None:
        """Delete a webhook.

        Raises:
            RefusedError: no such webhook.
        """
        with _missing():
            found = self._catalog.webhooks.get(webhook_id)
            self._catalog.webhooks.drop(webhook_id)
        self._log(by, "webhook_removed", found)

    def test(self, by: Annotator | None, webhook_id: int) -> DeliveryView:
        """Send a webhook an event that says nothing; its delivery shows whether it arrives.

        Raises:
            RefusedError: no such webhook, or it is paused.
        """
        with _missing():
            found = self._catalog.webhooks.get(webhook_id)
            if found.paused_at is not None:
                raise RefusedError(409, "paused", "this webhook is paused; resume it first")
            body = event_body(TEST, self._catalog.now(), {"webhook": webhook_id})
            queued = self._catalog.webhooks.queue(webhook_id, TEST, body)
        self._log(by, "webhook_tested", found)
        self._sender.wake()
        return _delivery_view(queued)

    def again(self, by: Annotator | None, delivery_id: int) -> DeliveryView:
        """Send an event that was delivered or given up once more, with the same id.

        Raises:
            RefusedError: no such delivery, or it still waits.
        """
        with _missing():
            queued = self._catalog.webhooks.again(delivery_id)
            found = self._catalog.webhooks.get(queued.webhook_id)
        self._log(by, "webhook_repeated", found, event=queued.event)
        self._sender.wake()
        return _delivery_view(queued)

    def _log(self, by: Annotator | None, action: str, webhook: Webhook, **detail: object) -> None:
        host = urlsplit(webhook.url).hostname or ""  # the path may have a secret
        annotator_id = None if by is None else by.id
        self._catalog.audit.add(
            action, host, annotator_id=annotator_id, webhook=webhook.id, **detail
        )


@contextmanager
def _missing() -> Iterator[None]:
    try:
        yield
    except (NotFoundError, ConstraintError) as error:
        raise not_found(f"{error}; it may have been deleted") from error


def _view(one: Webhook) -> WebhookView:
    return WebhookView(
        id=one.id,
        url=one.url,
        events=one.events,
        author=one.author,
        created_at=one.created_at,
        is_paused=one.paused_at is not None,
    )


def _delivery_view(one: Delivery) -> DeliveryView:
    return DeliveryView(**asdict(one))
