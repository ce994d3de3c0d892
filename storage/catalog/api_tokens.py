"""Tokens with which scripts sign their requests as an annotator, until they expire."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import ForeignKey, Index, String, delete, or_, select, update
from sqlalchemy.orm import Mapped, mapped_column

from storage.catalog.annotators import Annotator
from storage.catalog.sessions import Repository, to_record
from storage.catalog.tables import AnnotatorRow, Base

USE_SECONDS = 60.0
"""How exactly the time of a token's last use is kept."""


class ApiTokenRow(Base):
    __tablename__ = "api_tokens"
    __table_args__ = (Index(None, "annotator_id"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    annotator_id: Mapped[int] = mapped_column(ForeignKey("annotators.id"))
    name: Mapped[str] = mapped_column(String(200))
    token_hash: Mapped[str] = mapped_column(String(64), unique=True)
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime]
    used_at: Mapped[datetime | None]


@dataclass(frozen=True, kw_only=True, slots=True)
class ApiToken:
    """A token, without its hash. `used_at`: its last use."""

    id: int
    annotator_id: int
    name: str
    created_at: datetime
    expires_at: datetime
    used_at: datetime | None


class ApiTokens(Repository):
    """Reached as `catalog.api_tokens`. Only hashes are stored."""

    def add(self, annotator_id: int, name: str, token_hash: str, seconds: float) -> ApiToken:
        """Store a token that is valid for this many seconds.

        Raises:
            ConstraintError: no such annotator.
        """
        now = self._sessions.now()
        with self._sessions.session() as session:
            row = ApiTokenRow(
                annotator_id=annotator_id,
                name=name,
                token_hash=token_hash,
                created_at=now,
                expires_at=now + timedelta(seconds=seconds),
            )
            session.add(row)
            session.commit()
            return to_record(ApiToken, row)

    def all(self) -> list[ApiToken]:
        """All tokens, also expired ones, the newest first."""
        return self._sessions.records(ApiToken, select(ApiTokenRow).order_by(ApiTokenRow.id.desc()))

    def find_all(self, token_hashes: Collection[str]) -> dict[str, Annotator]:
        """The annotators whose valid tokens have these hashes, by hash."""
        query = (
            select(ApiTokenRow.token_hash, AnnotatorRow)
            .join(AnnotatorRow, ApiTokenRow.annotator_id == AnnotatorRow.id)
            .where(
                ApiTokenRow.token_hash.in_(token_hashes),
                ApiTokenRow.expires_at > self._sessions.now(),
                AnnotatorRow.disabled_at.is_(None),
            )
        )
        with self._sessions.reading() as session:
            return {hash_: to_record(Annotator, row) for hash_, row in session.execute(query)}

    def use(self, token_hash: str) -> Annotator | None:
        """The annotator whose valid token has this hash, or None; notes the time of use."""
        found = self.find_all([token_hash]).get(token_hash)
        if found is not None:
            now = self._sessions.now()
            is_old = ApiTokenRow.used_at < now - timedelta(seconds=USE_SECONDS)
            noted = update(ApiTokenRow).where(
                ApiTokenRow.token_hash == token_hash, or_(ApiTokenRow.used_at.is_(None), is_old)
            )
            self._sessions.change(noted.values(used_at=now))
        return found

    def drop(self, token_id: int) -> bool:
        """Delete a token; returns whether there was one."""
        return bool(self._sessions.change(delete(ApiTokenRow).where(ApiTokenRow.id == token_id)))

    def drop_all(self, annotator_id: int) -> None:
        """Delete an annotator's tokens."""
        self._sessions.change(delete(ApiTokenRow).where(ApiTokenRow.annotator_id == annotator_id))
