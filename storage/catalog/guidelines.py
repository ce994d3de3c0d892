"""Guidelines of datasets: versions of a text, of which the highest is in use, and pictures."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, select

from storage.catalog.errors import ConstraintError, QuotaError, StaleStateError
from storage.catalog.sessions import Repository, to_record
from storage.catalog.team_tables import GuidelinePictureRow, GuidelinesRow

MAX_PICTURES = 200
"""Pictures of one dataset."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GuidelinesVersion:
    """A version of a dataset's guidelines, in Markdown. `author`: name of the annotator who wrote
    it."""

    dataset_id: int
    version: int
    markdown: str
    author: str | None
    created_at: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class GuidelinePicture:
    """A picture that guidelines may show; `key` is its object's."""

    dataset_id: int
    name: str
    key: str
    author: str | None
    created_at: datetime


class Guidelines(Repository):
    """Reached as `catalog.guidelines`."""

    def current(self, dataset_id: int) -> GuidelinesVersion | None:
        """The version in use; None: the dataset has no guidelines of its own."""
        mine = select(GuidelinesRow).where(GuidelinesRow.dataset_id == dataset_id)
        newest = mine.order_by(GuidelinesRow.version.desc())
        return self._sessions.first(GuidelinesVersion, newest)

    def history(self, dataset_id: int) -> list[GuidelinesVersion]:
        """All versions, newest first."""
        mine = select(GuidelinesRow).where(GuidelinesRow.dataset_id == dataset_id)
        query = mine.order_by(GuidelinesRow.version.desc())
        return self._sessions.records(GuidelinesVersion, query)

    def set(
        self, dataset_id: int, markdown: str, *, expected_version: int, author: str | None = None
    ) -> GuidelinesVersion:
        """Add the next version.

        Args:
            dataset_id: id of the dataset.
            markdown: the whole text.
            expected_version: the version in use that the writer has read; 0: none.
            author: name of the annotator.

        Raises:
            StaleStateError: another version is in use: read it and write again.
            ConstraintError: no such dataset.
        """
        newest = select(func.max(GuidelinesRow.version))
        newest = newest.where(GuidelinesRow.dataset_id == dataset_id)
        row = GuidelinesRow(
            dataset_id=dataset_id,
            version=expected_version + 1,
            markdown=markdown,
            author=author,
            created_at=self._sessions.now(),
        )
        stale = StaleStateError(
            "somebody changed the guidelines meanwhile: read their version and write yours again"
        )
        try:
            with self._sessions.session() as session:
                if (session.scalar(newest) or 0) != expected_version:
                    raise stale
                session.add(row)
                session.commit()
                return to_record(GuidelinesVersion, row)
        except ConstraintError:
            if (self._sessions.value(newest) or 0) != expected_version:  # by another at once
                raise stale from None
            raise

    def add_picture(
        self, dataset_id: int, name: str, key: str, author: str | None = None
    ) -> GuidelinePicture:
        """Add a picture; one that is there already stays as it is.

        Raises:
            QuotaError: the dataset has MAX_PICTURES pictures.
            ConstraintError: no such dataset.
        """
        found = self.pictures(dataset_id)
        if name not in found:
            if len(found) >= MAX_PICTURES:
                raise QuotaError(f"these guidelines have {MAX_PICTURES} pictures, the most")
            values = {"dataset_id": dataset_id, "name": name, "key": key, "author": author}
            row = {**values, "created_at": self._sessions.now()}
            self._sessions.insert(GuidelinePictureRow, [row])
            found = self.pictures(dataset_id)
        return found[name]

    def pictures(self, dataset_id: int) -> dict[str, GuidelinePicture]:
        """The dataset's pictures by name."""
        mine = select(GuidelinePictureRow).where(GuidelinePictureRow.dataset_id == dataset_id)
        found = self._sessions.records(GuidelinePicture, mine.order_by(GuidelinePictureRow.name))
        return {picture.name: picture for picture in found}
