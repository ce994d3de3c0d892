"""Annotators: the people and simulations that answer tasks."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import or_, select, update

from storage.catalog.errors import NotFoundError
from storage.catalog.names import check_new_name
from storage.catalog.sessions import Repository, insert_new, to_record
from storage.catalog.states import AnnotatorKind, ErasureKind
from storage.catalog.tables import AnnotatorRow, ErasureRow


@dataclass(frozen=True, kw_only=True, slots=True)
class Annotator:
    """An annotator, without the hash of the sign-in token."""

    id: int
    name: str
    kind: AnnotatorKind
    role: str
    created_at: datetime
    datasets: list[int] | None = None
    """Ids of the datasets whose tasks and images they see; None: all."""
    disabled_at: datetime | None = None
    """Since when they may not sign in; None: they may."""


class Annotators(Repository):
    """Reached as `catalog.annotators`."""

    def get_or_create(
        self, name: str, *, kind: AnnotatorKind = AnnotatorKind.PERSON, role: str = "annotator"
    ) -> Annotator:
        """The annotator of that name, made if there is none; an existing one keeps kind and role.

        Raises:
            BadNameError: there is none, and the name is not allowed.
        """
        named = select(AnnotatorRow).where(AnnotatorRow.name == name)
        values = {"name": name, "kind": kind, "role": role, "created_at": self._sessions.now()}
        with self._sessions.session() as session:
            check_new_name("annotator", name, lambda: session.scalars(named).first() is not None)
            insert_new(session, AnnotatorRow, [values])
            row = session.scalars(named).one()
            session.commit()
            return to_record(Annotator, row)

    def get(self, annotator_id: int) -> Annotator:
        """The annotator of that id.

        Raises:
            NotFoundError: no such annotator.
        """
        missing = NotFoundError(f"no annotator with id {annotator_id}")
        return self._sessions.get(Annotator, AnnotatorRow, annotator_id, missing)

    def set_role(self, annotator_id: int, role: str) -> None:
        """Change an annotator's role.

        Raises:
            NotFoundError: no such annotator.
        """
        self._set(annotator_id, role=role)

    def set_datasets(self, annotator_id: int, dataset_ids: Collection[int] | None) -> None:
        """Set the datasets whose tasks and images an annotator sees; None: all.

        Raises:
            NotFoundError: no such annotator.
        """
        chosen = None if dataset_ids is None else sorted(set(dataset_ids))
        self._set(annotator_id, datasets=chosen)

    def disable(self, annotator_id: int) -> None:
        """Keep an annotator from signing in, also with the link they have; sessions and tokens that
        exist stop working. Their work stays.

        Raises:
            NotFoundError: no such annotator.
        """
        self._set(
            annotator_id,
            disabled_at=self._sessions.now(),
            token_hash=None,
            token_expires_at=None,
        )

    def enable(self, annotator_id: int) -> None:
        """Let an annotator sign in again.

        Raises:
            NotFoundError: no such annotator.
        """
        self._set(annotator_id, disabled_at=None)

    def set_token(
        self, annotator_id: int, token_hash: str | None, seconds: float | None = None
    ) -> None:
        """Replace the hash of the annotator's sign-in token; None removes it.

        Args:
            seconds: from now, how long the token can be used; None: without limit.

        Raises:
            NotFoundError: no such annotator.
            ConstraintError: somebody else has this token.
        """
        expires = None if seconds is None else self._sessions.now() + timedelta(seconds=seconds)
        self._set(annotator_id, token_hash=token_hash, token_expires_at=expires)

    def _set(self, annotator_id: int, **values: Any) -> None:
        statement = update(AnnotatorRow).where(AnnotatorRow.id == annotator_id)
        if not self._sessions.change(statement.values(**values)):
            raise NotFoundError(f"no annotator with id {annotator_id}")

    def take_token(self, token_hash: str) -> Annotator | None:
        """Use up the sign-in token with this hash. Returns its annotator; None if there is no such
        token or it has expired. Of concurrent calls only one succeeds."""
        found = self.find_by_token(token_hash)
        if found is None:
            return None
        now = self._sessions.now()
        statement = update(AnnotatorRow).where(
            AnnotatorRow.token_hash == token_hash,
            or_(AnnotatorRow.token_expires_at.is_(None), AnnotatorRow.token_expires_at > now),
        )
        used = self._sessions.change(statement.values(token_hash=None, token_expires_at=None))
        return found if used else None

    def find_by_token(self, token_hash: str) -> Annotator | None:
        """The annotator whose token has this hash, or None."""
        query = select(AnnotatorRow).where(AnnotatorRow.token_hash == token_hash)
        return self._sessions.first(Annotator, query)

    def find(self, name: str) -> Annotator | None:
        """The annotator of that name, or None."""
        query = select(AnnotatorRow).where(AnnotatorRow.name == name)
        return self._sessions.first(Annotator, query)

    def has_people(self, *, besides: str) -> bool:
        """Whether the catalog has a person other than the one of this name."""
        query = select(AnnotatorRow.id).where(
            AnnotatorRow.kind == AnnotatorKind.PERSON, AnnotatorRow.name != besides
        )
        return self._sessions.value(query.limit(1)) is not None

    def is_erased(self, annotator_id: int) -> bool:
        """Whether the annotator's name was erased."""
        query = select(ErasureRow.id).where(
            ErasureRow.kind == ErasureKind.PERSON,
            ErasureRow.target["annotator"].as_integer() == annotator_id,
        )
        return self._sessions.value(query.limit(1)) is not None

    def all(self) -> list[Annotator]:
        """All annotators, by name."""
        return self._sessions.records(Annotator, select(AnnotatorRow).order_by(AnnotatorRow.name))
