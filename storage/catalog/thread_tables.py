"""Tables of what people say about images and masks, beside those in `tables`."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, Index
from sqlalchemy.orm import Mapped, mapped_column

from storage.catalog.columns import BIG_ID, MASK_ID, RUN_ID
from storage.catalog.tables import Base


class CommentRow(Base):
    __tablename__ = "comments"
    __table_args__ = (Index(None, "image_id", "id"), Index(None, "task_id"))

    id: Mapped[int] = mapped_column(BIG_ID, primary_key=True)
    dataset_id: Mapped[int] = mapped_column(ForeignKey("datasets.id"))
    image_id: Mapped[int] = mapped_column(BIG_ID, ForeignKey("images.id"))
    task_id: Mapped[int] = mapped_column(BIG_ID, ForeignKey("tasks.id"))
    mask_id: Mapped[str | None] = mapped_column(MASK_ID)
    x: Mapped[float | None]
    y: Mapped[float | None]
    author: Mapped[int] = mapped_column(ForeignKey("annotators.id"))
    text: Mapped[str]
    created_at: Mapped[datetime]
    resolved_at: Mapped[datetime | None]


class ConsensusRow(Base):
    """What several people's answers to one image came to. `people`: ids of the annotators;
    `merged`: ids of the masks that each merged mask is made of."""

    __tablename__ = "consensus"
    __table_args__ = (Index(None, "dataset_id", "round_id"),)

    task_id: Mapped[int] = mapped_column(BIG_ID, ForeignKey("tasks.id"), primary_key=True)
    dataset_id: Mapped[int] = mapped_column(ForeignKey("datasets.id"))
    round_id: Mapped[int | None] = mapped_column(ForeignKey("rounds.id"))
    people: Mapped[list[int]]
    f1: Mapped[float]
    iou: Mapped[float]
    review_run: Mapped[str | None] = mapped_column(RUN_ID)
    merged: Mapped[dict[str, Any]]
    created_at: Mapped[datetime]
