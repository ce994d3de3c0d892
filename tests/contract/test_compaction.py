"""Compaction and vacuum change no row of any version that is in use, on every object store."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from threading import Barrier

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable

from engine.core.records import Mask
from storage import compaction
from storage.compaction import compact, known_files, table_size, vacuum
from storage.masks import MaskTable
from storage.objects import ObjectStore, StorageError
from tests.contract.test_masks import a_mask

NEVER = timedelta(0)
SHARDS = 6


@pytest.fixture
def table(store: ObjectStore) -> MaskTable:
    """SHARDS shards of four masks with scattered images: 0, 6, 12, 18; 1, 7, ..."""
    made = MaskTable(store)
    for shard in range(SHARDS):
        _commit(made, shard)
    return made


def _commit(table: MaskTable, shard: int, count: int = 4) -> int:
    masks = [a_mask(number * SHARDS + shard, shard=shard) for number in range(count)]
    return table.commit(masks, run_id="run", shard=shard)


def _by_id(table: MaskTable, version: int | None = None) -> list[Mask]:
    return sorted(table.masks(version=version), key=lambda mask: mask.mask_id)


def _files(store: ObjectStore) -> set[str]:
    return {info.key for info in store.list("masks/") if "_delta_log" not in info.key}


def test_small_files_become_one_sorted_by_image_with_the_same_masks(
    store: ObjectStore, table: MaskTable
) -> None:
    before, version = _by_id(table), table.version()
    done = compact(store)
    assert (done.files_before, done.files_after, done.rows) == (SHARDS, 1, 24)
    assert _by_id(table) == before
    assert [mask.image_id for mask in table.masks()] == list(range(24))
    assert _by_id(table, version) == before
    for image in (0, 7, 23):
        assert [mask.image_id for mask in table.masks(image_ids=[image])] == [image]
    assert compact(store).rows == 0  # nothing to do


def test_shards_stay_committed_once_and_go_on(store: ObjectStore, table: MaskTable) -> None:
    compact(store)
    assert all(table.committed("run", shard) for shard in range(SHARDS))
    _commit(table, 3)  # a late worker
    assert len(_by_id(table)) == 24
    table.commit([a_mask(99, shard=9)], run_id="run", shard=9)
    assert len(_by_id(table)) == 25


def test_the_table_stays_append_only(store: ObjectStore, table: MaskTable) -> None:
    compact(store)
    delta = DeltaTable(store.delta_uri("masks"), storage_options=store.delta_options())
    assert delta.metadata().configuration["delta.appendOnly"] == "true"
    with pytest.raises(Exception, match=r"(?i)append"):
        delta.delete()


def test_scans_still_leave_files_out_by_their_statistics(
    store: ObjectStore, table: MaskTable
) -> None:
    compact(store, target_bytes=3 * max(info.size for info in store.list("masks/part-")))
    delta = DeltaTable(store.delta_uri("masks"), storage_options=store.delta_options())
    rows = pa.table(delta.get_add_actions(flatten=True)).to_pylist()
    assert len(rows) == 2
    assert sum(row["num_records"] for row in rows) == 24
    for row in rows:
        held = pq.read_table(pa.BufferReader(store.get(f"masks/{row['path']}")))
        images = held.column("image_id").to_pylist()
        assert images == sorted(images)
        assert (row["min.image_id"], row["max.image_id"]) == (images[0], images[-1])
        assert row["null_count.supersedes"] == held.num_rows


def test_large_files_are_left_alone(store: ObjectStore, table: MaskTable) -> None:
    files = _files(store)
    assert compact(store, target_bytes=1).rows == 0
    assert _files(store) == files


def test_vacuum_keeps_what_a_pinned_version_reads(store: ObjectStore, table: MaskTable) -> None:
    pinned = 3
    before, now = _by_id(table, pinned), _by_id(table)
    compact(store)
    told = vacuum(store, pinned=[pinned], younger_than=NEVER, delete=False)
    assert told.files == SHARDS - 3
    assert len(_files(store)) == SHARDS + 1
    gone = vacuum(store, pinned=[pinned, 9_999], younger_than=NEVER, delete=True)
    assert (gone.files, gone.bytes) == (told.files, told.bytes)
    assert gone.kept_versions == [pinned, table.version()]
    assert len(_files(store)) == 3 + 1
    assert _by_id(table, pinned) == before
    assert _by_id(table) == now
    with pytest.raises(StorageError):  # not pinned
        _by_id(table, SHARDS)


def test_vacuum_keeps_every_version_that_was_the_newest_of_late(
    store: ObjectStore, table: MaskTable
) -> None:
    before, version = _by_id(table), table.version()
    compact(store)
    assert vacuum(store, pinned=[], younger_than=timedelta(days=7), delete=True).files == 0
    assert _by_id(table, version) == before
    later = datetime.now(UTC) + timedelta(days=8)
    gone = vacuum(store, pinned=[], younger_than=timedelta(days=7), delete=True, now=later)
    assert gone.files == SHARDS
    assert _by_id(table) == before


def test_files_of_old_versions_are_known_until_they_are_gone(
    store: ObjectStore, table: MaskTable
) -> None:
    compact(store)
    assert {f"masks/{path}" for path in known_files(store)} == _files(store)
    store.put("masks/part-lost.parquet", b"never committed")
    assert "part-lost.parquet" not in known_files(store)


def test_two_compactions_and_a_worker_at_once_lose_and_double_nothing(
    store: ObjectStore, table: MaskTable
) -> None:
    barrier = Barrier(3)

    def work(number: int) -> None:
        barrier.wait()
        if number < 2:
            compact(store)
        else:
            for shard in range(10, 16):
                table.commit([a_mask(100 + shard, shard=shard)], run_id="run", shard=shard)

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(work, range(3)))
    ids = [mask.mask_id for mask in table.masks()]
    assert len(ids) == len(set(ids)) == 24 + 6


def test_a_file_that_another_compaction_replaced_is_not_replaced_again(
    store: ObjectStore, table: MaskTable
) -> None:
    delta = compaction.open_table(store, "masks")
    assert delta is not None
    group = compaction.files_of(delta)  # read before the other process commits
    compact(store)
    files = _files(store)
    assert compaction._merge(store, "masks", group) == 0
    assert _files(store) == files
    assert len(_by_id(table)) == 24


def test_a_commit_in_between_is_noticed(
    store: ObjectStore, table: MaskTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, opened = compaction.open_table, []

    def racing(*arguments: object) -> DeltaTable | None:
        found: DeltaTable | None = real(*arguments)  # type: ignore[arg-type]
        opened.append(found)
        if len(opened) == 2:  # between reading and committing
            table.commit([a_mask(500, shard=20)], run_id="run", shard=20)
        return found

    monkeypatch.setattr(compaction, "open_table", racing)
    compact(store)
    assert len(_by_id(table)) == 25
    assert table_size(store).files == 2


def test_a_compaction_in_between_is_noticed(
    store: ObjectStore, table: MaskTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, opened = compaction.open_table, []

    def racing(*arguments: object) -> DeltaTable | None:
        found: DeltaTable | None = real(*arguments)  # type: ignore[arg-type]
        opened.append(found)
        if len(opened) == 2:  # both replace the same files
            monkeypatch.undo()
            compact(store)
        return found

    monkeypatch.setattr(compaction, "open_table", racing)
    assert compact(store).rows == 0
    assert len(_by_id(table)) == 24
    assert table_size(store).files == 1


def test_a_file_with_other_rows_than_the_log_says_stops_it(
    store: ObjectStore, table: MaskTable
) -> None:
    key = sorted(_files(store))[0]
    held = pq.read_table(pa.BufferReader(store.get(key)))
    sink = pa.BufferOutputStream()
    pq.write_table(held.slice(1), sink)
    store.delete(key)
    store.put(key, bytes(sink.getvalue()))
    version = table.version()
    with pytest.raises(StorageError, match="rows, the log says 4"):
        compact(store)
    assert table.version() == version


def test_without_a_table_there_is_nothing_to_do(store: ObjectStore) -> None:
    assert compact(store).version is None
    assert vacuum(store, pinned=[1], younger_than=NEVER, delete=True).files == 0
    assert table_size(store).rows == 0
    assert known_files(store) == set()
