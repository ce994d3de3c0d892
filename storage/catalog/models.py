"""Model versions: immutable checkpoints with a card. At most one of each kind is current."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from storage.catalog.errors import (
    AlreadyExistsError,
    ConstraintError,
    NotFoundError,
    StaleStateError,
)
from storage.catalog.names import check_new_name
from storage.catalog.sessions import Repository, count_changed, insert_new, to_record
from storage.catalog.states import ModelKind, ModelState
from storage.catalog.tables import ModelRow, PromotionRow


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    """A model version.

    Attributes:
        key: of the checkpoint in the object store.
        table_version: version of the mask table it was trained on; None for a base model.
        card: parent, data, metrics and other facts; `describe` adds to it.
    """

    version: str
    parent: str | None
    architecture: str
    key: str
    kind: ModelKind
    state: ModelState
    table_version: int | None
    card: dict[str, Any]
    created_at: datetime


class Models(Repository):
    """Reached as `catalog.models`."""

    def add(
        self,
        version: str,
        *,
        architecture: str,
        key: str,
        kind: ModelKind = ModelKind.SEGMENTER,
        parent: str | None = None,
        table_version: int | None = None,
        card: dict[str, Any] | None = None,
    ) -> Model:
        """Register a stored checkpoint as a candidate. Adding the same version with the same key
        again changes nothing.

        Raises:
            AlreadyExistsError: the version exists with another checkpoint.
            BadNameError: there is none, and the name is not allowed.
        """
        values = {
            "version": version,
            "parent": parent,
            "architecture": architecture,
            "key": key,
            "kind": kind,
            "state": ModelState.CANDIDATE,
            "table_version": table_version,
            "card": card or {},
            "created_at": self._sessions.now(),
        }
        with self._sessions.session() as session:
            check_new_name("model", version, lambda: session.get(ModelRow, version) is not None)
            insert_new(session, ModelRow, [values])
            row = session.get_one(ModelRow, version)
            if row.key != key:
                raise AlreadyExistsError(f"model {version!r} exists already, with key {row.key!r}")
            session.commit()
            return to_record(Model, row)

    def get(self, version: str) -> Model:
        """The model of that version.

        Raises:
            NotFoundError: no such version.
        """
        missing = NotFoundError(f"no model version {version!r}")
        return self._sessions.get(Model, ModelRow, version, missing)

    def describe(self, version: str, entries: Mapping[str, Any]) -> Model:
        """Add entries to a version's card, replacing those of the same names, e.g. why it was not
        promoted. The checkpoint keeps its own card.

        Raises:
            NotFoundError: no such version.
        """
        with self._sessions.session() as session:
            row = _locked(session, version)
            row.card = {**row.card, **entries}
            session.commit()
            return to_record(Model, row)

    def add_scores(self, version: str, name: str, scores: Mapping[str, Any]) -> None:
        """Add a version's scores on the image set of this name to its card.

        Raises:
            NotFoundError: no such version.
        """
        with self._sessions.session() as session:
            row = _locked(session, version)
            known = row.card.get("scores", {})
            sets = {other: value for other, value in known.get("sets", {}).items() if other != name}
            row.card = {**row.card, "scores": {**known, "sets": {**sets, name: dict(scores)}}}
            session.commit()

    def current(self, kind: ModelKind = ModelKind.SEGMENTER) -> Model | None:
        """The promoted model of a kind; None before the first promotion."""
        query = select(ModelRow).where(ModelRow.kind == kind, ModelRow.state == ModelState.CURRENT)
        return self._sessions.first(Model, query)

    def promote(self, version: str, *, expected_current: str | None) -> Model:
        """Make a version current and retire the previous one of its kind. Promoting the current
        version again changes nothing, so a resumed caller may repeat it.

        Args:
            expected_current: the version that the decision compared with; None for no model yet.

        Raises:
            NotFoundError: no such version.
            StaleStateError: another version is current; compare with that one.
        """
        try:
            with self._sessions.session() as session:
                row = session.get(ModelRow, version)
                if row is None:
                    raise NotFoundError(f"no model version {version!r}")
                if row.state != ModelState.CURRENT:
                    if expected_current is not None:
                        _retire(session, expected_current)
                    if _make_current(session, version):
                        now = self._sessions.now()
                        session.add(PromotionRow(version=version, promoted_at=now))
                    session.refresh(row)
                    session.commit()
                return to_record(Model, row)
        except ConstraintError as error:  # the index that allows one current model
            raise StaleStateError(f"another model than {expected_current!r} is current") from error

    def roll_back(self, *, expected_current: str) -> Model:
        """Make the previously current version of the same kind current again, and retire the
        present one. Repeated calls go further back.

        Args:
            expected_current: the version to retire.

        Returns:
            The version that is now current.

        Raises:
            NotFoundError: no version was current before.
            StaleStateError: another version is current; decide again.
        """
        kind = select(ModelRow.kind).where(ModelRow.version == expected_current)
        query = (
            select(PromotionRow)
            .join(ModelRow, ModelRow.version == PromotionRow.version)
            .where(PromotionRow.undone_at.is_(None), ModelRow.kind == kind.scalar_subquery())
            .order_by(PromotionRow.id.desc())
            .limit(2)
        )
        with self._sessions.session() as session:
            _retire(session, expected_current)
            last, *before = session.scalars(query)
            if not before:
                raise NotFoundError(f"no model version was current before {expected_current!r}")
            last.undone_at = self._sessions.now()
            _make_current(session, before[0].version)
            row = session.get_one(ModelRow, before[0].version)
            session.commit()
            return to_record(Model, row)

    def all(self, kind: ModelKind | None = ModelKind.SEGMENTER) -> list[Model]:
        """All versions of a kind, or of every kind (None), newest first."""
        query = select(ModelRow) if kind is None else select(ModelRow).where(ModelRow.kind == kind)
        query = query.order_by(ModelRow.created_at.desc(), ModelRow.version)
        return self._sessions.records(Model, query)


def _retire(session: Session, version: str) -> None:
    """Retire the current version; its row stays locked, so only one process changes it."""
    retire = update(ModelRow).where(
        ModelRow.version == version, ModelRow.state == ModelState.CURRENT
    )
    if count_changed(session, retire.values(state=ModelState.RETIRED)) != 1:
        raise StaleStateError(f"{version!r} is no longer current")


def _make_current(session: Session, version: str) -> bool:
    """Returns False if another process did so at the same time."""
    promote = update(ModelRow).where(
        ModelRow.version == version, ModelRow.state != ModelState.CURRENT
    )
    return count_changed(session, promote.values(state=ModelState.CURRENT)) == 1


def _locked(session: Session, version: str) -> ModelRow:
    """The version's row, locked until the session ends.

    Raises:
        NotFoundError: no such version.
    """
    row = session.get(ModelRow, version, with_for_update=True)
    if row is None:
        raise NotFoundError(f"no model version {version!r}")
    return row
