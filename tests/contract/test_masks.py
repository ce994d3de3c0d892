"""The contract of the mask table, on every object store."""

from __future__ import annotations

import json
import multiprocessing
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from threading import Barrier
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.core import rle
from engine.core.records import Mask, Source, Stage
from engine.core.rle import RLE
from storage.local_store import LocalStore
from storage.masks import (
    SCHEMA,
    Filters,
    MaskTable,
    MaskVersionNotFoundError,
    from_batch,
    read_parquet,
    to_batch,
    write_parquet,
)
from storage.objects import ObjectStore, StorageError, StorageUnavailableError
from storage.s3_store import S3Store
from tests.services import free_ports

NOW = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)


def a_mask(number: int = 0, **changes: Any) -> Mask:
    """A mask of run "run", shard 0, derived from the number."""
    plain = Mask(
        mask_id=f"mask-{number:04}",
        image_id=number,
        dataset="street",
        stage=Stage.FULLY_AUTOMATIC,
        round=0,
        run_id="run",
        shard=0,
        model="lite-1",
        source=Source.AUTOMATIC,
        rle=rle.encode(np.eye(4, 6, dtype=bool)),
        area=4,
        box_xyxy=(0, 0, 4, 4),
        predicted_iou=0.5,
        created_at=NOW,
    )
    return replace(plain, **changes)


def _ids(masks: Iterator[Mask]) -> set[str]:
    return {mask.mask_id for mask in masks}


@pytest.fixture
def table(store: ObjectStore) -> MaskTable:
    return MaskTable(store)


float32s = st.floats(0, 1, width=32)
names = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=8)
spans = st.tuples(st.integers(0, 50), st.integers(0, 50)).map(sorted)


@st.composite
def masks(draw: st.DrawFn) -> Mask:
    """Any valid mask; floats are representable in float32, as the table stores them."""

    def box() -> tuple[int, int, int, int]:
        (x0, x1), (y0, y1) = draw(spans), draw(spans)
        return x0, y0, x1, y1

    zone = timezone(timedelta(hours=draw(st.integers(-12, 12))))
    return Mask(
        mask_id=draw(names),
        image_id=draw(st.integers(-(2**63), 2**63 - 1)),
        dataset=draw(names),
        stage=draw(st.sampled_from(Stage)),
        round=draw(st.integers(0, 2**31 - 1)),
        run_id=draw(names),
        shard=draw(st.integers(0, 2**31 - 1)),
        model=draw(st.none() | names),
        source=draw(st.sampled_from(Source)),
        annotator=draw(st.none() | names),
        rle=RLE((draw(st.integers(50, 2**31 - 1)), 50), draw(st.binary(min_size=1, max_size=20))),
        area=draw(st.integers(0, 2500)),
        box_xyxy=box(),
        predicted_iou=draw(st.none() | float32s),
        stability_score=draw(st.none() | float32s),
        point_xy=draw(st.none() | st.tuples(float32s, float32s)),
        crop_xyxy=draw(st.none() | st.just(box())),
        clicks=draw(st.integers(0, 2**31 - 1)),
        seconds=draw(st.floats(0, 1e6, width=32)),
        supersedes=draw(st.none() | names.map(lambda name: name + "-old-one")),
        created_at=draw(
            st.datetimes(datetime(1970, 1, 2), datetime(2200, 1, 1), timezones=st.just(zone))
        ),
    )


@settings(max_examples=60, deadline=None)
@given(st.lists(masks(), max_size=5))
def test_rows_and_parquet_files_give_the_masks_back(given_masks: list[Mask]) -> None:
    batch = to_batch(given_masks)
    assert batch.schema == SCHEMA
    assert from_batch(batch) == given_masks
    back = read_parquet(write_parquet(given_masks))
    assert back == given_masks
    assert all(mask.created_at.tzinfo is UTC for mask in back)


