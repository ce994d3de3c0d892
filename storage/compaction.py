"""Maintenance of a Delta table of masks: merges small files, deletes old ones, keeps pinned ones.

Each shard adds one small file. `compact` merges their rows, sorted by image, in one commit that
changes no row, so the table stays append-only and older versions stay readable while their files
exist. `vacuum` deletes files that only old versions need, except those of pinned versions.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from deltalake import CommitProperties, DeltaTable
from deltalake.exceptions import CommitFailedError, TableNotFoundError
from deltalake.transaction import AddAction, RemoveAction

from storage import layout
from storage.mask_files import sync_log, write_file
from storage.mask_rows import SCHEMA
from storage.masks import delta_errors
from storage.objects import ObjectStore, StorageError, StorageUnavailableError

TARGET_BYTES = 64 << 20
"""Size of a compacted file; decoded and sorted, one takes about ten times this in memory."""

ATTEMPTS = 20
_APPENDING = ("WRITE", "CREATE TABLE")
"""Delta's names of operations that remove no file, unless `compact` marked them."""
_MARK = "upkeep"


@dataclass(frozen=True, kw_only=True, slots=True)
class TableSize:
    """Size of the newest version of a table."""

    version: int | None = None
    """None without a table."""
    files: int = 0
    rows: int = 0
    bytes: int = 0
    last_image: int | None = None
    """The highest image id; None without masks."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Compacted:
    """Result of `compact`."""

    version: int | None
    """The table's newest version afterwards; None without a table."""
    files_before: int = 0
    files_after: int = 0
    rows: int = 0
    """Rewritten rows."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Vacuumed:
    """Number and bytes of files that no version in use needs, and the kept versions."""

    files: int
    bytes: int
    kept_versions: list[int]


@dataclass(frozen=True, slots=True)
class DataFile:
    """A data file of a version, according to the log."""

    path: str
    size: int
    rows: int
    first_image: int
    last_image: int | None


def table_size(store: ObjectStore) -> TableSize:
    """Files, rows and bytes of the newest version of the masks, from the log alone.

    Raises:
        StorageError: the table cannot be read.
    """
    table = open_table(store, layout.MASKS)
    if table is None:
        return TableSize()
    files = files_of(table)
    return TableSize(
        version=table.version(),
        files=len(files),
        rows=sum(file.rows for file in files),
        bytes=sum(file.size for file in files),
        last_image=max((f.last_image for f in files if f.last_image is not None), default=None),
    )


def compact(
    store: ObjectStore, prefix: str = layout.MASKS, *, target_bytes: int = TARGET_BYTES
) -> Compacted:
    """Merge files smaller than half of `target_bytes`, each merged file sorted by image_id. Workers
    may commit shards meanwhile. A killed call leaves files that a sweep removes.

    Raises:
        ValueError: target_bytes is below 1.
        StorageUnavailableError: the store does not answer, or other commits kept interfering.
        StorageError: a file cannot be read or contradicts the log; nothing was changed.
    """
    if target_bytes < 1:
        raise ValueError(f"target_bytes is {target_bytes}, expected 1 or more")
    table = open_table(store, prefix)
    if table is None:
        return Compacted(version=None)
    before, rows = len(files_of(table)), 0
    for group in _groups(files_of(table), target_bytes):
        rows += _merge(store, prefix, group)
    table = open_table(store, prefix)
    assert table is not None
    if rows:
        with delta_errors(store.delta_uri(prefix)):
            table.create_checkpoint()  # so that opening reads one file instead of the whole log
        sync_log(store, prefix, [table.version()])
    return Compacted(
        version=table.version(), files_before=before, files_after=len(files_of(table)), rows=rows
    )


def vacuum(
    store: ObjectStore,
    prefix: str = layout.MASKS,
    *,
    pinned: Collection[int],
    younger_than: timedelta,
    delete: bool,
    now: datetime | None = None,
) -> Vacuumed:
    """Find, and delete if asked, data files that compaction replaced and that no pinned version
    and no version that was the newest within `younger_than` needs.

    Args:
        pinned: versions that must stay readable; unknown ones are ignored.

    Raises:
        StorageError: the log or a pinned version cannot be read; nothing was deleted.
    """
    table = open_table(store, prefix)
    if table is None:
        return Vacuumed(files=0, bytes=0, kept_versions=[])
    since = (now or datetime.now(UTC)) - younger_than
    removed, kept = set[str](), {table.version()}
    kept |= {version for version in pinned if 0 <= version <= table.version()}
    for version, time in _rewrites(table):
        removed |= _removed_in(store, prefix, version)
        if time > since:
            kept.add(version - 1)
    needed = set[str]()
    for version in kept:
        needed |= paths_of(store, prefix, version)
    candidates, sizes = removed - needed, {}
    for info in store.list(f"{prefix}/"):
        if (path := info.key.removeprefix(f"{prefix}/")) in candidates:
            sizes[info.key] = info.size
            if delete:
                store.delete(f"{prefix}/{path}")
    return Vacuumed(files=len(sizes), bytes=sum(sizes.values()), kept_versions=sorted(kept))


def known_files(store: ObjectStore, prefix: str = layout.MASKS) -> set[str]:
    """Paths, relative to the table, of all data files that any version of it refers to.

    Raises:
        StorageError: the log cannot be read.
    """
    table = open_table(store, prefix)
    if table is None:
        return set()
    found = {file.path for file in files_of(table)}
    for version, _ in _rewrites(table):
        found |= _removed_in(store, prefix, version)
    return found


def open_table(store: ObjectStore, prefix: str, version: int | None = None) -> DeltaTable | None:
    """The table, at a version or the newest one; None if there is none."""
    with delta_errors(store.delta_uri(prefix)):
        try:
            return DeltaTable(
                store.delta_uri(prefix), version=version, storage_options=store.delta_options()
            )
        except TableNotFoundError:
            return None


def files_of(table: DeltaTable) -> list[DataFile]:
    """The version's files, in the order of their smallest image ids."""
    with delta_errors(table.table_uri):
        rows = pa.table(table.get_add_actions(flatten=True)).to_pylist()
    found = []
    for row in rows:
        if row.get("num_records") is None:
            raise StorageError(f"{table.table_uri}: {row['path']} has no row count in the log")
        first, last = row.get("min.image_id"), row.get("max.image_id")
        found.append(
            DataFile(
                path=unquote(row["path"]),
                size=int(row["size_bytes"]),
                rows=int(row["num_records"]),
                first_image=2**63 if first is None else int(first),
                last_image=None if last is None else int(last),
            )
        )
    return sorted(found, key=lambda file: (file.first_image, file.path))


