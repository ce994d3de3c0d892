"""Backups of the catalog."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from storage.catalog.backup import Manifest
    from storage.objects import ObjectStore


def backup_catalog(url: str, path: Path) -> Manifest:
    """Write the catalog at `url` to a file, and note in its audit log that it was.

    Raises:
        CatalogError: there is no catalog, or it does not answer.
        OSError: the file cannot be written.
    """
    from storage.catalog import CatalogNotMigratedError, CatalogTooNewError, open_catalog
    from storage.catalog.backup import write_backup

    with open_catalog(url) as catalog:
        manifest = write_backup(catalog.engine, path)
        try:
            catalog.audit.add("backup", path.name, rows=manifest.rows)
        except (CatalogNotMigratedError, CatalogTooNewError):
            return manifest  # of another version of the code: it is only read
        return manifest


def restore_catalog(
    url: str, path: Path, store: ObjectStore | None = None, *, beside_newer: bool = False
) -> Manifest:
    """Bring a backup into the empty database at `url`.

    Args:
        store: what the catalog belongs to; it has to be as old as the backup.
        beside_newer: or it may be newer, and what was done since is lost to the catalog.

    Raises:
        BackupError: the database is not empty, or the file is damaged or none.
        CatalogBehindError: the store has gone on since the backup; nothing was changed.
        CatalogError: the database does not answer, or the backup is of newer code.
        StorageError: the store does not answer.
    """
    from storage import generations
    from storage.catalog import open_catalog
    from storage.catalog.backup import first_values, restore_backup

    unknown = None
    if store is not None:
        marks = first_values(path, "generations")
        unknown = generations.unknown_to(lambda: marks, store)
    if unknown is not None and not beside_newer:
        raise generations.CatalogBehindError(
            f"{path}: {unknown}. Nothing was changed. Restore a newer backup; where there is none, "
            "--beside-newer-store restores this one (docs/maintenance.md)"
        )
    with open_catalog(url) as catalog:
        manifest = restore_backup(catalog.engine, path)
        if unknown is not None:
            generations.accept(catalog, unknown.ids)
        return manifest
