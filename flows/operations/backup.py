"""Backs up and restores the catalog."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from storage.catalog.backup import Manifest
    from storage.objects import ObjectStore


def backup_catalog(url: str, path: Path) -> Manifest:
    """Write the catalog at `url` to a file, and add that to its audit log.

    Raises:
        CatalogError: the catalog does not exist or does not answer.
        OSError: the file cannot be written.
    """
    from storage.catalog import Catalog, CatalogNotMigratedError, CatalogTooNewError
    from storage.catalog.backup import write_backup

    with Catalog(url) as catalog:
        manifest = write_backup(catalog.engine, path)
        try:
            catalog.audit.add("backup", path.name, rows=manifest.rows)
        except (CatalogNotMigratedError, CatalogTooNewError):
            return manifest  # the catalog is of another code version, so it is only read
        return manifest


def restore_catalog(
    url: str, path: Path, store: ObjectStore | None = None, *, beside_newer: bool = False
) -> Manifest:
    """Restore a backup into the empty database at `url`.

    Args:
        url: the database.
        path: the backup.
        store: the store that the catalog belongs to; it must be of the same state as the backup.
        beside_newer: accept a newer store; the catalog lacks the work done since the backup.

    Raises:
        BackupError: the database is not empty, or the file is damaged or not a backup.
        CatalogBehindError: the store is newer than the backup; nothing was changed.
        CatalogError: the database does not answer, or the backup is of newer code.
        StorageError: the store does not answer.
    """
    from storage import generations
    from storage.catalog import Catalog
    from storage.catalog.backup import first_values, restore_backup

    unknown = None
    if store is not None:
        marks = first_values(path, "generations")
        unknown = generations.unknown_to(lambda: marks, store)
    if unknown is not None and not beside_newer:
        raise generations.CatalogBehindError(
            f"{path}: {unknown}. Nothing was changed. Restore a newer backup; if there is none, "
            "--beside-newer-store restores this one (docs/maintenance.md)"
        )
    with Catalog(url) as catalog:
        manifest = restore_backup(catalog.engine, path)
        if unknown is not None:
            generations.accept(catalog, unknown.ids)
        return manifest