def paths_of(store: ObjectStore, prefix: str, version: int) -> set[str]:
    """Paths of the data files of an existing version."""
    table = open_table(store, prefix, version)
    assert table is not None
    return {file.path for file in files_of(table)}


def _rewrites(table: DeltaTable) -> Iterator[tuple[int, datetime]]:
    """Versions that may have removed files, and when."""
    with delta_errors(table.table_uri):
        entries = table.history()
    for place, entry in enumerate(entries, 1):
        if entry.get(_MARK) or entry["operation"] not in _APPENDING:
            time = datetime.fromtimestamp(entry["timestamp"] / 1000, UTC)
            yield len(entries) - place, time  # its own numbers are wrong beside commits


def _removed_in(store: ObjectStore, prefix: str, version: int) -> set[str]:
    log = store.get(f"{prefix}/_delta_log/{version:020}.json")
    actions = [json.loads(line) for line in log.splitlines() if line.strip()]
    return {unquote(action["remove"]["path"]) for action in actions if "remove" in action}


def _groups(files: Sequence[DataFile], target_bytes: int) -> Iterator[list[DataFile]]:
    """Groups of small files with adjacent images, of about `target_bytes` each."""
    group: list[DataFile] = []
    for file in files:
        if file.size * 2 > target_bytes:
            continue
        if group and sum(held.size for held in group) + file.size > target_bytes:
            if len(group) > 1:
                yield group
            group = []
        group.append(file)
    if len(group) > 1:
        yield group


def _merge(store: ObjectStore, prefix: str, group: Sequence[DataFile]) -> int:
    """Replace the files by one; returns its number of rows, or 0 if another process has replaced
    one of them meanwhile."""
    rows = sorted_rows(store, prefix, group)
    return int(rows.num_rows) if put_instead(store, prefix, group, rows, "compact") else 0


def put_instead(
    store: ObjectStore, prefix: str, group: Sequence[DataFile], rows: pa.Table, mark: str
) -> bool:
    """Replace the group by one file of these rows, or by none without rows. Returns False if
    another process has replaced one of the group's files meanwhile."""
    now = int(datetime.now(UTC).timestamp() * 1000)
    actions: list[AddAction | RemoveAction] = [
        RemoveAction(file.path, False, now, file.size, {}) for file in group
    ]
    added = write_file(store, prefix, rows, data_change=False) if rows.num_rows else None
    if added is not None:
        actions.append(added)
    if _commit(store, prefix, actions, {file.path for file in group}, mark):
        return True
    if added is not None:
        store.delete(f"{prefix}/{added.path}")
    return False


def read_file(store: ObjectStore, key: str, columns: list[str] | None = None) -> pa.Table:
    """A file's rows, all columns or some."""
    try:
        return pq.read_table(pa.BufferReader(store.get(key)), schema=SCHEMA, columns=columns)
    except (pa.ArrowException, OSError) as error:
        raise StorageError(f"{key} is not a file of masks: {error}") from error


def sorted_rows(store: ObjectStore, prefix: str, group: Sequence[DataFile]) -> pa.Table:
    """All rows of the files by image, and in their order within an image."""
    parts = []
    for file in group:
        part = read_file(store, f"{prefix}/{file.path}")
        if part.num_rows != file.rows:
            raise StorageError(
                f"{prefix}/{file.path} has {part.num_rows} rows, the log says {file.rows}"
            )
        parts.append(part)
    joined = pa.concat_tables(parts)
    place = pa.array(range(joined.num_rows), pa.int64())
    keys = pa.table({"image_id": joined.column("image_id"), "place": place})
    order = pc.sort_indices(keys, [("image_id", "ascending"), ("place", "ascending")])
    return joined.take(order)


def _commit(
    store: ObjectStore,
    prefix: str,
    actions: Sequence[AddAction | RemoveAction],
    replaced: set[str],
    mark: str,
) -> bool:
    """Commit against exactly the version that was read: Delta's own retries would not detect that
    another compaction has replaced the same files, and would duplicate their masks."""
    for _ in range(ATTEMPTS):
        table = open_table(store, prefix)
        if table is None or not replaced <= {file.path for file in files_of(table)}:
            return False
        try:
            with delta_errors(store.delta_uri(prefix)):
                table.create_write_transaction(
                    list(actions),
                    "append",
                    table.schema(),
                    commit_properties=CommitProperties(
                        custom_metadata={_MARK: mark}, max_commit_retries=0
                    ),
                )
            sync_log(store, prefix, [table.version()])
            return True
        except CommitFailedError:
            continue  # a shard was committed meanwhile
    raise StorageUnavailableError(f"{prefix}: lost {ATTEMPTS} commit races in a row")