def test_a_row_has_the_box_as_x_y_w_h() -> None:
    batch = to_batch([a_mask(box_xyxy=(1, 2, 6, 4), crop_xyxy=(1, 0, 4, 2))])
    (row,) = batch.to_pylist()
    assert [row[f"bbox_{side}"] for side in "xywh"] == [1, 2, 5, 2]
    assert [row[f"crop_{side}"] for side in "xywh"] == [1, 0, 3, 2]
    assert (row["height"], row["width"]) == (4, 6)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"mask_id": ""}, "id is empty"),
        ({"supersedes": "mask-0007"}, "id is empty or the one it supersedes"),
        ({"rle": RLE((0, 6), b"x"), "area": 0}, "not positive"),
        ({"rle": RLE((4, 2**31), b"x")}, "not positive"),
        ({"rle": RLE((4, 6), b"")}, "RLE is empty"),
        ({"area": 25}, "area 25"),
        ({"area": -1}, "area -1"),
        ({"box_xyxy": (0, 0, 7, 4)}, "box"),
        ({"box_xyxy": (3, 0, 2, 4)}, "box"),
        ({"box_xyxy": (0, -1, 2, 4)}, "box"),
        ({"crop_xyxy": (0, 0, 6, 5)}, "crop"),
        ({"predicted_iou": float("nan")}, "score or point is nan"),
        ({"stability_score": float("inf")}, "score or point is inf"),
        ({"point_xy": (1.0, float("nan"))}, "score or point is nan"),
        ({"seconds": float("nan")}, "seconds is nan"),
        ({"seconds": float("inf")}, "seconds is inf"),
        ({"seconds": -1.0}, "seconds is -1"),
        ({"clicks": -1}, "clicks -1"),
        ({"round": 2**31}, "round 2147483648"),
        ({"image_id": 2**63}, "not int64"),
        ({"created_at": datetime(2026, 1, 1)}, "no time zone"),
    ],
    ids=str,
)
def test_a_mask_that_cannot_be_is_refused_by_name(changes: dict[str, Any], fault: str) -> None:
    with pytest.raises(ValueError, match=f"mask '(mask-0007)?': .*{fault}"):
        to_batch([a_mask(1), a_mask(7, **changes)])


def test_bytes_that_are_no_masks_are_refused() -> None:
    other = pa.BufferOutputStream()
    pq.write_table(pa.table({"mask_id": ["a"]}), other)
    for data in (b"", b"PAR1 but not really", bytes(other.getvalue())):
        with pytest.raises(ValueError, match="of masks"):
            read_parquet(data)


def test_a_missing_table_reads_as_empty(table: MaskTable) -> None:
    assert table.version() is None
    assert not table.committed("run", 0)
    assert list(table.scan()) == []
    assert list(table.masks(current_only=True)) == []
    assert table.counts() == {}
    with pytest.raises(MaskVersionNotFoundError):
        table.scan(version=0)


def test_committed_masks_read_back_in_order_of_their_images(table: MaskTable) -> None:
    given_masks = [a_mask(number, image_id=9 - number) for number in range(10)]
    version = table.commit(iter(given_masks), run_id="run", shard=0)
    assert table.version() == version
    assert table.committed("run", 0)
    assert not table.committed("run", 1)
    assert not table.committed("run2", 0)
    assert list(table.masks()) == given_masks[::-1]


def test_committing_a_shard_twice_keeps_the_first_and_tells_its_version(table: MaskTable) -> None:
    first = table.commit([a_mask(1)], run_id="run", shard=0)
    table.commit([a_mask(2, shard=1)], run_id="run", shard=1)

    def never_read() -> Iterator[Mask]:
        raise AssertionError("a committed shard was computed again")
        yield

    assert table.commit(never_read(), run_id="run", shard=0) == first
    assert table.commit([a_mask(3)], run_id="run", shard=0) == first
    assert _ids(table.masks()) == {"mask-0001", "mask-0002"}
    assert table.version() == first + 1


def test_the_version_of_a_shard_is_found_far_back(tmp_path: Path) -> None:
    table = MaskTable(LocalStore(tmp_path))
    versions = [
        table.commit([a_mask(shard, shard=shard)], run_id="run", shard=shard) for shard in range(70)
    ]
    assert table.commit([], run_id="run", shard=1) == versions[1]
    assert versions == sorted(set(versions))


def test_an_empty_shard_is_known_as_committed(table: MaskTable) -> None:
    version = table.commit([], run_id="run", shard=0)
    assert table.committed("run", 0)
    assert table.commit([a_mask()], run_id="run", shard=0) == version
    assert list(table.masks()) == []


def test_a_rival_that_commits_meanwhile_wins(store: ObjectStore) -> None:
    table, rival = MaskTable(store), MaskTable(store)
    won: list[int] = []

    def overtaken() -> Iterator[Mask]:
        won.append(rival.commit([a_mask(1)], run_id="run", shard=0))
        yield a_mask(2)

    assert table.commit(overtaken(), run_id="run", shard=0) == won[0]
    assert _ids(table.masks()) == {"mask-0001"}


