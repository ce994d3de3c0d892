"""Suggesters of categories and trained CLIPs: versions of each dataset, of which one of a kind is
in use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Select, select, update

from storage.catalog.errors import NotFoundError, StaleStateError
from storage.catalog.label_tables import SuggesterRow
from storage.catalog.sessions import Repository, count_changed, to_record
from storage.catalog.states import LearnedKind


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredSuggester:
    """A version of a suggester or of a trained CLIP. `encoder`: version of the encoder whose
    vectors it reads, or of the CLIP that was trained; `key`: of its object; `promoted_at` None: it
    never was in use; `withdrawn_at`: it was rolled back then."""

    version: str
    kind: LearnedKind
    dataset_id: int
    encoder: str
    key: str
    card: dict[str, Any]
    created_at: datetime
    promoted_at: datetime | None
    withdrawn_at: datetime | None


class Suggesters(Repository):
    """Reached as `catalog.suggesters`."""

    def add(
        self,
        dataset_id: int,
        version: str,
        *,
        encoder: str,
        key: str,
        card: Mapping[str, Any],
        kind: LearnedKind = LearnedKind.SUGGESTER,
    ) -> StoredSuggester:
        """Register a stored version that is not in use yet.

        Raises:
            ConstraintError: the version exists, or there is no such dataset.
        """
        row = SuggesterRow(
            version=version,
            kind=kind,
            dataset_id=dataset_id,
            encoder=encoder,
            key=key,
            card=dict(card),
            created_at=self._sessions.now(),
        )
        with self._sessions.session() as session:
            session.add(row)
            session.commit()
            return to_record(StoredSuggester, row)

    def get(self, version: str) -> StoredSuggester:
        """A version of any kind.

        Raises:
            NotFoundError: no such version.
        """
        query = select(SuggesterRow).where(SuggesterRow.version == version)
        found = self._sessions.first(StoredSuggester, query)
        if found is None:
            raise NotFoundError(f"no suggester version {version!r}")
        return found

    def all(
        self, dataset_id: int, kind: LearnedKind = LearnedKind.SUGGESTER
    ) -> list[StoredSuggester]:
        """All versions of a kind of a dataset, newest first."""
        mine = (SuggesterRow.dataset_id == dataset_id, SuggesterRow.kind == kind)
        query = select(SuggesterRow).where(*mine)
        query = query.order_by(SuggesterRow.created_at.desc(), SuggesterRow.version)
        return self._sessions.records(StoredSuggester, query)

    def current(
        self, dataset_id: int, kind: LearnedKind = LearnedKind.SUGGESTER
    ) -> StoredSuggester | None:
        """The version in use; None before the first promotion."""
        return self._sessions.first(StoredSuggester, _promoted(dataset_id, kind).limit(1))

    def promote(self, version: str) -> None:
        """Bring a version into use. Repeating it changes nothing.

        Raises:
            NotFoundError: no such version.
        """
        change = update(SuggesterRow).where(SuggesterRow.version == version)
        with self._sessions.session() as session:
            if session.get(SuggesterRow, version) is None:
                raise NotFoundError(f"no suggester version {version!r}")
            unused = change.where(SuggesterRow.promoted_at.is_(None))
            session.execute(unused.values(promoted_at=self._sessions.now()))
            session.commit()

    def roll_back(self, version: str) -> StoredSuggester | None:
        """Withdraw the version in use; returns the one that was in use before. A trained CLIP may
        be the first one: then None, and the CLIP that it was trained from is in use.

        Raises:
            NotFoundError: no suggester was in use before.
            StaleStateError: another version is in use.
        """
        with self._sessions.session() as session:
            row = session.get(SuggesterRow, version)
            if row is None:
                raise NotFoundError(f"no suggester version {version!r}")
            found = list(session.scalars(_promoted(row.dataset_id, row.kind).limit(2)))
            if not found or found[0].version != version:
                raise StaleStateError(f"suggester {version!r} is not in use")
            if len(found) < 2 and row.kind == LearnedKind.SUGGESTER:
                raise NotFoundError(f"no suggester was in use before {version!r}")
            change = update(SuggesterRow).where(
                SuggesterRow.version == version, SuggesterRow.withdrawn_at.is_(None)
            )
            if count_changed(session, change.values(withdrawn_at=self._sessions.now())) != 1:
                raise StaleStateError(f"suggester {version!r} is not in use")
            session.commit()
            return to_record(StoredSuggester, found[1]) if len(found) > 1 else None


def _promoted(dataset_id: int, kind: LearnedKind) -> Select[SuggesterRow]:
    query = select(SuggesterRow).where(
        SuggesterRow.kind == kind,
        SuggesterRow.dataset_id == dataset_id,
        SuggesterRow.promoted_at.is_not(None),
        SuggesterRow.withdrawn_at.is_(None),
    )
    return query.order_by(SuggesterRow.promoted_at.desc(), SuggesterRow.version)
