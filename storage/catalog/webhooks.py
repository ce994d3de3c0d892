"""Webhooks, and events on their way to them: an outbox, from which any server of the page sends."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import delete, or_, select, update
from sqlalchemy.orm import Session

from storage.catalog.errors import NotFoundError
from storage.catalog.sessions import Repository, count_changed, new_id, to_record
from storage.catalog.states import DeliveryState
from storage.catalog.team_tables import DeliveryRow, WebhookRow

KEPT_DAYS = 30
"""How long ended deliveries are listed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Webhook:
    """An address that receives events, without its secret. `author`: name of the annotator who
    added it."""

    id: int
    url: str
    events: list[str]
    author: str | None
    created_at: datetime
    paused_at: datetime | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Delivery:
    """An event for a webhook. `status` and `error`: of the last attempt; `due_at`: when the next
    one is; `ended_at`: when it was delivered or given up."""

    id: int
    webhook_id: int
    event_id: str
    event: str
    payload: dict[str, Any]
    state: DeliveryState
    attempts: int
    due_at: datetime | None
    status: int | None
    error: str | None
    created_at: datetime
    ended_at: datetime | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Parcel:
    """A delivery to try now, with the address and the key that signs it."""

    delivery: Delivery
    url: str
    secret: str


class Webhooks(Repository):
    """Reached as `catalog.webhooks`."""

    def add(
        self, url: str, events: Collection[str], secret: str, *, author: str | None = None
    ) -> Webhook:
        """Add a webhook."""
        row = WebhookRow(
            url=url,
            events=sorted(set(events)),
            secret=secret,
            author=author,
            created_at=self._sessions.now(),
        )
        with self._sessions.session() as session:
            session.add(row)
            session.commit()
            return to_record(Webhook, row)

    def all(self) -> list[Webhook]:
        """All webhooks, oldest first."""
        return self._sessions.records(Webhook, select(WebhookRow).order_by(WebhookRow.id))

    def get(self, webhook_id: int) -> Webhook:
        """One of them.

        Raises:
            NotFoundError: no such webhook.
        """
        missing = NotFoundError(f"no webhook {webhook_id}")
        return self._sessions.get(Webhook, WebhookRow, webhook_id, missing)

    def pause(self, webhook_id: int, is_paused: bool) -> None:
        """Stop sending to a webhook, or go on with it. Events meanwhile are not kept for it.

        Raises:
            NotFoundError: no such webhook.
        """
        at = self._sessions.now() if is_paused else None
        done = update(WebhookRow).where(WebhookRow.id == webhook_id).values(paused_at=at)
        if not self._sessions.change(done):
            raise NotFoundError(f"no webhook {webhook_id}")

    def drop(self, webhook_id: int) -> None:
        """Delete a webhook with its deliveries.

        Raises:
            NotFoundError: no such webhook.
        """
        with self._sessions.session() as session:
            session.execute(delete(DeliveryRow).where(DeliveryRow.webhook_id == webhook_id))
            found = count_changed(session, delete(WebhookRow).where(WebhookRow.id == webhook_id))
            session.commit()
        if not found:
            raise NotFoundError(f"no webhook {webhook_id}")

    def announce(self, event: str, payload: dict[str, Any]) -> int:
        """Queue an event for every webhook that wants it and is not paused; returns for how many.
        Nothing is sent here."""
        event_id = new_id()
        with self._sessions.session() as session:
            awake = session.scalars(select(WebhookRow).where(WebhookRow.paused_at.is_(None)))
            wanting = [row.id for row in awake if event in row.events]
            for webhook_id in wanting:
                self._queue(session, webhook_id, event_id, event, payload)
            if wanting:
                self._forget_old(session)
            session.commit()
        return len(wanting)

    def queue(self, webhook_id: int, event: str, payload: dict[str, Any]) -> Delivery:
        """Queue an event for one webhook, whatever it wants.

        Raises:
            ConstraintError: no such webhook.
        """
        with self._sessions.session() as session:
            row = self._queue(session, webhook_id, new_id(), event, payload)
            session.commit()
            return to_record(Delivery, row)

    def again(self, delivery_id: int) -> Delivery:
        """Queue an ended delivery anew, with the same event id.

        Raises:
            NotFoundError: no such delivery that has ended.
        """
        with self._sessions.session() as session:
            old = session.get(DeliveryRow, delivery_id)
            if old is None or old.state == DeliveryState.WAITING:
                raise NotFoundError(f"no ended delivery {delivery_id}")
            row = self._queue(session, old.webhook_id, old.event_id, old.event, old.payload)
            session.commit()
            return to_record(Delivery, row)

    def deliveries(self, *, limit: int, webhook_id: int | None = None) -> list[Delivery]:
        """The latest deliveries, newest first."""
        query = select(DeliveryRow).order_by(DeliveryRow.id.desc()).limit(limit)
        if webhook_id is not None:
            query = query.where(DeliveryRow.webhook_id == webhook_id)
        return self._sessions.records(Delivery, query)

    def claim(self, seconds: float, *, limit: int) -> list[Parcel]:
        """Deliveries that are due, oldest first; for so many seconds nobody else gets them."""
        now = self._sessions.now()
        is_due = (
            DeliveryRow.state == DeliveryState.WAITING,
            DeliveryRow.due_at <= now,
            or_(DeliveryRow.claimed_until.is_(None), DeliveryRow.claimed_until <= now),
        )
        awake = select(DeliveryRow, WebhookRow).join(
            WebhookRow, WebhookRow.id == DeliveryRow.webhook_id
        )
        awake = awake.where(*is_due, WebhookRow.paused_at.is_(None)).order_by(DeliveryRow.due_at)
        with self._sessions.reading() as session:  # most looks find none, and take no lock
            if session.execute(awake.limit(1)).first() is None:
                return []
        parcels = []
        until = now + timedelta(seconds=seconds)
        with self._sessions.session() as session:
            for row, webhook in session.execute(awake.limit(limit)).all():
                mine = update(DeliveryRow).where(DeliveryRow.id == row.id, *is_due)
                if count_changed(session, mine.values(claimed_until=until)):
                    found = to_record(Delivery, row)
                    parcels.append(Parcel(delivery=found, url=webhook.url, secret=webhook.secret))
            session.commit()
        return parcels

    def tried(
        self,
        delivery_id: int,
        *,
        is_delivered: bool,
        status: int | None = None,
        error: str | None = None,
        retry_seconds: float | None = None,
    ) -> None:
        """Note an attempt. `retry_seconds`: until the next one; None: it is the last one."""
        now = self._sessions.now()
        is_over = is_delivered or retry_seconds is None
        state = DeliveryState.DELIVERED if is_delivered else DeliveryState.FAILED
        done = update(DeliveryRow).where(
            DeliveryRow.id == delivery_id, DeliveryRow.state == DeliveryState.WAITING
        )
        self._sessions.change(
            done.values(
                attempts=DeliveryRow.attempts + 1,
                status=status,
                error=error,
                claimed_until=None,
                state=state if is_over else DeliveryState.WAITING,
                due_at=None if is_over else now + timedelta(seconds=retry_seconds or 0),
                ended_at=now if is_over else None,
            )
        )

    def _queue(
        self, session: Session, webhook_id: int, event_id: str, event: str, payload: dict[str, Any]
    ) -> DeliveryRow:
        now = self._sessions.now()
        row = DeliveryRow(
            webhook_id=webhook_id,
            event_id=event_id,
            event=event,
            payload=payload,
            state=DeliveryState.WAITING,
            attempts=0,
            due_at=now,
            created_at=now,
        )
        session.add(row)
        return row

    def _forget_old(self, session: Session) -> None:
        before = self._sessions.now() - timedelta(days=KEPT_DAYS)
        session.execute(delete(DeliveryRow).where(DeliveryRow.ended_at < before))
