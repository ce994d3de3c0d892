"""Quarantine: files and images that cannot be used, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import delete, func, select

from engine.core.batches import batches
from storage.catalog.images import IN_LIMIT, Image
from storage.catalog.sessions import Repository
from storage.catalog.tables import QuarantineRow

REASON_LENGTH = 500
"""Maximum characters of a reason, which is part of a unique index."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Quarantined:
    """A quarantined file; with `image_id` if it was ingested before it failed."""

    id: int
    dataset_id: int
    path: str
    reason: str
    stage: str
    image_id: int | None
    created_at: datetime


class Quarantine(Repository):
    """Reached as `catalog.quarantine`."""

    def add(
        self, dataset_id: int, path: str, reason: str, *, stage: str, image_id: int | None = None
    ) -> bool:
        """Quarantine a file.

        Args:
            stage: where it failed, e.g. `ingest` or `generate`.

        Returns:
            False if the same path was quarantined for the same reason before.

        Raises:
            ConstraintError: no such dataset or image.
        """
        row = {
            "dataset_id": dataset_id,
            "path": path,
            "reason": reason[:REASON_LENGTH],
            "stage": stage,
            "image_id": image_id,
            "created_at": self._sessions.now(),
        }
        return bool(self._sessions.insert(QuarantineRow, [row]))

    def add_image(self, image: Image, error: Exception, *, stage: str) -> bool:
        """Quarantine a stored image for an error, as `add`."""
        return self.add(
            image.dataset_id, image.file_name, str(error), stage=stage, image_id=image.id
        )

    def all(self, dataset_id: int, *, limit: int = 1_000) -> list[Quarantined]:
        """The quarantined files, newest first."""
        query = select(QuarantineRow).where(QuarantineRow.dataset_id == dataset_id)
        return self._sessions.records(
            Quarantined, query.order_by(QuarantineRow.id.desc()).limit(limit)
        )

    def of_images(self, dataset_id: int, *, stage: str) -> list[Quarantined]:
        """The images that a stage quarantined, oldest first."""
        query = select(QuarantineRow).where(
            QuarantineRow.dataset_id == dataset_id,
            QuarantineRow.stage == stage,
            QuarantineRow.image_id.is_not(None),
        )
        return self._sessions.records(Quarantined, query.order_by(QuarantineRow.id))

    def forget(self, ids: Sequence[int]) -> None:
        """Delete entries, as their images are processed again."""
        with self._sessions.session() as session:
            for part in batches(ids, IN_LIMIT):
                session.execute(delete(QuarantineRow).where(QuarantineRow.id.in_(part)))
            session.commit()

    def counts(self, dataset_id: int) -> dict[str, int]:
        """The number of quarantined files by reason, the most frequent first."""
        number = func.count()
        query = (
            select(QuarantineRow.reason, number)
            .where(QuarantineRow.dataset_id == dataset_id)
            .group_by(QuarantineRow.reason)
            .order_by(number.desc(), QuarantineRow.reason)
        )
        return self._sessions.pairs(query)
