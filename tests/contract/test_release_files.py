"""A release's files in every store: written, read by columns and images, and checked."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from engine.core import rle as rle_codec
from storage.objects import ObjectStore
from storage.release_check import check_files
from storage.release_files import (
    CATEGORIES_FILE,
    IMAGES_FILE,
    IMAGES_SCHEMA,
    MANIFEST_FILE,
    MASKS_SCHEMA,
    Manifest,
    MaskFilesWriter,
    ReleaseFileError,
    ReleaseFiles,
    RowsWriter,
    entry_of,
    tree_sum,
)
from tests.unit.test_release_diff import image_row, mask_row

KEY = "releases/d-1/0"
PIXELS = b"pixels"


def write(folder: Path, masks: int = 2, images: int = 5) -> Manifest:
    """A release of some images with some masks each, in files of four rows."""
    folder.mkdir()
    digest = hashlib.sha256(PIXELS).hexdigest()
    with MaskFilesWriter(folder, 4) as files, RowsWriter(folder / IMAGES_FILE, IMAGES_SCHEMA) as to:
        for image in range(1, images + 1):
            rows = [mask_row(f"{image}/{n}", image, n) for n in range(masks)]
            files.write(pa.Table.from_pylist(rows, MASKS_SCHEMA))
            row = image_row(image, masks) | {"key": "images/p", "sha256": digest}
            to.write(pa.Table.from_pylist([row], IMAGES_SCHEMA))
    (folder / CATEGORIES_FILE).write_text('{"categories": [{"id": 1, "name": "cat"}]}')
    entries = [entry_of(folder, name) for name in (*files.names, IMAGES_FILE, CATEGORIES_FILE)]
    manifest = Manifest(
        name="d-1",
        dataset="d",
        created_at="2026-01-01T00:00:00+00:00",
        table_version=3,
        label_id=None,
        categories_version=None,
        rules={},
        counts={"masks": masks * images, "images": images},
        models={},
        settings={},
        code_version="1",
        files=entries,
        tree_sha256=tree_sum(entries),
    )
    (folder / MANIFEST_FILE).write_bytes(manifest.to_json())
    return manifest


@pytest.fixture
def stored(store: ObjectStore, tmp_path: Path) -> ObjectStore:
    write(tmp_path / "made")
    store.put("images/p", PIXELS)
    for path in (tmp_path / "made").iterdir():
        store.put_file(f"{KEY}/{path.name}", path)
    return store


def opened(store: ObjectStore, tmp_path: Path) -> ReleaseFiles:
    return ReleaseFiles(store, KEY, tmp_path / "cache")


def problems(store: ObjectStore, files: ReleaseFiles) -> list[tuple[str, str]]:
    digest = hashlib.sha256(files.manifest_bytes).hexdigest()
    found = check_files(files, store, manifest_sha256=digest)
    return [(one.file, one.problem) for one in found]


def test_masks_are_read_by_images_and_by_columns(stored: ObjectStore, tmp_path: Path) -> None:
    files = opened(stored, tmp_path)
    assert files.mask_files == [f"masks-0000{n}.parquet" for n in range(3)]
    some = files.masks(["mask_id"], first=2, last=3)
    assert some.column("mask_id").to_pylist() == ["2/0", "2/1", "3/0", "3/1"]
    ids = [one for batch in files.batches(["image_id"]) for one in batch.column(0).to_pylist()]
    assert ids == sorted([1, 2, 3, 4, 5] * 2)
    assert files.masks(first=9, last=9).num_rows == 0
    assert files.categories() == {1: "cat"}
    assert problems(stored, files) == []


def test_a_damaged_file_is_named_and_the_rest_is_read(stored: ObjectStore, tmp_path: Path) -> None:
    stored.delete(f"{KEY}/masks-00001.parquet")
    stored.put(f"{KEY}/masks-00001.parquet", b"PAR1 nonsense PAR1")
    files = opened(stored, tmp_path)
    with pytest.raises(ReleaseFileError, match=r"masks-00001\.parquet of the release"):
        files.masks(first=1, last=9)
    ((name, problem),) = problems(stored, files)
    assert name == "masks-00001.parquet"
    assert "18 bytes" in problem


def test_what_is_no_manifest_is_refused(store: ObjectStore, tmp_path: Path) -> None:
    with pytest.raises(ReleaseFileError, match="has no manifest"):
        opened(store, tmp_path)
    entry = b'{"name": "../../etc/passwd", "bytes": 1, "sha256": "0"}'
    outside = b'{"format": 1, "files": [' + entry + b"]}"
    contents = (b"[1]", b"{", b'{"format": 1}', b'{"format": 99, "files": []}', outside)
    for n, content in enumerate(contents):
        store.put(f"{KEY}{n}/{MANIFEST_FILE}", content)
        with pytest.raises(ReleaseFileError, match="manifest"):
            ReleaseFiles(store, f"{KEY}{n}", tmp_path / "cache")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"counts": b"\xff\xff"}, "run lengths cannot be read"),
        ({"counts": rle_codec.encode(np.ones((9, 9), bool)).counts}, "do not add up"),
        ({"area": 1}, "pixels, its column says 1"),
        ({"bbox_w": 1}, "its box is"),
        ({"height": 9}, "its size is (9,"),
        ({"image_id": 77}, "not in images.parquet"),
    ],
)
def test_rows_that_contradict_each_other_are_found(
    tmp_path: Path, change: dict[str, Any], told: str
) -> None:
    from storage.local_store import LocalStore

    store, folder = LocalStore(tmp_path / "store"), tmp_path / "made"
    manifest = write(folder, images=2)
    store.put("images/p", PIXELS)
    rows = [mask_row(f"{image}/{n}", image, n) for image in (1, 2) for n in range(2)]
    rows[-1] |= change
    with MaskFilesWriter(folder) as files:
        files.write(pa.Table.from_pylist(rows, MASKS_SCHEMA))
    entries = [entry_of(folder, one.name) for one in manifest.files]
    manifest = replace(manifest, files=entries, tree_sha256=tree_sum(entries))
    (folder / MANIFEST_FILE).write_bytes(manifest.to_json())
    for path in folder.iterdir():
        store.put_file(f"{KEY}/{path.name}", path)
    ((name, problem), *_) = problems(store, opened(store, tmp_path))
    assert name == "masks-00000.parquet"
    assert told in problem
