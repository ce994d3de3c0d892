"""Releases: frozen dataset versions."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import select, update

from storage.catalog.errors import AlreadyExistsError, NotFoundError
from storage.catalog.names import check_new_name
from storage.catalog.sessions import Repository, count_changed, insert_new, to_record
from storage.catalog.states import ReleaseState
from storage.catalog.tables import ReleaseRow


@dataclass(frozen=True, kw_only=True, slots=True)
class Release:
    """A frozen dataset version. `table_version` pins the mask table, `label_id` the labels and
    `categories_version` the category list (None in releases of older versions), `key` is the folder
    in the object store, `card` describes the contents once it is done."""

    name: str
    dataset_id: int
    table_version: int
    state: ReleaseState
    key: str
    card: dict[str, Any]
    created_at: datetime
    label_id: int | None = None
    categories_version: int | None = None


class Releases(Repository):
    """Reached as `catalog.releases`."""

    def start(
        self,
        name: str,
        *,
        dataset_id: int,
        table_version: int,
        key: str,
        label_id: int | None = None,
        categories_version: int | None = None,
        options: dict[str, Any] | None = None,
    ) -> Release:
        """Start building a release, or resume it: a known name keeps what it pinned, its key and
        its options, so build from those returned. A failed release is building again, with these
        options.

        Args:
            options: how to build it; the card until it is done.

        Raises:
            AlreadyExistsError: the name belongs to another dataset.
            BadNameError: there is none, and the name is not allowed.
            ConstraintError: no such dataset.
        """
        values = {
            "name": name,
            "dataset_id": dataset_id,
            "table_version": table_version,
            "state": ReleaseState.BUILDING,
            "key": key,
            "card": options or {},
            "created_at": self._sessions.now(),
            "label_id": label_id,
            "categories_version": categories_version,
        }
        with self._sessions.session() as session:
            check_new_name("release", name, lambda: session.get(ReleaseRow, name) is not None)
            insert_new(session, ReleaseRow, [values])
            failed = (ReleaseRow.name == name, ReleaseRow.state == ReleaseState.FAILED)
            again = update(ReleaseRow).where(*failed, ReleaseRow.dataset_id == dataset_id)
            count_changed(session, again.values(state=ReleaseState.BUILDING, card=options or {}))
            row = session.get_one(ReleaseRow, name)
            if row.dataset_id != dataset_id:
                raise AlreadyExistsError(
                    f"release {name!r} exists already, of dataset {row.dataset_id}"
                )
            session.commit()
            return to_record(Release, row)

    def finish(self, name: str, card: dict[str, Any], *, key: str | None = None) -> Release:
        """Declare a release complete; finishing it again keeps the first card and files.

        Args:
            key: the folder of its files, if it differs from the one at the start.

        Raises:
            NotFoundError: no such release.
        """
        return self._end(name, ReleaseState.DONE, card, key)

    def fail(self, name: str, error: str) -> Release:
        """Record on a release's card, beside its options, why building it failed.

        Raises:
            NotFoundError: no such release.
        """
        return self._end(name, ReleaseState.FAILED, {**self.get(name).card, "error": error})

    def _end(
        self, name: str, state: ReleaseState, card: dict[str, Any], key: str | None = None
    ) -> Release:
        building = (ReleaseRow.name == name, ReleaseRow.state == ReleaseState.BUILDING)
        values = {"state": state, "card": card}
        if key is not None:
            values["key"] = key
        self._sessions.change(update(ReleaseRow).where(*building).values(**values))
        return self.get(name)

    def get(self, name: str) -> Release:
        """The release of that name.

        Raises:
            NotFoundError: no such release.
        """
        return self._sessions.get(Release, ReleaseRow, name, NotFoundError(f"no release {name!r}"))

    def latest(self, dataset_id: int) -> Release | None:
        """The dataset's newest complete release, or None."""
        done = [release for release in self.all(dataset_id) if release.state == ReleaseState.DONE]
        return done[0] if done else None

    def building(self) -> list[Release]:
        """Releases of all datasets whose building is under way or was interrupted."""
        query = select(ReleaseRow).where(ReleaseRow.state == ReleaseState.BUILDING)
        return self._sessions.records(
            Release, query.order_by(ReleaseRow.created_at, ReleaseRow.name)
        )

    def all(self, dataset_id: int) -> list[Release]:
        """The dataset's releases, newest first."""
        query = select(ReleaseRow).where(ReleaseRow.dataset_id == dataset_id)
        query = query.order_by(ReleaseRow.created_at.desc(), ReleaseRow.name.desc())
        return self._sessions.records(Release, query)
