"""Erase rows and objects from the object store. Each step may be repeated."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from storage import layout
from storage.catalog.states import ErasureKind
from storage.erasures import Erasure
from storage.masks import MaskTable
from storage.objects import ObjectExistsError, ObjectStore, StorageError
from storage.rewriting import KEYS, purge, rewrite

Change = Callable[[pa.Table], pa.Table | None]
"""Returns the rows as they should be; None if they stay."""


def change_of(erasure: Erasure) -> Change:
    """The change that an erasure makes to rows."""
    work = erasure.work
    if erasure.kind == ErasureKind.PERSON:
        return lambda rows: _renamed(rows, work.name, work.pseudonym)
    ids = pa.array(work.image_ids, pa.int64())
    dataset = work.name if erasure.kind == ErasureKind.DATASET else None

    def without(rows: pa.Table) -> pa.Table | None:
        hit = pc.is_in(rows.column("image_id"), ids)
        if dataset is not None and "dataset" in rows.column_names:
            hit = pc.or_(hit, pc.equal(rows.column("dataset"), dataset))
        return rows.filter(pc.invert(hit)) if pc.any(hit).as_py() else None

    return without


def _renamed(rows: pa.Table, name: str, pseudonym: str) -> pa.Table | None:
    if "annotator" not in rows.column_names:
        return None
    place = rows.column_names.index("annotator")
    column = rows.column(place)
    hit = pc.fill_null(pc.equal(column, name), False)
    if not pc.any(hit).as_py():
        return None
    return rows.set_column(place, rows.schema.field(place), pc.if_else(hit, pseudonym, column))


def erase_rows(store: ObjectStore, erasure: Erasure) -> dict[str, int]:
    """Rewrite both tables without the rows, or the name, and delete the files of older versions
    that hold them.

    Returns:
        `files_rewritten` and `files_deleted`, over both tables.

    Raises:
        StorageError: the store does not answer or a file cannot be read; repeat the call.
    """
    change, rewritten, deleted = change_of(erasure), 0, 0
    only = erasure.work.image_ids if erasure.kind == ErasureKind.IMAGES else None
    for table in layout.TABLES:
        rewritten += rewrite(store, table, change, only)
        deleted += len(purge(store, table, lambda rows: change(rows) is not None))
    return {"files_rewritten": rewritten, "files_deleted": deleted}


def count_rows(store: ObjectStore, erasure: Erasure) -> int:
    """The number of affected masks in the newest versions of both tables."""
    change, count = change_of(erasure), 0
    person = erasure.kind == ErasureKind.PERSON
    for table in layout.TABLES:
        for batch in MaskTable(store, table).scan(columns=KEYS):
            rows = pa.Table.from_batches([batch])
            if person:
                hit = pc.equal(rows.column("annotator"), erasure.work.name)
                count += pc.sum(hit).as_py() or 0
            elif (left := change(rows)) is not None:
                count += rows.num_rows - left.num_rows
    return count


def erase_loose(store: ObjectStore, erasure: Erasure) -> dict[str, str]:
    """Remove the rows, or the name, from submitted masks, pre-filled masks, trajectories and
    vectors.

    Returns:
        New keys by old keys, for the tasks and runs that name them. The old objects stay until
        `drop` is called.

    Raises:
        StorageError: as for `erase_rows`.
    """
    change, renamed = change_of(erasure), dict[str, str]()
    for kind in layout.LOOSE:
        for info in list(store.list(kind.prefix)):
            if not info.key.endswith(".parquet"):
                continue
            rows = change(_read(store, info.key))
            if rows is None:
                continue
            if rows.num_rows == 0:
                store.delete(info.key)
                continue
            key = layout.rewritten(info.key, erasure.id)
            sink = pa.BufferOutputStream()
            pq.write_table(rows, sink, compression="zstd", compression_level=3)
            try:
                store.put(key, bytes(sink.getvalue()))
            except ObjectExistsError:  # of an interrupted attempt with another Arrow version
                store.delete(key)
                store.put(key, bytes(sink.getvalue()))
            renamed[info.key] = key
    return renamed


def drop(store: ObjectStore, keys: list[str]) -> None:
    """Delete objects."""
    for key in keys:
        store.delete(key)


def objects_of(store: ObjectStore, erasure: Erasure, shared: set[str]) -> Iterator[str]:
    """Keys of the objects to delete whole: pixels, embeddings, scores, releases.

    Args:
        shared: keys of pixels that other images also use.
    """
    work = erasure.work
    if erasure.kind == ErasureKind.PERSON:
        return
    yield from (key for key in work.keys if key not in shared)
    ids = set(map(str, work.image_ids))
    for info in store.list(layout.EMBEDDING.prefix):
        found = layout.EMBEDDING.parse(info.key)
        if found and found["image"] in ids:
            yield info.key
    prefixes = [layout.inside(layout.RELEASE.folder(name=name)) for name in work.releases]
    keys = map(layout.inside, work.releases.values())
    prefixes += [key for key in keys if not key.startswith(tuple(prefixes))]
    for run in work.runs:
        kinds = (*layout.LOOSE, layout.TASK_STEPS)
        prefixes += [layout.inside(kind.folder(run=run)) for kind in kinds]
    if erasure.kind == ErasureKind.DATASET and work.dataset_id is not None:
        prefixes.append(layout.inside(layout.GUIDELINE_PICTURE.folder(dataset=work.dataset_id)))
    if work.name:
        for kind in (layout.EVALUATION, layout.SUGGESTER, layout.ADAPTER, layout.TOWERS):
            prefixes.append(layout.inside(kind.folder(dataset=work.name)))
    for prefix in prefixes:
        yield from (info.key for info in store.list(prefix))


def _read(store: ObjectStore, key: str) -> pa.Table:
    try:
        return pq.read_table(pa.BufferReader(store.get(key)))
    except (pa.ArrowException, OSError) as error:
        raise StorageError(f"{key} is not a Parquet file: {error}") from error
