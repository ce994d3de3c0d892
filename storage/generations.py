"""Marks that tell whether a catalog is as new as its store.

Before each new run a fresh mark is written to the catalog, then to the store, as an object under
`generations/`. A mark in the store that the catalog lacks is from a later state of the catalog, or
from another one: this catalog was restored from an older backup, and its next images, tasks and
runs would reuse ids.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import select

from storage import layout
from storage.catalog.database import Catalog
from storage.catalog.errors import CatalogError
from storage.catalog.sessions import new_id
from storage.catalog.tables import GenerationRow
from storage.objects import ObjectStore

_PREFIX = layout.GENERATION.prefix
KEPT = timedelta(days=1)
"""Age at which old marks are deleted. More than the newest is kept, as runs start in parallel."""


class CatalogBehindError(CatalogError):
    """The catalog is older than the object store. Nothing was changed; restore a newer backup."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Unknown:
    """Marks in the store that a catalog lacks, and when the first of them was made (UTC)."""

    ids: frozenset[str]
    since: datetime

    def __str__(self) -> str:
        return (
            f"the object store is newer than this catalog since {self.since:%Y-%m-%d %H:%M} UTC: "
            "the catalog was restored from an earlier backup, or another catalog uses the same "
            "store; new images, tasks and runs would reuse ids of those that it lacks"
        )


def marks_of(catalog: Catalog) -> set[str]:
    """The catalog's marks."""
    return set(catalog.values(select(GenerationRow.id)))


def unknown_to(marks: Callable[[], Collection[str]], objects: ObjectStore) -> Unknown | None:
    """The marks in the store that a catalog lacks; None if there are none.

    Args:
        marks: returns the catalog's marks; called after the store is listed, as they come first.

    Raises:
        StorageError: the store cannot be listed.
    """
    found = {info.key.removeprefix(_PREFIX): info.modified for info in objects.list(_PREFIX)}
    unknown = found.keys() - set(marks())
    if not unknown:
        return None
    return Unknown(ids=frozenset(unknown), since=min(found[mark] for mark in unknown))


def check(catalog: Catalog, objects: ObjectStore) -> None:
    """Check that the catalog has all marks of the store.

    Raises:
        CatalogBehindError: it lacks some.
    """
    unknown = unknown_to(lambda: marks_of(catalog), objects)
    if unknown is not None:
        raise CatalogBehindError(
            f"{unknown}. Restore a newer backup into an empty database. If there is none, and the "
            "changes since may be lost: `dataengine backup FILE`, then `dataengine restore FILE "
            "--beside-newer-store` into an empty database (docs/maintenance.md)"
        )


def advance(catalog: Catalog, objects: ObjectStore) -> None:
    """Write a new mark, to the catalog first, so that a process killed in between leaves no mark
    that the catalog lacks.

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
    """Add marks of the store to the catalog."""
    now = catalog.now()
    catalog.insert(GenerationRow, [{"id": mark, "at": now} for mark in sorted(marks)])
