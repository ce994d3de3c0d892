"""The audit log: who did what at the annotation page, and what was refused."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import select

from storage.catalog.sessions import Repository
from storage.catalog.tables import AuditRow


@dataclass(frozen=True, kw_only=True, slots=True)
class AuditEntry:
    """One entry of the log."""

    id: int
    at: datetime
    annotator_id: int | None
    action: str
    subject: str
    detail: dict[str, Any]


class AuditLog(Repository):
    """Reached as `catalog.audit`. Append-only."""

    def add(
        self, action: str, subject: str = "", *, annotator_id: int | None = None, **detail: Any
    ) -> None:
        """Add an entry: `action` is a word, `subject` its object, `detail` is stored as JSON."""
        row = AuditRow(
            at=self._sessions.now(),
            annotator_id=annotator_id,
            action=action,
            subject=subject,
            detail=detail,
        )
        with self._sessions.session() as session:
            session.add(row)
            session.commit()

    def latest(self, limit: int = 100) -> list[AuditEntry]:
        """The last entries, newest first."""
        query = select(AuditRow).order_by(AuditRow.id.desc()).limit(limit)
        return self._sessions.records(AuditEntry, query)
