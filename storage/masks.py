"""The mask table: Parquet files under a Delta Lake log on the object store.

A shard's masks are committed at once, exactly once, and stay: a version number of the table
identifies a set of masks permanently. DuckDB, Polars, Spark and pandas read the same files.
"""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Unpack

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from deltalake import CommitProperties, DeltaTable, Transaction
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError
from deltalake.transaction import AddAction, RemoveAction

from engine.core.records import Mask
from storage import layout
from storage.mask_files import STATISTICS, sync_log, version_of, write_file
from storage.mask_filters import Filters, Where
from storage.mask_rows import (
    MAX_INT32,
    SCHEMA,
    from_batch,
    read_parquet,
    to_batch,
    write_parquet,
)
from storage.objects import ObjectStore, StorageError, StorageUnavailableError

__all__ = [
    "SCHEMA",
    "Filters",
    "MaskTable",
    "MaskVersionNotFoundError",
    "from_batch",
    "read_parquet",
    "to_batch",
    "write_parquet",
]

TABLE_PROPERTIES = {
    "delta.appendOnly": "true",
    # A pinned version must stay readable: by default log entries expire after 30 days.
    "delta.enableExpiredLogCleanup": "false",
    "delta.dataSkippingStatsColumns": ",".join(STATISTICS),
}
SUPERSEDING = "supersedes IS NOT NULL"
"""Files that have such rows: those of automatic masks have none."""
COMMIT_ATTEMPTS = 20
REFUSALS = ("privileges", "NoSuchBucket", "RequestTimeTooSkewed", "os error 28", "No space left")
"""Parts of messages of errors that a retry does not solve."""


class MaskVersionNotFoundError(StorageError):
    """The mask table has no such version: the caller's version number is of another table."""