def test_racing_commits_of_one_shard_end_as_one(store: ObjectStore) -> None:
    ready = Barrier(4)

    def commit(number: int) -> int:
        ready.wait()
        return MaskTable(store).commit([a_mask(number)], run_id="run", shard=0)

    with ThreadPoolExecutor(4) as threads:
        versions = set(threads.map(commit, range(4)))
    assert len(versions) == 1
    assert MaskTable(store).version() in versions
    assert len(list(MaskTable(store).masks())) == 1


def test_racing_commits_of_different_shards_all_arrive(store: ObjectStore) -> None:
    ready = Barrier(4)

    def commit(shard: int) -> int:
        ready.wait()
        return MaskTable(store).commit([a_mask(shard, shard=shard)], run_id="run", shard=shard)

    with ThreadPoolExecutor(4) as threads:
        versions = set(threads.map(commit, range(4)))
    # The table is created once: version 0, then one version for each shard.
    assert versions == {1, 2, 3, 4}
    assert len(list(MaskTable(store).masks())) == 4


def _commit_in_process(root: Path, number: int) -> int:
    return MaskTable(LocalStore(root)).commit([a_mask(number)], run_id="run", shard=0)


def test_racing_processes_end_as_one(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, mp_context=spawn) as processes:
        versions = set(processes.map(_commit_in_process, [tmp_path] * 4, range(4)))
    assert versions == {1}
    assert len(list(MaskTable(LocalStore(tmp_path)).masks())) == 1


@pytest.mark.parametrize(
    ("wrong", "fault"),
    [
        ({"run_id": "other"}, "is of run 'other', shard 0"),
        ({"shard": 1}, "is of run 'run', shard 1"),
        ({"mask_id": "mask-0001"}, "comes twice"),
        ({"predicted_iou": float("nan")}, "nan"),
    ],
    ids=str,
)
def test_a_wrong_mask_spoils_the_whole_commit(
    tmp_path: Path, wrong: dict[str, Any], fault: str
) -> None:
    table = MaskTable(LocalStore(tmp_path))
    with pytest.raises(ValueError, match=f"mask 'mask-000.' .*{fault}|mask 'mask-000.': .*{fault}"):
        table.commit([a_mask(1), replace(a_mask(2), **wrong)], run_id="run", shard=0)
    assert not table.committed("run", 0)
    assert list(table.masks()) == []


def test_a_shard_needs_a_run_and_a_number_from_0(tmp_path: Path) -> None:
    table = MaskTable(LocalStore(tmp_path))
    for run_id, shard in (("", 0), ("run", -1), ("run", 2**31)):
        with pytest.raises(ValueError, match="expected a name and a number"):
            table.commit([], run_id=run_id, shard=shard)


def test_an_old_version_reads_as_it_was(table: MaskTable) -> None:
    old = table.commit([a_mask(1)], run_id="run", shard=0)
    new = table.commit([a_mask(2, shard=1, supersedes="mask-0001")], run_id="run", shard=1)
    assert _ids(table.masks(version=old)) == {"mask-0001"}
    assert _ids(table.masks(version=old, current_only=True)) == {"mask-0001"}
    assert _ids(table.masks(version=new)) == {"mask-0001", "mask-0002"}
    assert _ids(table.masks(version=new, current_only=True)) == {"mask-0002"}
    assert table.counts(version=old) == {("fully_automatic",): 1}


def test_a_version_that_never_was_is_refused(table: MaskTable) -> None:
    newest = table.commit([a_mask(1)], run_id="run", shard=0)
    with pytest.raises(MaskVersionNotFoundError, match=f"the newest is {newest}"):
        table.scan(version=newest + 1)
    with pytest.raises(ValueError, match="version is -1"):
        table.scan(version=-1)


def test_a_scan_is_of_the_version_at_its_call(table: MaskTable) -> None:
    table.commit([a_mask(1)], run_id="run", shard=0)
    rows = table.scan()
    table.commit([a_mask(2, shard=1)], run_id="run", shard=1)
    assert [batch.num_rows for batch in rows] == [1]


def test_of_a_chain_of_fixes_the_last_is_current(table: MaskTable) -> None:
    chain = [
        a_mask(1),
        a_mask(2, supersedes="mask-0001", stage=Stage.ASSISTED_MANUAL),
        a_mask(3, supersedes="mask-0002"),
        a_mask(4),
    ]
    table.commit(chain, run_id="run", shard=0)
    assert _ids(table.masks(current_only=True)) == {"mask-0003", "mask-0004"}
    # What supersedes a mask may itself be outside the filter.
    automatic = table.masks(current_only=True, stage=Stage.FULLY_AUTOMATIC, image_ids=[1, 4])
    assert _ids(automatic) == {"mask-0004"}
    assert table.counts(("image_id",), current_only=True) == {(3,): 1, (4,): 1}


