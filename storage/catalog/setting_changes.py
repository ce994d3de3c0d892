"""Settings that people in charge have changed on the page, with who and when."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import func, select

from storage.catalog.sessions import Repository
from storage.catalog.team_tables import SettingChangeRow


@dataclass(frozen=True, kw_only=True, slots=True)
class SettingChange:
    """A change. `name`: section and name with a dot between; `value` None: what the file says
    holds again. `author`: name of the annotator."""

    id: int
    name: str
    value: Any
    author: str | None
    created_at: datetime


class SettingChanges(Repository):
    """Reached as `catalog.setting_changes`. Append-only."""

    def add(self, name: str, value: Any, *, author: str | None = None) -> None:
        """Add a change.

        Raises:
            ValueError: the value cannot be stored as JSON.
        """
        row = SettingChangeRow(
            name=name, value=value, author=author, created_at=self._sessions.now()
        )
        with self._sessions.session() as session:
            session.add(row)
            session.commit()

    def latest(self) -> dict[str, SettingChange]:
        """The last change of each setting that was ever changed, by name."""
        last = select(func.max(SettingChangeRow.id)).group_by(SettingChangeRow.name)
        query = select(SettingChangeRow).where(SettingChangeRow.id.in_(last))
        found = self._sessions.records(SettingChange, query.order_by(SettingChangeRow.name))
        return {change.name: change for change in found}
