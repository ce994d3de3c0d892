"""Tables of what people in charge decide on the page, beside those in `tables`."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, ForeignKey, Index, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from storage.catalog.columns import BIG_ID
from storage.catalog.states import DeliveryState
from storage.catalog.tables import Base


class GuidelinesRow(Base):
    """A version of a dataset's guidelines; the highest is in use. `author`: name of the annotator
    who wrote it; NULL: a command."""

    __tablename__ = "guidelines"
    __table_args__ = (UniqueConstraint("dataset_id", "version"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    dataset_id: Mapped[int] = mapped_column(ForeignKey("datasets.id"))
    version: Mapped[int]
    markdown: Mapped[str]
    author: Mapped[str | None] = mapped_column(String(200))
    created_at: Mapped[datetime]


class GuidelinePictureRow(Base):
    """A picture that a dataset's guidelines may show, by its name there. Never replaced."""

    __tablename__ = "guideline_pictures"

    dataset_id: Mapped[int] = mapped_column(ForeignKey("datasets.id"), primary_key=True)
    name: Mapped[str] = mapped_column(String(120), primary_key=True)
    key: Mapped[str]
    author: Mapped[str | None] = mapped_column(String(200))
    created_at: Mapped[datetime]


class SettingChangeRow(Base):
    """A change of a setting; the last one of a name holds. `value` NULL: what the file says."""

    __tablename__ = "setting_changes"
    __table_args__ = (Index(None, "name", "id"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(100))
    value: Mapped[Any | None] = mapped_column(JSON(none_as_null=True))
    author: Mapped[str | None] = mapped_column(String(200))
    created_at: Mapped[datetime]


class WebhookRow(Base):
    """An address that receives events. `secret` signs what is sent, so it is stored as it is."""

    __tablename__ = "webhooks"

    id: Mapped[int] = mapped_column(primary_key=True)
    url: Mapped[str]
    events: Mapped[list[str]] = mapped_column(JSON(none_as_null=True))
    secret: Mapped[str] = mapped_column(String(200))
    author: Mapped[str | None] = mapped_column(String(200))
    created_at: Mapped[datetime]
    paused_at: Mapped[datetime | None]


class DeliveryRow(Base):
    """An event for a webhook. `due_at`: when it is tried next; `claimed_until`: while somebody
    tries it."""

    __tablename__ = "webhook_deliveries"
    __table_args__ = (Index(None, "state", "due_at"), Index(None, "webhook_id", "id"))

    id: Mapped[int] = mapped_column(BIG_ID, primary_key=True)
    webhook_id: Mapped[int] = mapped_column(ForeignKey("webhooks.id"))
    event_id: Mapped[str] = mapped_column(String(32))
    event: Mapped[str] = mapped_column(String(100))
    payload: Mapped[dict[str, Any]]
    state: Mapped[DeliveryState]
    attempts: Mapped[int]
    due_at: Mapped[datetime | None]
    claimed_until: Mapped[datetime | None]
    status: Mapped[int | None]
    error: Mapped[str | None]
    created_at: Mapped[datetime]
    ended_at: Mapped[datetime | None]
