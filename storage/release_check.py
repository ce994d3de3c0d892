"""Checks a release's files against its manifest: sums, schemas, counts, and masks by sample."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from engine.core import rle as rle_codec
from engine.core.rle import RLE
from storage.formats.segmentation import run_lengths
from storage.objects import ObjectNotFoundError, ObjectStore
from storage.release_files import (
    IMAGES_FILE,
    IMAGES_SCHEMA,
    MANIFEST_FILE,
    MASKS_SCHEMA,
    FileEntry,
    ReleaseFiles,
    is_masks_file,
    tree_sum,
)

SAMPLE = 200
"""Masks that are decoded, spread evenly over each file."""
PIXELS = 20
"""Images whose pixels are compared with their sums."""


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with a file."""

    file: str
    problem: str


def check_files(
    files: ReleaseFiles,
    store: ObjectStore,
    *,
    manifest_sha256: str,
    sample: int = SAMPLE,
    pixels: int = PIXELS,
    advance: Callable[[], None] = lambda: None,
) -> Iterator[Problem]:
    """Yield everything that is wrong with a release's files; nothing if they are whole.

    Args:
        files: of the release.
        store: holds the images' pixels.
        manifest_sha256: of the manifest, as the catalog knows it.
        sample: masks to decode in each file.
        pixels: images to read and compare with their SHA-256.
        advance: called after each file.

    Raises:
        StorageUnavailableError: the store does not answer.
    """
    manifest = files.manifest
    if hashlib.sha256(files.manifest_bytes).hexdigest() != manifest_sha256:
        yield Problem(MANIFEST_FILE, "its SHA-256 is not the one in the catalog: it was changed")
    if tree_sum(manifest.files) != manifest.tree_sha256:
        yield Problem(MANIFEST_FILE, "tree_sha256 does not fit its own list of files")
    whole = True
    for entry in manifest.files:
        found = list(_file_problems(files, entry))
        whole &= not found
        yield from found
        advance()
    if whole:  # else the same faults would be told again
        yield from _content_problems(files, store, sample, pixels)


def _file_problems(files: ReleaseFiles, entry: FileEntry) -> Iterator[Problem]:
    try:
        path = files.path(entry.name)
        size = path.stat().st_size
    except (ObjectNotFoundError, FileNotFoundError):
        yield Problem(entry.name, "it is missing")
        return
    if size != entry.bytes:
        yield Problem(entry.name, f"it has {size:,} bytes, the manifest says {entry.bytes:,}")
        return
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != entry.sha256:
        yield Problem(
            entry.name, f"its SHA-256 is {digest[:12]}…, the manifest says {entry.sha256[:12]}…"
        )
    elif entry.rows is not None:
        yield from _schema_problems(path, entry)


def _schema_problems(path: Path, entry: FileEntry) -> Iterator[Problem]:
    wanted = MASKS_SCHEMA if is_masks_file(entry.name) else IMAGES_SCHEMA
    try:
        with pq.ParquetFile(path) as file:
            schema, rows = file.schema_arrow, file.metadata.num_rows
    except (pa.ArrowException, OSError) as error:
        yield Problem(entry.name, f"it is not Parquet: {error}")
        return
    if rows != entry.rows:
        yield Problem(entry.name, f"it has {rows:,} rows, the manifest says {entry.rows:,}")
    for field in wanted:
        place = schema.get_field_index(field.name)
        if place < 0:
            yield Problem(entry.name, f"it has no column {field.name!r}")
        elif schema.field(place).type != field.type:
            kind = schema.field(place).type
            yield Problem(entry.name, f"column {field.name!r} is {kind}, expected {field.type}")


