"""The words that masks were kept for: Parquet files, one per shard of a run of stage 3 that was
asked for words. A file is written before the shard's masks are committed.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.parquet as pq

from storage import layout
from storage.objects import ObjectExistsError, ObjectStore, StorageError

COUNTS = b"dataengine.counts"
"""Key of the file's metadata with the numbers of masks that were kept and dropped."""


@dataclass(frozen=True, slots=True)
class MaskWord:
    """A mask that was kept, for which word, and the word's probability."""

    mask_id: str
    image_id: int
    word: str
    probability: float


@dataclass(frozen=True, slots=True)
class ShardWords:
    """A shard's kept masks, and how many masks were dropped by reason.

    Attributes:
        encoder: version of the encoder that answered.
    """

    encoder: str
    kept: list[MaskWord] = field(default_factory=list)
    dropped: dict[str, int] = field(default_factory=dict)


class WordFiles:
    """The words of one store."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    def write(self, run_id: str, shard: int, words: ShardWords) -> None:
        """Write a shard's words, unless they are there."""
        rows = words.kept
        columns = {
            "mask_id": pa.array([row.mask_id for row in rows], pa.string()),
            "image_id": pa.array([row.image_id for row in rows], pa.int64()),
            "word": pa.array([row.word for row in rows], pa.string()),
            "probability": pa.array([row.probability for row in rows], pa.float32()),
        }
        counts = json.dumps({"encoder": words.encoder, "dropped": words.dropped})
        table = pa.table(columns).replace_schema_metadata({COUNTS: counts.encode()})
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd")
        with contextlib.suppress(ObjectExistsError):
            self._store.put(layout.WORDS.key(run=run_id, shard=shard), bytes(sink.getvalue()))

    def has(self, run_id: str, shard: int) -> bool:
        """Whether a shard's words are written."""
        return self._store.exists(layout.WORDS.key(run=run_id, shard=shard))

    def read(self, run_id: str, shard: int | None = None) -> Iterator[ShardWords]:
        """Yield the words of a run, a shard at a time, or of one shard.

        Raises:
            StorageError: the store does not answer, or a file is damaged.
        """
        folder = layout.inside(layout.WORDS.folder(run=run_id))
        for key in sorted(info.key for info in self._store.list(folder)):
            fields = layout.WORDS.parse(key)
            if fields and shard in (None, layout.number(fields["shard"].partition("-")[0])):
                yield self._parsed(key)

    def _parsed(self, key: str) -> ShardWords:
        try:
            table = pq.read_table(pa.BufferReader(self._store.get(key)))
            about = json.loads((table.schema.metadata or {}).get(COUNTS, b"{}"))
            rows = [MaskWord(**row) for row in table.to_pylist()]
        except (pa.ArrowException, ValueError, TypeError) as error:
            raise StorageError(f"{key} is not a file of masks' words: {error}") from error
        return ShardWords(about.get("encoder", ""), rows, about.get("dropped", {}))
