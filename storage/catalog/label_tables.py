"""Tables of categories and labels, beside those in `tables`."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, Index, String, text
from sqlalchemy.orm import Mapped, mapped_column

from storage.catalog.columns import BIG_ID, MASK_ID
from storage.catalog.states import LabelSource, LearnedKind
from storage.catalog.tables import Base

_CURRENT = text("superseded_by IS NULL")
_OF_TASK = text("task_id IS NOT NULL")


class CategoryListRow(Base):
    """A version of a dataset's category list; the highest is in use. `author`: name of the
    annotator who made it; NULL: a command or an import."""

    __tablename__ = "category_lists"

    dataset_id: Mapped[int] = mapped_column(ForeignKey("datasets.id"), primary_key=True)
    version: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    content: Mapped[dict[str, Any]]
    author: Mapped[str | None] = mapped_column(String(200))
    created_at: Mapped[datetime]


class LabelRow(Base):
    """A label of a mask. `category_id` NULL: it belongs to no category. `superseded_by`: id of the
    mask's next label; at most one label of a mask has none."""

    __tablename__ = "labels"
    __table_args__ = (
        Index(
            "uq_labels_one_current",
            "mask_id",
            unique=True,
            sqlite_where=_CURRENT,
            postgresql_where=_CURRENT,
        ),
        Index(
            "ix_labels_current",
            "dataset_id",
            "category_id",
            "id",
            sqlite_where=_CURRENT,
            postgresql_where=_CURRENT,
        ),
        Index(None, "image_id"),
        Index("ix_labels_task_id", "task_id", sqlite_where=_OF_TASK, postgresql_where=_OF_TASK),
    )

    id: Mapped[int] = mapped_column(BIG_ID, primary_key=True)
    mask_id: Mapped[str] = mapped_column(MASK_ID)
    image_id: Mapped[int] = mapped_column(BIG_ID, ForeignKey("images.id"))
    dataset_id: Mapped[int] = mapped_column(ForeignKey("datasets.id"))
    category_id: Mapped[int | None]
    source: Mapped[LabelSource]
    model: Mapped[str | None] = mapped_column(String(200))
    annotator_id: Mapped[int | None] = mapped_column(ForeignKey("annotators.id"))
    score: Mapped[float | None]
    seconds: Mapped[float | None]
    task_id: Mapped[int | None] = mapped_column(BIG_ID)
    superseded_by: Mapped[int | None] = mapped_column(BIG_ID)
    created_at: Mapped[datetime]


class SuggesterRow(Base):
    """A suggester of categories, or a trained CLIP. Of those of a kind that are promoted and not
    withdrawn, the last one is in use."""

    __tablename__ = "suggesters"
    __table_args__ = (Index(None, "dataset_id"),)

    version: Mapped[str] = mapped_column(String(200), primary_key=True)
    kind: Mapped[LearnedKind] = mapped_column(server_default=LearnedKind.SUGGESTER.value)
    dataset_id: Mapped[int] = mapped_column(ForeignKey("datasets.id"))
    encoder: Mapped[str] = mapped_column(String(200))
    key: Mapped[str]
    card: Mapped[dict[str, Any]]
    created_at: Mapped[datetime]
    promoted_at: Mapped[datetime | None]
    withdrawn_at: Mapped[datetime | None]
