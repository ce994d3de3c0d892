"""Datasets: named collections of images."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select

from storage.catalog.errors import DatasetNotFoundError
from storage.catalog.names import check_new_name
from storage.catalog.sessions import Repository, insert_new, to_record
from storage.catalog.tables import DatasetRow


@dataclass(frozen=True, kw_only=True, slots=True)
class Dataset:
    """A named collection of images."""

    id: int
    name: str
    created_at: datetime


class Datasets(Repository):
    """Reached as `catalog.datasets`."""

    def get_or_create(self, name: str) -> Dataset:
        """The dataset of that name, made if there is none.

        Raises:
            BadNameError: there is none, and the name is not allowed.
        """
        named = select(DatasetRow).where(DatasetRow.name == name)
        with self._sessions.session() as session:
            check_new_name("dataset", name, lambda: session.scalars(named).first() is not None)
            insert_new(session, DatasetRow, [{"name": name, "created_at": self._sessions.now()}])
            row = session.scalars(named).one()
            session.commit()
            return to_record(Dataset, row)

    def get(self, name: str) -> Dataset:
        """The dataset of that name.

        Raises:
            DatasetNotFoundError: no such dataset; the message lists the known names.
        """
        query = select(DatasetRow).where(DatasetRow.name == name)
        found = self._sessions.first(Dataset, query)
        if found is None:
            known = ", ".join(dataset.name for dataset in self.all())
            raise DatasetNotFoundError(f"no dataset {name!r}; known: {known or 'none yet'}")
        return found

    def get_by_id(self, dataset_id: int) -> Dataset:
        """The dataset of that id.

        Raises:
            DatasetNotFoundError: no such dataset.
        """
        missing = DatasetNotFoundError(f"no dataset with id {dataset_id}")
        return self._sessions.get(Dataset, DatasetRow, dataset_id, missing)

    def all(self) -> list[Dataset]:
        """All datasets, by name."""
        return self._sessions.records(Dataset, select(DatasetRow).order_by(DatasetRow.name))
