"""Taking rows out of a Delta table of masks, in the newest version and in every file of older ones.

The table is append-only for everybody else: what is committed stays, until it has to be erased.
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
"""What says whether a row is touched."""


def rewrite(
    store: ObjectStore,
    prefix: str,
    change: Callable[[pa.Table], pa.Table | None],
    image_ids: Collection[int] | None = None,
) -> int:
    """Write each file of the newest version again in which `change` finds something to change.

    Args:
        change: the rows as they are to be, or those of their columns KEYS; None where they stay.
        image_ids: nothing but rows of these images is changed.

    Returns:
        The number of files replaced.

    Raises:
        StorageError: a file cannot be read, or others committed all the time; do it again.
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
    """Delete the data files that the newest version does not need and that `is_touched` finds
    something in, also those that no version knows. Versions that need them cannot be read then.

    Returns:
        Their paths below the table.

    Raises:
        StorageError: a file cannot be read or deleted; do it again.
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
    """Those of the versions that need a data file that is gone; versions that the table does not
    have are left out.

    Raises:
        StorageError: the log cannot be read.
    """
    table = open_table(store, prefix)
    if table is None:
        return []
    there = {info.key.removeprefix(f"{prefix}/") for info in store.list(f"{prefix}/")}
    known = sorted(version for version in set(versions) if 0 <= version <= table.version())
    return [version for version in known if not paths_of(store, prefix, version) <= there]
