"""Marks by which a catalog and its store know each other again.

Before each new run the catalog notes a fresh mark, then the store gets it as an object under
`generations/`. A mark in the store that the catalog does not know was left by a later state of it,
or by another catalog: this one was restored from an older backup, and its next images, tasks and
runs would get the numbers of those that it has forgotten.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import select

from storage import layout
from storage.catalog.database import Catalog
from storage.catalog.errors import CatalogError
from storage.catalog.sessions import insert_new, new_id
from storage.catalog.tables import GenerationRow
from storage.objects import ObjectStore

_PREFIX = layout.GENERATION.prefix
KEPT = timedelta(days=1)
"""Older marks go as new ones come; the newest alone would do, but runs begin side by side."""


class CatalogBehindError(CatalogError):
    """The catalog is older than the object store. Nothing was changed; restore a newer backup."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Unknown:
    """Marks of the store that a catalog does not know, and when the first of them was made."""

    ids: frozenset[str]
    since: datetime

    def __str__(self) -> str:
        return (
            f"the object store has gone on without this catalog since {self.since:%Y-%m-%d %H:%M} "
            "UTC: the catalog comes from a backup that was made before, or another catalog uses "
            "the same store; new images, tasks and runs would get the numbers of those that it "
            "does not know"
        )


def marks_of(catalog: Catalog) -> set[str]:
    """The catalog's marks."""
    with catalog.reading() as session:
        return set(session.scalars(select(GenerationRow.id)))


def unknown_to(marks: Callable[[], Collection[str]], objects: ObjectStore) -> Unknown | None:
    """What the store has beyond a catalog's marks; None where it has nothing.

    Args:
        marks: the catalog's; asked for after the store was looked at, since they come first.

    Raises:
        StorageError: the store cannot be listed.
    """
    found = {info.key.removeprefix(_PREFIX): info.modified for info in objects.list(_PREFIX)}
    unknown = found.keys() - set(marks())
    if not unknown:
        return None
    return Unknown(ids=frozenset(unknown), since=min(found[mark] for mark in unknown))


def check(catalog: Catalog, objects: ObjectStore) -> None:
    """Make sure that the catalog knows all that was done in the store.

    Raises:
        CatalogBehindError: it does not.
    """
    unknown = unknown_to(lambda: marks_of(catalog), objects)
    if unknown is not None:
        raise CatalogBehindError(
            f"{unknown}. Restore a newer backup into an empty database. If there is none, and what "
            "happened since may be lost: `dataengine backup FILE`, then `dataengine restore FILE "
            "--beside-newer-store` into an empty database (docs/maintenance.md)"
        )


def advance(catalog: Catalog, objects: ObjectStore) -> None:
    """Mark that something new begins: in the catalog first, so that whoever is killed in between
    leaves no mark that the catalog does not know.

    Raises:
        CatalogBehindError: see `check`.
        StorageError: the store does not answer.
    """
    check(catalog, objects)
    mark, before = new_id(), datetime.now(UTC) - KEPT
    accept(catalog, {mark})
    mine = layout.GENERATION.key(mark=mark)
    objects.put(mine, b"")
    for info in list(objects.list(_PREFIX)):
        if info.modified < before and info.key != mine:
            objects.delete(info.key)


def accept(catalog: Catalog, marks: Collection[str]) -> None:
    """Take marks of the store into the catalog."""
    now = catalog.now()
    with catalog.session() as session:
        insert_new(session, GenerationRow, [{"id": mark, "at": now} for mark in sorted(marks)])
        session.commit()
