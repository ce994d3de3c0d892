"""The contract of the object stores."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Barrier

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.keys import check_key
from storage.local_store import LocalStore
from storage.masks import MaskTable
from storage.objects import (
    ObjectExistsError,
    ObjectNotFoundError,
    ObjectStore,
    StorageError,
    StorageUnavailableError,
)
from storage.s3_store import S3Store
from storage.stores import open_store
from tests.services import S3Server, free_ports

HOSTILE_KEYS = (
    "",
    "/",
    "/etc/passwd",
    "..",
    "a/../../b",
    "a/./b",
    "a//b",
    "a/",
    "a\\b",
    "a\0b",
    "a\nb",
    "a\x7f",
    ".hidden",
    "a/.tmp-1",
    "a\ud800",
    "a" * 256,
    "/".join(["a" * 100] * 11),
)


def _keys(store: ObjectStore, prefix: str = "") -> list[str]:
    return [found.key for found in store.list(prefix)]


def test_an_object_reads_back_as_it_was_put(store: ObjectStore) -> None:
    data = bytes(range(256)) * 9000
    store.put("images/ä b+c%20.jpg", data)
    assert store.get("images/ä b+c%20.jpg") == data
    assert store.size("images/ä b+c%20.jpg") == len(data)
    assert store.exists("images/ä b+c%20.jpg")


def test_an_empty_object_is_an_object(store: ObjectStore) -> None:
    store.put("empty", b"")
    assert store.exists("empty")
    assert store.get("empty") == b""


def test_putting_the_same_content_twice_does_nothing(store: ObjectStore) -> None:
    store.put("a", b"one")
    store.put("a", b"one")
    assert store.get("a") == b"one"


@pytest.mark.parametrize("other", [b"two", b"", b"on", b"one more"])
def test_putting_other_content_is_refused_and_changes_nothing(
    store: ObjectStore, tmp_path: Path, other: bytes
) -> None:
    (tmp_path / "other").write_bytes(other)
    store.put("a", b"one")
    with pytest.raises(ObjectExistsError, match="'a'"):
        store.put("a", other)
    with pytest.raises(ObjectExistsError, match="'a'"):
        store.put_file("a", tmp_path / "other")
    assert store.get("a") == b"one"


def test_of_racing_writers_one_wins_and_the_others_are_told(store: ObjectStore) -> None:
    ready = Barrier(6)

    def write(number: int) -> bool:
        ready.wait()
        try:
            store.put("folder/a", b"%d" % number * 100_000)
        except ObjectExistsError:
            return False
        return True

    with ThreadPoolExecutor(6) as threads:
        won = list(threads.map(write, range(6)))
    assert won.count(True) == 1
    assert store.get("folder/a") == b"%d" % won.index(True) * 100_000
    assert _keys(store) == ["folder/a"]


def test_a_file_travels_both_ways_without_a_trace(store: ObjectStore, tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "new" / "target"
    source.write_bytes(os.urandom(3_000_000))
    store.put_file("models/1/weights", source)
    store.put_file("models/1/weights", source)
    store.fetch("models/1/weights", target)
    store.fetch("models/1/weights", target)
    assert target.read_bytes() == source.read_bytes()
    assert list(target.parent.iterdir()) == [target]
    assert _keys(store) == ["models/1/weights"]


def test_a_failed_fetch_leaves_the_file_that_was_there(store: ObjectStore, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_bytes(b"old")
    with pytest.raises(ObjectNotFoundError):
        store.fetch("none", target)
    assert target.read_bytes() == b"old"
    assert not list(tmp_path.glob(".*"))


def test_a_missing_local_file_is_the_callers_error(store: ObjectStore, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        store.put_file("a", tmp_path / "none")
    assert not store.exists("a")


def test_a_missing_object_is_not_found(store: ObjectStore) -> None:
    assert not store.exists("none")
    for read in (store.get, store.size):
        with pytest.raises(ObjectNotFoundError, match="none"):
            read("none")


def test_a_folder_is_no_object(store: ObjectStore) -> None:
    store.put("a/b", b"1")
    assert not store.exists("a")
    for read in (store.get, store.size):
        with pytest.raises(ObjectNotFoundError):
            read("a")
    store.delete("a")
    assert store.get("a/b") == b"1"


def test_deleting_twice_is_as_good_as_once(store: ObjectStore) -> None:
    store.put("a", b"one")
    store.delete("a")
    store.delete("a")
    assert not store.exists("a")
    store.put("a", b"two")
    assert store.get("a") == b"two"


def test_a_listing_has_each_key_below_the_prefix_once(store: ObjectStore) -> None:
    keys = ["a/1", "a/2", "a/b/1", "a-b", "a0/1", "b", "ab/c", "a/B", "a/é"]
    for key in keys:
        store.put(key, key.encode())
    assert sorted(_keys(store)) == sorted(keys)
    for prefix in ("a", "a/", "a/b", "a/b/", "a/1", "b", "none", "none/x", "b/x"):
        assert sorted(_keys(store, prefix)) == sorted(k for k in keys if k.startswith(prefix))


def test_a_listing_keeps_the_byte_order_of_each_folder(store: ObjectStore) -> None:
    names = ["10", "9", "B", "a", "b-1", "b", "é", "ｚ", "𝒛"]
    for name in names:
        store.put(f"one/{name}", b"")
        store.put(f"two/{name}.jpg", b"")
    ordered = sorted(f"one/{name}" for name in names)
    ordered += sorted(f"two/{name}.jpg" for name in names)
    assert _keys(store) == ordered


def test_a_listing_tells_size_and_time(store: ObjectStore) -> None:
    store.put("a", b"12345")
    (found,) = store.list()
    assert (found.key, found.size) == ("a", 5)
    assert found.modified.tzinfo is UTC
    assert abs(found.modified - datetime.now(UTC)) < timedelta(minutes=1)


def test_an_empty_store_lists_nothing(store: ObjectStore) -> None:
    assert _keys(store) == []


def test_a_hostile_key_is_refused_by_every_method(store: ObjectStore, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    calls: list[Callable[[str], object]] = [
        lambda key: store.put(key, b"x"),
        lambda key: store.put_file(key, tmp_path / "file"),
        lambda key: store.get(key),
        lambda key: store.fetch(key, tmp_path / "out"),
        lambda key: store.exists(key),
        lambda key: store.size(key),
        lambda key: store.delete(key),
        lambda key: store.uri(key),
        lambda key: store.delta_uri(key),
        lambda key: list(store.list(key or "/")),
        lambda key: list(store.list(key + "/x")),
    ]
    for key in HOSTILE_KEYS:
        for call in calls:
            if key == "a/" and call is calls[-2]:
                continue  # a valid prefix
            with pytest.raises(ValueError, match=r"bad key|surrogates not allowed"):
                call(key)


@given(st.text())
def test_a_key_that_passes_stays_below_the_root(key: str) -> None:
    try:
        check_key(key)
    except ValueError:
        return
    path = Path(os.path.normpath(Path("/root/store") / key))
    assert path.is_relative_to("/root/store")
    assert path != Path("/root/store")


def test_the_uri_leads_back_to_the_store(tmp_path: Path) -> None:
    local = LocalStore(tmp_path / "with space")
    local.put("a/b", b"1")
    assert open_store(local.uri("a")).get("b") == b"1"
    assert S3Store("bucket", "/x/y/").uri("a/b") == "s3://bucket/x/y/a/b"
    assert S3Store("bucket", "").uri("a/b") == "s3://bucket/a/b"


def test_open_store_knows_folders_and_s3(s3: S3Server, tmp_path: Path) -> None:
    local = open_store(str(tmp_path))
    remote = open_store(
        f"s3://{s3.bucket}/opened/here",
        endpoint_url=s3.endpoint_url,
        access_key=s3.access_key,
        secret_key=s3.secret_key,
        region=s3.region,
    )
    local.put("a", b"local")
    remote.put("a", b"remote")
    assert (tmp_path / "a").read_bytes() == b"local"
    assert remote.get("a") == b"remote"
    assert remote.uri("a") == f"s3://{s3.bucket}/opened/here/a"


@pytest.mark.parametrize("uri", ["", "gs://bucket/x", "s3://", "s3:///x", "file://host/x"])
def test_an_unknown_store_address_is_refused(uri: str) -> None:
    with pytest.raises(ValueError, match="store address"):
        open_store(uri)


def test_no_secret_is_in_the_repr() -> None:
    store = S3Store("b", "p", "http://127.0.0.1:1", "us-east-1", "the-access", "the-secret")
    assert "the-secret" not in repr(store)
    assert "the-access" not in repr(store)


def test_half_a_pair_of_credentials_or_a_password_in_the_endpoint_is_refused() -> None:
    with pytest.raises(ValueError, match="together"):
        S3Store("b", "p", access_key="only")
    with pytest.raises(ValueError, match="endpoint_url"):
        S3Store("b", "p", "http://me:secret@127.0.0.1:1")
    with pytest.raises(ValueError, match="bad key"):
        S3Store("b", "a/../b")


def test_an_s3_that_is_down_is_reported_within_seconds() -> None:
    (port,) = free_ports(1)
    store = S3Store("b", "p", f"http://127.0.0.1:{port}", "us-east-1", "access", "secret")
    calls: list[Callable[[], object]] = [
        lambda: store.put("a", b"x"),
        lambda: store.get("a"),
        lambda: list(store.list()),
    ]
    for call in calls:
        start = time.monotonic()
        with pytest.raises(StorageUnavailableError) as caught:
            call()
        assert time.monotonic() - start < 10
        assert type(caught.value.__cause__).__module__.startswith("botocore")


def test_a_wrong_secret_is_no_passing_fault(s3: S3Server) -> None:
    store = S3Store(s3.bucket, "p", s3.endpoint_url, s3.region, s3.access_key, "wrong")
    with pytest.raises(StorageError, match="SignatureDoesNotMatch") as caught:
        store.get("a")
    assert not isinstance(caught.value, StorageUnavailableError)


def test_a_listing_of_s3_goes_on_past_its_first_page(s3: S3Server) -> None:
    server = (s3.endpoint_url, s3.region, s3.access_key, s3.secret_key)
    store = S3Store(s3.bucket, "paged", *server)
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda number: store.put(f"{number:04}", b""), range(1005)))
    assert _keys(store) == [f"{number:04}" for number in range(1005)]


def test_a_link_does_not_lead_out_of_a_local_store(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    store = LocalStore(tmp_path / "store")
    store.put("a", b"1")
    (store.root / "folder").symlink_to(outside)
    (store.root / "file").symlink_to(outside / "secret")
    (store.root / "loop").symlink_to(store.root / "loop")
    calls: list[Callable[[], object]] = [
        lambda: store.get("folder/secret"),
        lambda: store.get("file"),
        lambda: store.exists("file"),
        lambda: store.put("folder/new", b"x"),
        lambda: store.delete("folder/secret"),
        lambda: store.exists("loop"),
        lambda: list(store.list("folder/")),
    ]
    for call in calls:
        with pytest.raises(StorageError, match=r"link|followed"):
            call()
    assert list(outside.iterdir()) == [outside / "secret"]
    assert _keys(store) == ["a"]


def test_a_local_listing_skips_files_that_are_no_objects(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    store.put("a", b"1")
    (tmp_path / ".tmp-1").write_bytes(b"half")
    (tmp_path / "back\\slash").write_bytes(b"x")
    assert _keys(store) == ["a"]


def test_a_local_listing_is_in_byte_order_across_folders(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    for key in ("a/x", "a-b", "a0", "a/x-1/y"):
        store.put(key, b"")
    assert _keys(store) == sorted(["a/x", "a-b", "a0", "a/x-1/y"])


def test_a_local_object_below_an_object_is_refused(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    store.put("a/b", b"1")
    for key in ("a", "a/b/c", "a/b/c/d"):
        with pytest.raises(StorageError) as caught:
            store.put(key, b"2")
        assert not isinstance(caught.value, ObjectNotFoundError)
    assert _keys(store) == ["a/b"]


def test_a_local_write_that_fails_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = LocalStore(tmp_path)

    def full_disk(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("storage.local_files.os.fsync", full_disk)
    with pytest.raises(StorageError, match="No space left"):
        store.put("a", b"1")
    assert not list(tmp_path.iterdir())


def test_a_prefix_of_any_characters_holds_objects_and_masks(s3: S3Server) -> None:
    prefix = "a b#c?d [e]|f^g {h} 100% +&=;,@:!~()'\"<>` 猫"
    keys = (s3.endpoint_url, s3.region, s3.access_key, s3.secret_key)
    store = S3Store(s3.bucket, prefix, *keys)
    store.put("x/y", b"1")
    MaskTable(store).commit([], run_id="r", shard=0)
    assert MaskTable(store).committed("r", 0)
    found = [info.key for info in store.list()]
    assert "x/y" in found
    assert any(key.startswith("masks/_delta_log/") for key in found)
    escaped = S3Store(s3.bucket, "my%20data", *keys)
    with pytest.raises(StorageError, match="deltalake takes no %20"):
        MaskTable(escaped)