class MaskTable:
    """All masks of one store, in a Delta table under the key `prefix`.

    A missing table reads as empty. Every method raises StorageUnavailableError if the store does
    not answer (retry later), or another StorageError if it fails otherwise.
    """

    def __init__(self, store: ObjectStore, prefix: str = layout.MASKS) -> None:
        self.uri = store.delta_uri(prefix)
        self._store, self._prefix = store, prefix
        self._options = store.delta_options()
        self._durable = -1  # the newest version whose log is known to be on disk

    def __repr__(self) -> str:
        return f"MaskTable({self.uri!r})"

    def commit(self, masks: Iterable[Mask], *, run_id: str, shard: int) -> int:
        """Append a shard's masks in one commit, unless this (run, shard) was committed before:
        then `masks` is not read. Even without masks the shard is marked as committed. The commit
        is on disk when this returns.

        Returns:
            The version of the table in which they were committed.

        Raises:
            ValueError: a mask is of another run or shard, repeated, or refused by `to_batch`.
        """
        transaction = Transaction(_transaction_id(run_id, shard), 1)
        added: list[AddAction | RemoveAction] | None = None
        for _ in range(COMMIT_ATTEMPTS):
            # Delta refuses a transaction that was committed after this snapshot, so the check and
            # the write must use the same one.
            table = self._open() or self._create()
            if self._has(table, transaction.app_id):
                return self._settled(run_id, shard)
            if added is None:
                added = self._written(_shard_batch(masks, run_id, shard))
            with delta_errors(self.uri), contextlib.suppress(CommitFailedError):
                table.create_write_transaction(
                    added,
                    "append",
                    table.schema(),
                    commit_properties=CommitProperties(
                        {"run_id": run_id, "shard": shard}, app_transactions=[transaction]
                    ),
                )
                return self._settled(run_id, shard)
        raise StorageUnavailableError(f"{self.uri}: lost {COMMIT_ATTEMPTS} commit races in a row")

    def _has(self, table: DeltaTable, transaction_id: str) -> bool:
        with delta_errors(self.uri):
            return table.transaction_version(transaction_id) is not None

    def _written(self, batch: pa.RecordBatch) -> list[AddAction | RemoveAction]:
        if not batch.num_rows:
            return []
        rows = pa.Table.from_batches([batch])
        return [write_file(self._store, self._prefix, rows, data_change=True)]

    def _settled(self, run_id: str, shard: int) -> int:
        """The version of a committed shard, after a flush of the whole log to disk: other processes
        may have been killed before they flushed their part."""
        table = self._open()
        if table is None:
            raise StorageUnavailableError(f"{self.uri} is gone: is the store mounted?")
        newest = table.version()
        sync_log(self._store, self._prefix, range(self._durable + 1, newest + 1))
        self._durable = max(self._durable, newest)
        return version_of(self._store, self._prefix, table, run_id, shard)

    def committed(self, run_id: str, shard: int) -> bool:
        """Whether this shard's masks are in the table."""
        table = self._open()
        return table is not None and self._has(table, _transaction_id(run_id, shard))

    def version(self) -> int | None:
        """The newest version, which training runs and releases pin; None without a table."""
        table = self._open()
        return None if table is None else table.version()

    def scan(
        self,
        *,
        version: int | None = None,
        current_only: bool = False,
        columns: Sequence[str] | None = None,
        batch_size: int = 8192,
        since: int | None = None,
        **only: Unpack[Filters],
    ) -> Iterator[pa.RecordBatch]:
        """Stream the rows of one version, by default the newest at the time of the call.

        Files and row groups outside the filters are skipped by their statistics. The order depends
        on the version only, and is by image_id within a shard.

        Args:
            version: table version to read.
            current_only: skip masks that another mask of that version supersedes.
            columns: names of SCHEMA's columns to read; all by default.
            batch_size: maximum rows per batch.
            since: skip the files of this earlier version (`appends_to`).
            only: see Filters.

        Raises:
            MaskVersionNotFoundError: no such version.
            ValueError: an unknown column, a batch size below 1 or a negative version.
        """
        names = SCHEMA.names if columns is None else list(columns)
        if unknown := set(names) - set(SCHEMA.names):
            raise ValueError(f"unknown columns {sorted(unknown)}, expected some of {SCHEMA.names}")
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}, expected 1 or more")
        wanted = Where(**only)
        where = wanted.expression()
        table = self._open(version)
        if table is None:
            return iter(())
        with delta_errors(self.uri):
            found = _dataset(table, wanted.files())
            if since is not None:
                known = self._file_names(since)
                new = [one for one in found.get_fragments() if _name(one.path) not in known]
                found = ds.FileSystemDataset(new, SCHEMA, found.format, found.filesystem)
            if current_only:
                where &= ~pc.field("mask_id").isin(_superseded(table))
        return self._batches(found, names, where, batch_size)

    def masks(
        self,
        *,
        version: int | None = None,
        current_only: bool = False,
        **only: Unpack[Filters],
    ) -> Iterator[Mask]:
        """Stream decoded masks; arguments, order and errors as in `scan`."""
        for batch in self.scan(version=version, current_only=current_only, **only):
            yield from from_batch(batch)

    def counts(
        self,
        by: Sequence[str] = ("stage",),
        *,
        version: int | None = None,
        current_only: bool = False,
        **only: Unpack[Filters],
    ) -> dict[tuple[str | int | None, ...], int]:
        """The number of masks per combination of values of the columns `by`, in their order; no
        other column is read. Other arguments and errors as in `scan`.
        """
        found: Counter[tuple[str | int | None, ...]] = Counter()
        columns = list(by)
        for batch in self.scan(
            version=version, current_only=current_only, columns=columns, batch_size=65_536, **only
        ):
            rows = pa.Table.from_batches([batch]).group_by(columns)
            grouped = rows.aggregate([([], "count_all")])
            values = zip(*(grouped.column(name).to_pylist() for name in columns), strict=True)
            for key, number in zip(values, grouped.column("count_all").to_pylist(), strict=True):
                found[key] += number
        return dict(found)

    def superseding(
        self, *, version: int | None = None, **only: Unpack[Filters]
    ) -> list[dict[str, Any]]:
        """The masks that supersede another: `mask_id`, `image_id`, `supersedes` and `area` of each.
        Files without such masks are not read. Arguments and errors as in `scan`.
        """
        table = self._open(version)
        if table is None:
            return []
        where = Where(**only).expression() & pc.field("supersedes").is_valid()
        with delta_errors(self.uri):
            found = _dataset(table, SUPERSEDING)
            columns = ["mask_id", "image_id", "supersedes", "area"]
            rows: list[dict[str, Any]] = found.to_table(columns=columns, filter=where).to_pylist()
            return rows

    def appends_to(self, earlier: int, version: int) -> bool:
        """Whether a version has all files of an earlier one, so that `scan` with `since` reads what
        was added. A compaction or an erasure replaces files.

        Raises:
            MaskVersionNotFoundError: no such version.
        """
        return self._file_names(earlier) <= self._file_names(version)

    def _file_names(self, version: int) -> frozenset[str]:
        table = self._open(version)
        return frozenset() if table is None else frozenset(map(_name, table.file_uris()))

    def _open(self, version: int | None = None) -> DeltaTable | None:
        if version is not None and version < 0:
            raise ValueError(f"version is {version}, expected 0 or more")
        with delta_errors(self.uri):
            try:
                uri = self._store.delta_uri(self._prefix)  # raises if the store is unavailable
                return DeltaTable(uri, version=version, storage_options=self._options)
            except TableNotFoundError:
                if version is None:
                    return None
                raise MaskVersionNotFoundError(f"{self.uri}: no table yet") from None
            except DeltaError as error:
                newest = None if version is None else self.version()
                if version is None or newest is None or version <= newest:
                    raise
                raise MaskVersionNotFoundError(
                    f"{self.uri} has no version {version}, the newest is {newest}"
                ) from error

    def _create(self) -> DeltaTable:
        with delta_errors(self.uri):
            try:
                # With retries, the loser of a race would commit a second CREATE as version 1.
                return DeltaTable.create(
                    self.uri,
                    schema=SCHEMA,
                    mode="error",
                    configuration=TABLE_PROPERTIES,
                    storage_options=self._options,
                    commit_properties=CommitProperties(max_commit_retries=0),
                )
            except DeltaError as error:
                table = self._open()
                if table is None:
                    raise StorageError(f"{self.uri} cannot be created: {error}") from error
                return table

    def _batches(
        self, found: ds.Dataset, columns: list[str], where: pc.Expression, batch_size: int
    ) -> Iterator[pa.RecordBatch]:
        with delta_errors(self.uri):
            # Little read ahead: a batch of encoded masks is megabytes.
            for batch in found.to_batches(
                columns=columns,
                filter=where,
                batch_size=batch_size,
                batch_readahead=4,
                fragment_readahead=2,
            ):
                if batch.num_rows:
                    yield batch


