"""Remove rows from a Delta table of masks, in the newest version and in every file of older ones.

For all other code the table is append-only: committed rows stay until they are erased.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

import pyarrow as pa

from storage.compaction import (
    DataFile,
    files_of,
    open_table,
    paths_of,
    put_instead,
    read_file,
    sorted_rows,
)
from storage.masks import delta_errors
from storage.objects import ObjectStore

KEYS = ["image_id", "dataset", "annotator"]
"""Columns that decide whether a row changes."""


def rewrite(
    store: ObjectStore,
    prefix: str,
    change: Callable[[pa.Table], pa.Table | None],
    image_ids: Collection[int] | None = None,
) -> int:
    """Rewrite the files of the newest version in which `change` changes rows.

    Args:
        change: returns the new rows, given all columns or only KEYS; None if they stay.
        image_ids: only rows of these images change; None: any.

    Returns:
        The number of replaced files.

    Raises:
        StorageError: a file cannot be read, or other commits kept interfering; repeat the call.
    """
    replaced, again = 0, True
    while again:
        again = False
        table = open_table(store, prefix)
        for file in [] if table is None else files_of(table):
            if image_ids is not None and not _may_hold(file, image_ids):
                continue
            if change(read_file(store, f"{prefix}/{file.path}", KEYS)) is None:
                continue
            rows = change(sorted_rows(store, prefix, [file]))
            if rows is not None:
                done = put_instead(store, prefix, [file], rows, "erase")
                replaced += done
                again = again or not done
    if replaced and (table := open_table(store, prefix)) is not None:
        with delta_errors(store.delta_uri(prefix)):
            table.create_checkpoint()
    return replaced


def _may_hold(file: DataFile, image_ids: Collection[int]) -> bool:
    last = file.last_image
    return last is not None and any(file.first_image <= one <= last for one in image_ids)


def purge(store: ObjectStore, prefix: str, is_touched: Callable[[pa.Table], bool]) -> set[str]:
    """Delete the data files that the newest version does not need and that `is_touched` selects,
    also files of no version. Versions that need them become unreadable.

    Returns:
        Their paths below the table.

    Raises:
        StorageError: a file cannot be read or deleted; repeat the call.
    """
    table = open_table(store, prefix)
    needed = set() if table is None else {file.path for file in files_of(table)}
    gone = set()
    for info in list(store.list(f"{prefix}/")):
        path = info.key.removeprefix(f"{prefix}/")
        is_old = path.endswith(".parquet") and "_delta_log/" not in path and path not in needed
        if is_old and is_touched(read_file(store, info.key, KEYS)):
            store.delete(info.key)
            gone.add(path)
    return gone


def unreadable_versions(store: ObjectStore, prefix: str, versions: Collection[int]) -> list[int]:
    """The versions that need a deleted data file; versions that the table does not have are
    ignored.

    Raises:
        StorageError: the log cannot be read.
    """
    table = open_table(store, prefix)
    if table is None:
        return []
    there = {info.key.removeprefix(f"{prefix}/") for info in store.list(f"{prefix}/")}
    known = sorted(version for version in set(versions) if 0 <= version <= table.version())
    return [version for version in known if not paths_of(store, prefix, version) <= there]