def _content_problems(
    files: ReleaseFiles, store: ObjectStore, sample: int, pixels: int
) -> Iterator[Problem]:
    images = files.images()
    ids, per_image = (images.column(name).to_numpy() for name in ("image_id", "masks"))
    if len(ids) and (np.diff(ids) <= 0).any():
        yield Problem(IMAGES_FILE, "its image ids are not in ascending order, each once")
        return
    counted = np.zeros(len(ids), np.int64)
    last = -1
    for name in files.mask_files:
        with pq.ParquetFile(files.path(name)) as file:
            for batch in file.iter_batches(columns=["image_id"]):
                owners = batch.column("image_id").to_numpy()
                places = np.searchsorted(ids, owners)
                known = places < len(ids)
                known[known] = ids[places[known]] == owners[known]
                if not known.all():
                    missing = int(owners[~known][0])
                    yield Problem(name, f"it has masks of image {missing}, not in {IMAGES_FILE}")
                    return
                if (np.diff(owners, prepend=last) < 0).any():
                    yield Problem(name, "its rows are not sorted by image")
                    return
                last = int(owners[-1])
                np.add.at(counted, places, 1)
            yield from _decoded(name, file, images, sample)
    if wrong := np.flatnonzero(counted != per_image).tolist():
        first = wrong[0]
        yield Problem(
            IMAGES_FILE,
            f"image {ids[first]} has {counted[first]} masks, its row says {per_image[first]}",
        )
    yield from _count_problems(files, images, int(counted.sum()))
    yield from _pixel_problems(images, store, pixels)


def _count_problems(files: ReleaseFiles, images: pa.Table, masks: int) -> Iterator[Problem]:
    told = files.manifest.counts
    statuses = images.column("status").to_pylist()
    found = {
        "masks": masks,
        "images": sum(status != "neither" for status in statuses),
        "statuses": {name: statuses.count(name) for name in told.get("statuses", {})},
    }
    for name, value in found.items():
        if name in told and told[name] != value:
            yield Problem(MANIFEST_FILE, f"it counts {name} {told[name]}, the files have {value}")


def _decoded(name: str, file: pq.ParquetFile, images: pa.Table, sample: int) -> Iterator[Problem]:
    """Decode masks of a file, and compare size, area and box with their columns."""
    rows = file.metadata.num_rows
    wanted = np.unique(np.linspace(0, rows - 1, min(sample, rows)).round().astype(np.int64))
    sizes = {
        row["image_id"]: (row["height"], row["width"])
        for row in images.select(["image_id", "height", "width"]).to_pylist()
    }
    columns = ["mask_id", "image_id", "height", "width", "counts", "area"]
    columns += [f"bbox_{side}" for side in "xywh"]
    start = 0
    for group in range(file.metadata.num_row_groups):
        end = start + file.metadata.row_group(group).num_rows
        mine = wanted[(wanted >= start) & (wanted < end)] - start
        start = end
        if not len(mine):
            continue
        for row in file.read_row_group(group, columns=columns).take(pa.array(mine)).to_pylist():
            if fault := _fault(row, sizes[row["image_id"]]):
                yield Problem(name, f"mask {row['mask_id']}: {fault}")
                return


def _fault(row: dict[str, object], image_size: tuple[int, int]) -> str | None:
    size = (int(str(row["height"])), int(str(row["width"])))
    if size != image_size:
        return f"its size is {size}, the image's {image_size}"
    counts = row["counts"]
    assert isinstance(counts, bytes)
    rle = RLE(size=size, counts=counts)
    try:
        lengths = run_lengths(rle)
    except ValueError as error:
        return f"its run lengths cannot be read: {error}"
    if (lengths < 0).any() or lengths.sum() != size[0] * size[1]:  # pycocotools does not check
        return f"its run lengths do not add up to {size[0]} x {size[1]} pixels"
    area = int(rle_codec.decode(rle).sum())
    if area != row["area"]:
        return f"it has {area} pixels, its column says {row['area']}"
    x0, y0, x1, y1 = rle_codec.box_xyxy(rle)
    box, told = (x0, y0, x1 - x0, y1 - y0), tuple(row[f"bbox_{side}"] for side in "xywh")
    return None if box == told else f"its box is {box}, its columns say {told}"


def _pixel_problems(images: pa.Table, store: ObjectStore, sample: int) -> Iterator[Problem]:
    rows = images.num_rows
    places = np.unique(np.linspace(0, rows - 1, min(sample, rows)).round().astype(np.int64))
    for row in images.take(pa.array(places)).to_pylist():
        try:
            data = store.get(row["key"])
        except ObjectNotFoundError:
            yield Problem(row["key"], f"the pixels of image {row['image_id']} are missing")
            continue
        if hashlib.sha256(data).hexdigest() != row["sha256"]:
            yield Problem(row["key"], f"it is not image {row['image_id']}: its SHA-256 differs")
