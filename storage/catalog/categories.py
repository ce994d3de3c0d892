"""Category lists of datasets: versions, of which the highest is in use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Select, func, select

from engine.core.categories import CategoryList
from storage.catalog.errors import NotFoundError, StaleStateError
from storage.catalog.label_tables import CategoryListRow
from storage.catalog.labels import lock_dataset, move_labels, used_categories
from storage.catalog.sessions import Repository


class CategoryInUseError(StaleStateError):
    """A category to remove has labels. Nothing was changed: say what becomes of its masks."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CategoryVersion:
    """A version of a dataset's category list; version 0 is the empty list of a dataset without
    categories. `author`: name of the annotator who made it; None: a command or an import."""

    dataset_id: int
    version: int
    categories: CategoryList
    author: str | None
    created_at: datetime | None


class Categories(Repository):
    """Reached as `catalog.categories`."""

    def current(self, dataset_id: int) -> CategoryVersion:
        """The list in use."""
        found = self._lists(dataset_id, newest_only=True)
        return found[0] if found else _none(dataset_id)

    def get(self, dataset_id: int, version: int) -> CategoryVersion:
        """One version of the list.

        Raises:
            NotFoundError: no such version.
        """
        for found in self._lists(dataset_id, version=version):
            return found
        if version == 0:
            return _none(dataset_id)
        raise NotFoundError(f"dataset {dataset_id} has no version {version} of its category list")

    def history(self, dataset_id: int) -> list[CategoryVersion]:
        """All versions, newest first."""
        return self._lists(dataset_id)

    def set(
        self,
        dataset_id: int,
        categories: CategoryList,
        *,
        expected_version: int,
        moved: Mapping[int, int | None] | None = None,
        author: str | None = None,
    ) -> CategoryVersion:
        """Add the next version of the list, and move the labels of removed categories, in one
        transaction.

        Args:
            dataset_id: id of the dataset.
            categories: the new list, made from version `expected_version` (`CategoryList.replaced`,
                `CategoryList.extended`).
            expected_version: the version in use that the caller has read; 0: none.
            moved: removed categories by id, with the one that their masks get; None: no category.
            author: name of the annotator; None: a command or an import.

        Raises:
            StaleStateError: another version is in use: read it and decide again.
            CategoryInUseError: a removed category has labels, and `moved` lacks it.
            NotFoundError: no such dataset.
        """
        row = CategoryListRow(
            dataset_id=dataset_id,
            version=expected_version + 1,
            content=categories.to_json(),
            author=author,
            created_at=self._sessions.now(),
        )
        with self._sessions.session() as session:
            lock_dataset(session, dataset_id)
            newest = session.scalar(_newest(dataset_id)) or 0
            if newest != expected_version:
                raise StaleStateError(
                    f"version {newest} of the category list is in use, not {expected_version}: "
                    "somebody changed it meanwhile; look at it and repeat"
                )
            moves = dict(moved or {})
            if moves:
                move_labels(session, dataset_id, moves, row.created_at)
            known = set(categories.names)
            if left := used_categories(session, dataset_id) - known:
                raise CategoryInUseError(f"masks have the removed categories {sorted(left)}")
            session.add(row)
            session.commit()
            return _record(row)

    def _lists(
        self, dataset_id: int, *, version: int | None = None, newest_only: bool = False
    ) -> list[CategoryVersion]:
        query = select(CategoryListRow).where(CategoryListRow.dataset_id == dataset_id)
        if version is not None:
            query = query.where(CategoryListRow.version == version)
        query = query.order_by(CategoryListRow.version.desc())
        with self._sessions.reading() as session:
            found = session.scalars(query.limit(1) if newest_only else query)
            return [_record(row) for row in found]


def _newest(dataset_id: int) -> Select[int]:
    return select(func.max(CategoryListRow.version)).where(CategoryListRow.dataset_id == dataset_id)


def _none(dataset_id: int) -> CategoryVersion:
    return CategoryVersion(
        dataset_id=dataset_id, version=0, categories=CategoryList(), author=None, created_at=None
    )


def _record(row: CategoryListRow) -> CategoryVersion:
    return CategoryVersion(
        dataset_id=row.dataset_id,
        version=row.version,
        categories=CategoryList.from_json(row.content),
        author=row.author,
        created_at=row.created_at,
    )
