"""Drafts: unfinished work on tasks, which survives a closed tab or a killed server."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Text, cast, delete, func, select, update
from sqlalchemy.orm import Session

from storage.catalog.errors import QuotaError, StaleStateError
from storage.catalog.sessions import Repository, count_changed, insert_new
from storage.catalog.tables import DraftRow

QUOTA = 128 << 20
"""Characters of JSON that the drafts of one annotator may take. One usually takes 100,000."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Draft:
    """An annotator's unfinished work on a task; only the page interprets `data`."""

    task_id: int
    annotator_id: int
    version: int
    data: dict[str, Any]
    updated_at: datetime


class Drafts(Repository):
    """Reached as `catalog.drafts`."""

    def get(self, task_id: int, annotator_id: int) -> Draft | None:
        """The annotator's draft of the task, or None."""
        return self._sessions.first(Draft, select(DraftRow).where(*_mine(task_id, annotator_id)))

    def has(self, task_id: int, annotator_id: int) -> bool:
        """Whether the annotator has a draft of the task."""
        query = select(DraftRow.version).where(*_mine(task_id, annotator_id))
        return self._sessions.value(query) is not None

    def keep(self, task_id: int, annotator_id: int, version: int, data: dict[str, Any]) -> None:
        """Replace the draft by a later version.

        Raises:
            StaleStateError: a draft of this version or a later one is stored.
            QuotaError: the annotator's drafts would exceed QUOTA.
            ConstraintError: no such task or annotator.
            ValueError: the data is not JSON.
        """
        values = {"version": version, "data": data, "updated_at": self._sessions.now()}
        with self._sessions.session() as session:
            keys = {"task_id": task_id, "annotator_id": annotator_id}
            if not insert_new(session, DraftRow, [keys | values]):
                later = update(DraftRow).where(DraftRow.version < version)
                mine = later.where(*_mine(task_id, annotator_id))
                if not count_changed(session, mine.values(**values)):
                    raise StaleStateError(
                        f"a draft of task {task_id} of version {version} or later is stored already"
                    )
            if _kept(session, annotator_id) > QUOTA:
                raise QuotaError(
                    f"your unfinished work takes over {QUOTA >> 20} MiB: submit some of it first"
                )
            session.commit()

    def drop(self, task_id: int) -> None:
        """Delete the drafts of a submitted task."""
        self._sessions.change(delete(DraftRow).where(DraftRow.task_id == task_id))


def _mine(task_id: int, annotator_id: int) -> tuple[ColumnElement[bool], ...]:
    return DraftRow.task_id == task_id, DraftRow.annotator_id == annotator_id


def _kept(session: Session, annotator_id: int) -> int:
    """Characters of JSON of all drafts of an annotator."""
    size = func.sum(func.length(cast(DraftRow.data, Text)))
    return session.scalar(select(size).where(DraftRow.annotator_id == annotator_id)) or 0
