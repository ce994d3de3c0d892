"""Vectors of masks: Parquet files beside the mask table, one per shard of a run that makes them.

A file is written once. On each machine, files are also kept uncompressed in a local folder and
mapped into memory, so that a search over millions of vectors reads no object.

N = masks, D = length of a vector.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from storage import layout
from storage.objects import ObjectExistsError, ObjectStore, StorageError

ROW_GROUP_ROWS = 16_384


@dataclass(frozen=True, slots=True)
class MaskVectors:
    """Vectors of N masks.

    Attributes:
        mask_ids: Arrow string array (N,).
        image_ids: int64 (N,).
        vectors_ND: float16; read-only where it is mapped from a file.
    """

    mask_ids: pa.StringArray
    image_ids: np.ndarray
    vectors_ND: np.ndarray

    def __len__(self) -> int:
        return len(self.image_ids)

    def as_table(self) -> pa.Table:
        """Return the rows with the columns of the Parquet files.

        Raises:
            ValueError: the arrays differ in length, or a number is not finite.
        """
        count, size = self.vectors_ND.shape
        if not (len(self.mask_ids) == len(self.image_ids) == count):
            raise ValueError(
                f"{len(self.mask_ids)} masks, {len(self.image_ids)} images and {count} vectors"
            )
        if not np.isfinite(self.vectors_ND).all():
            raise ValueError("a vector holds a number that is not finite")
        flat = pa.array(np.ascontiguousarray(self.vectors_ND, np.float16).ravel())
        columns = [
            self.mask_ids,
            pa.array(self.image_ids, pa.int64()),
            pa.FixedSizeListArray.from_arrays(flat, size),
        ]
        return pa.Table.from_arrays(columns, names=["mask_id", "image_id", "vector"])


class VectorFiles:
    """The vector files of one store, with copies in a local folder."""

    def __init__(self, store: ObjectStore, folder: Path) -> None:
        self._store, self._folder = store, folder

    def write(self, run_id: str, shard: int, vectors: MaskVectors) -> None:
        """Write a shard's vectors, unless they are there.

        Raises:
            ValueError: as `MaskVectors.as_table`.
            StorageError: the store does not answer.
        """
        sink = pa.BufferOutputStream()
        pq.write_table(vectors.as_table(), sink, compression="none", row_group_size=ROW_GROUP_ROWS)
        with contextlib.suppress(ObjectExistsError):
            self._store.put(layout.VECTORS.key(run=run_id, shard=shard), bytes(sink.getvalue()))

    def count(self, run_id: str, shard: int) -> int | None:
        """Return the number of a shard's vectors; None if it is not written.

        Raises:
            StorageError: the store does not answer.
        """
        key = layout.VECTORS.key(run=run_id, shard=shard)
        if not self._store.exists(key):
            return None
        return int(pq.read_metadata(pa.BufferReader(self._store.get(key))).num_rows)

    def read(self, run_ids: Iterable[str]) -> Iterator[MaskVectors]:
        """Yield the vectors of runs, a file at a time, mapped from local copies.

        Copies of files that an erasure replaced are deleted.

        Raises:
            StorageError: the store does not answer, or a file is damaged.
        """
        for run_id in run_ids:
            folder = layout.inside(layout.VECTORS.folder(run=run_id))
            keys = sorted(info.key for info in self._store.list(folder))
            local = self._folder / run_id
            local.mkdir(parents=True, exist_ok=True)
            names = {f"{Path(key).stem}.arrow": key for key in keys}
            for copy in local.glob("*.arrow"):
                if copy.name not in names:
                    copy.unlink(missing_ok=True)
            for name, key in names.items():
                yield self._mapped(key, local / name)

    def _mapped(self, key: str, path: Path) -> MaskVectors:
        if not path.exists():
            self._copy(key, path)
        with pa.memory_map(str(path)) as source:
            table = pa.ipc.open_file(source).read_all().combine_chunks()
        vectors = table.column("vector").combine_chunks()
        flat = vectors.values.to_numpy(zero_copy_only=True)
        ids = table.column("mask_id").combine_chunks()
        images = table.column("image_id").combine_chunks().to_numpy()
        return MaskVectors(ids, images, flat.reshape(len(table), -1))

    def _copy(self, key: str, path: Path) -> None:
        try:
            table = pq.read_table(pa.BufferReader(self._store.get(key))).combine_chunks()
        except pa.ArrowException as error:
            raise StorageError(f"{key} is not a Parquet file of vectors: {error}") from error
        part = path.with_name(f"{path.stem}-{uuid4().hex}.part")
        with pa.OSFile(str(part), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
        part.replace(path)
