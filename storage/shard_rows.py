"""Rows about images and masks beside the mask table: Parquet files, one per shard of a run.

A file is written once. Each kind has columns of its own, among them `image_id`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from storage import layout
from storage.objects import ObjectExistsError, ObjectStore, StorageError

PROGRAM_COLUMNS = pa.schema(
    [
        ("image_id", pa.int64()),
        ("right_id", pa.int64()),
        ("selected", pa.bool_()),
        ("answer", pa.string()),
        ("mask_ids", pa.list_(pa.string())),
        ("names", pa.list_(pa.string())),
        ("error", pa.string()),
        ("picture", pa.binary()),
        ("rationale", pa.string()),
    ]
)
"""A program's result on an image: `right_id` is the second image of a pair; `answer` JSON, null for
objects and pictures; `names` by mask; `picture` PNG; `rationale` HTML of some images."""

CAPTION_COLUMNS = pa.schema(
    [
        ("image_id", pa.int64()),
        ("mask_id", pa.string()),
        ("caption", pa.string()),
        ("model", pa.string()),
    ]
)
"""A caption of a mask, or of an image: then `mask_id` is null."""

_COLUMNS = {layout.PROGRAM: PROGRAM_COLUMNS, layout.CAPTIONS: CAPTION_COLUMNS}


class ShardRows:
    """The files of one kind in one store: `layout.PROGRAM` or `layout.CAPTIONS`."""

    def __init__(self, store: ObjectStore, kind: layout.KeyKind) -> None:
        self._store, self._kind, self._columns = store, kind, _COLUMNS[kind]

    def write(self, run_id: str, shard: int, rows: Sequence[dict[str, Any]]) -> None:
        """Write a shard's rows, unless they are there.

        Raises:
            StorageError: the store does not answer.
        """
        table = pa.Table.from_pylist(list(rows), schema=self._columns)
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd")
        with contextlib.suppress(ObjectExistsError):
            self._store.put(self._kind.key(run=run_id, shard=shard), bytes(sink.getvalue()))

    def count(self, run_id: str, shard: int) -> int | None:
        """Return the number of a shard's rows; None if it is not written.

        Raises:
            StorageError: the store does not answer.
        """
        key = self._kind.key(run=run_id, shard=shard)
        if not self._store.exists(key):
            return None
        return int(pq.read_metadata(pa.BufferReader(self._store.get(key))).num_rows)

    def read(
        self,
        run_id: str,
        columns: Sequence[str] | None = None,
        *,
        shards: Collection[int] | None = None,
    ) -> Iterator[dict[str, Any]]:
        """Yield the rows of a run, a file at a time, in the order of images.

        Args:
            run_id: the run.
            columns: None: all.
            shards: only these; None: all.

        Raises:
            StorageError: the store does not answer, or a file is damaged.
        """
        folder = layout.inside(self._kind.folder(run=run_id))
        for key in sorted((info.key for info in self._store.list(folder)), key=self._order):
            if shards is not None and self._order(key) not in shards:
                continue
            try:
                source = pa.BufferReader(self._store.get(key))
                table = pq.read_table(source, columns=None if columns is None else list(columns))
            except (pa.ArrowException, ValueError) as error:
                raise StorageError(f"{key} is not a Parquet file of rows: {error}") from error
            yield from table.to_pylist()

    def _order(self, key: str) -> int:
        fields = self._kind.parse(key) or {}
        return layout.number(fields.get("shard", "").partition("-")[0]) or 0