LONG = "x" * 100
"""Longer than the part of a string that Parquet and Delta keep in their statistics."""


def _varied(number: int, shard: int) -> Mask:
    dataset = ["street", f"{LONG}a", f"{LONG}b"][number % 3]
    return a_mask(
        number,
        mask_id=f"{LONG}-{number:03}" if number % 2 else f"mask-{number:03}",
        image_id=number // 4 - 5,
        dataset=dataset,
        stage=[Stage.FULLY_AUTOMATIC, Stage.SEMI_AUTOMATIC][shard % 2],
        source=[Source.AUTOMATIC, Source.ANNOTATOR][number % 2],
        round=shard // 2,
        run_id=f"run-{shard % 3}",
        shard=shard,
        predicted_iou=None if number % 5 == 0 else float(np.float32(number % 10 / 10)),
    )


@pytest.fixture(scope="module")
def varied(tmp_path_factory: pytest.TempPathFactory) -> tuple[MaskTable, list[Mask]]:
    """A table of six shards, and all its masks."""
    table = MaskTable(LocalStore(tmp_path_factory.mktemp("varied")))
    everything = [[_varied(20 * shard + i, shard) for i in range(20)] for shard in range(6)]
    for shard, part in enumerate(everything):
        table.commit(part, run_id=f"run-{shard % 3}", shard=shard)
    return table, [mask for part in everything for mask in part]


filters = st.fixed_dictionaries(
    {},
    optional={
        "dataset": st.sampled_from([None, "street", f"{LONG}a", f"{LONG}b", LONG, "none"]),
        "stage": st.sampled_from([None, *Stage]),
        "source": st.sampled_from([None, *Source]),
        "run_id": st.sampled_from([None, "run-0", "run-1", "run"]),
        "round": st.sampled_from([None, 0, 1, 9]),
        "image_ids": st.none() | st.sets(st.integers(-6, 26), max_size=8),
        "min_predicted_iou": st.sampled_from([None, 0.0, 0.1, 0.3, 0.6, 0.9, 2.0]),
        "mask_ids": st.none()
        | st.sets(
            st.integers(0, 130).map(lambda n: f"{LONG}-{n:03}")
            | st.integers(0, 130).map(lambda n: f"mask-{n:03}"),
            max_size=80,
        ),
    },
)


def _wanted(mask: Mask, only: Filters) -> bool:
    for name in ("dataset", "stage", "source", "run_id", "round"):
        value = only.get(name)
        if value is not None and getattr(mask, name) != value:
            return False
    image_ids, mask_ids = only.get("image_ids"), only.get("mask_ids")
    least = only.get("min_predicted_iou")
    return (
        (image_ids is None or mask.image_id in image_ids)
        and (mask_ids is None or mask.mask_id in mask_ids)
        and (
            least is None
            or (mask.predicted_iou is not None and bool(mask.predicted_iou >= np.float32(least)))
        )
    )


@settings(max_examples=80, deadline=None)
@given(only=filters)
def test_filters_give_what_reading_everything_would(
    varied: tuple[MaskTable, list[Mask]], only: Filters
) -> None:
    table, everything = varied
    wanted = [mask for mask in everything if _wanted(mask, only)]
    found = list(table.masks(**only))
    assert sorted(found, key=lambda m: m.mask_id) == sorted(wanted, key=lambda m: m.mask_id)
    assert table.counts(("round", "source"), **only) == Counter(
        (mask.round, str(mask.source)) for mask in wanted
    )


def test_filters_work_on_every_store(table: MaskTable) -> None:
    for shard in range(2):
        part = [_varied(20 * shard + i, shard) for i in range(20)]
        table.commit(part, run_id=f"run-{shard}", shard=shard)
    assert len(list(table.masks(run_id="run-1", image_ids=[0, 1], source=Source.ANNOTATOR))) == 4


def test_a_filter_skips_files_without_opening_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("storage.mask_files.ROW_GROUP_ROWS", 1024)
    store = LocalStore(tmp_path)
    table = MaskTable(store)
    for shard in range(2):
        part = [a_mask(5000 * shard + number, shard=shard) for number in range(3000)]
        table.commit(part, run_id="run", shard=shard)
    paths = {path: pq.ParquetFile(path) for path in (tmp_path / "masks").glob("*.parquet")}
    assert [file.num_row_groups for file in paths.values()] == [3, 3]
    # Opening a file now would fail: it is no longer Parquet.
    first = next(p for p, f in paths.items() if f.read_row_group(0)["image_id"][0].as_py() == 0)
    first.write_bytes(b"\0" * first.stat().st_size)
    assert len(list(table.masks(image_ids=[5000, 7999]))) == 2
    with pytest.raises(StorageError):
        list(table.masks(image_ids=[1]))