def _dataset(
    table: DeltaTable, files: list[tuple[str, str, Any]] | str | None = None
) -> ds.FileSystemDataset:
    """The table's files that `files` allows, in an order that depends on the version only."""
    found = table.to_pyarrow_dataset(schema=SCHEMA, file_pruning_predicate=files)
    fragments = sorted(found.get_fragments(), key=lambda fragment: fragment.path)
    return ds.FileSystemDataset(fragments, SCHEMA, found.format, found.filesystem)


def _name(path: str) -> str:
    """The name of a data file, which is unique in its table."""
    return path.rpartition("/")[2]


def _superseded(table: DeltaTable) -> pa.Array:
    column = pc.field("supersedes")
    found = _dataset(table, SUPERSEDING)
    rows = found.to_table(columns=["supersedes"], filter=column.is_valid())
    return rows.column("supersedes").combine_chunks()


def _transaction_id(run_id: str, shard: int) -> str:
    if not run_id or not 0 <= shard <= MAX_INT32:
        raise ValueError(f"run {run_id!r}, shard {shard}: expected a name and a number from 0")
    return f"{run_id}/{shard}"


def _shard_batch(masks: Iterable[Mask], run_id: str, shard: int) -> pa.RecordBatch:
    rows = sorted(masks, key=lambda mask: mask.image_id)
    seen: set[str] = set()
    for mask in rows:
        if (mask.run_id, mask.shard) != (run_id, shard):
            raise ValueError(
                f"mask {mask.mask_id!r} is of run {mask.run_id!r}, shard {mask.shard};"
                f" expected {run_id!r}, {shard}"
            )
        if mask.mask_id in seen:
            raise ValueError(f"mask {mask.mask_id!r} comes twice in run {run_id!r}, shard {shard}")
        seen.add(mask.mask_id)
    return to_batch(rows)


@contextlib.contextmanager
def delta_errors(uri: str) -> Iterator[None]:
    """Turn deltalake's and Arrow's errors into storage errors. deltalake raises OSError if the
    network or S3 fails, and has no error type for refusals of S3."""
    try:
        yield
    except CommitFailedError:
        raise
    except OSError as error:
        text = _in_a_line(error)
        refused = isinstance(error, FileNotFoundError | PermissionError)
        if refused or any(sign in text for sign in REFUSALS):
            raise StorageError(f"{uri} cannot be used: {text}") from error
        raise StorageUnavailableError(f"{uri} does not answer: {text}") from error
    except (DeltaError, pa.ArrowException) as error:
        raise StorageError(f"{uri}: {_in_a_line(error)}") from error


def _in_a_line(error: Exception) -> str:
    """The message in one line: deltalake's are trees with colour codes."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", str(error))
    return ": ".join(part.strip() for part in re.split(r"[\n↳]+", plain) if part.strip())