def test_batches_have_the_size_and_columns_asked_for(varied: tuple[MaskTable, list[Mask]]) -> None:
    table, everything = varied
    batches = list(table.scan(columns=["area", "mask_id"], batch_size=7))
    assert max(batch.num_rows for batch in batches) == 7
    assert {tuple(batch.schema.names) for batch in batches} == {("area", "mask_id")}
    assert sum(batch.num_rows for batch in batches) == len(everything)


def test_a_scan_of_one_version_has_one_order(tmp_path: Path) -> None:
    table = MaskTable(LocalStore(tmp_path))
    for shard in range(6):
        version = table.commit([a_mask(shard, shard=shard)], run_id="run", shard=shard)
    before = list(table.masks(version=version))
    DeltaTable(table.uri).create_checkpoint()
    table.commit([a_mask(9, shard=9)], run_id="run", shard=9)
    assert list(table.masks(version=version)) == before
    files = sorted((tmp_path / "masks").glob("*.parquet"), key=lambda path: path.name)
    newest = [from_batch(pq.read_table(path))[0] for path in files]
    assert list(table.masks()) == newest


def test_bad_arguments_of_a_scan_are_refused_at_the_call(
    varied: tuple[MaskTable, list[Mask]],
) -> None:
    table, _ = varied
    with pytest.raises(ValueError, match="unknown columns"):
        table.scan(columns=["areas"])
    with pytest.raises(ValueError, match="batch_size is 0"):
        table.scan(batch_size=0)
    with pytest.raises(TypeError, match="datasets"):
        table.scan(datasets="street")  # type: ignore[call-arg]


def test_counts_go_by_any_columns_and_keep_none(table: MaskTable) -> None:
    masks = [a_mask(1), a_mask(2, round=1), a_mask(3, model=None), a_mask(4, model=None)]
    table.commit(masks, run_id="run", shard=0)
    assert table.counts() == {("fully_automatic",): 4}
    assert table.counts(("model", "round")) == {
        ("lite-1", 0): 1,
        ("lite-1", 1): 1,
        (None, 0): 2,
    }


def test_other_tools_read_the_parquet_files(tmp_path: Path) -> None:
    table = MaskTable(LocalStore(tmp_path))
    table.commit([a_mask(2), a_mask(1)], run_id="run", shard=0)
    files = ds.dataset(sorted((tmp_path / "masks").glob("*.parquet")), format="parquet")
    assert from_batch(files.to_table()) == [a_mask(1), a_mask(2)]
    (path,) = (tmp_path / "masks").glob("*.parquet")
    counts = SCHEMA.names.index("counts")
    assert pq.ParquetFile(path).metadata.row_group(0).column(counts).compression == "ZSTD"


def test_the_table_never_forgets_and_takes_only_appends(tmp_path: Path) -> None:
    table = MaskTable(LocalStore(tmp_path))
    table.commit([a_mask(1)], run_id="run", shard=0)
    log = (tmp_path / "masks/_delta_log/00000000000000000000.json").read_text().splitlines()
    (properties,) = (json.loads(x)["metaData"]["configuration"] for x in log if "metaData" in x)
    assert properties["delta.enableExpiredLogCleanup"] == "false"
    with pytest.raises(Exception, match="append"):
        DeltaTable(table.uri).delete()


def test_old_versions_survive_checkpoints(tmp_path: Path) -> None:
    table = MaskTable(LocalStore(tmp_path))
    table.commit([a_mask(1)], run_id="run", shard=0)
    for shard in range(1, 4):
        table.commit([a_mask(shard, mask_id=f"{shard}", shard=shard)], run_id="run", shard=shard)
    DeltaTable(table.uri).create_checkpoint()
    assert _ids(table.masks(version=1)) == {"mask-0001"}
    assert table.committed("run", 2)
    assert table.commit([], run_id="run", shard=0) == 1
    assert _ids(table.masks(image_ids=[2])) == {"2"}


def test_an_s3_that_is_down_is_reported_within_seconds() -> None:
    (port,) = free_ports(1)
    store = S3Store("b", "p", f"http://127.0.0.1:{port}", "us-east-1", "access", "secret")
    table = MaskTable(store)
    start = time.monotonic()
    with pytest.raises(StorageUnavailableError):
        table.commit([a_mask()], run_id="run", shard=0)
    with pytest.raises(StorageUnavailableError):
        table.scan()
    assert time.monotonic() - start < 20
