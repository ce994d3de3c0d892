"""The files of a made-up release, of any number of masks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from storage.formats.pages import pages
from storage.formats.sa1b import sa1b_texts
from storage.mask_rows import to_batch
from storage.release_files import (
    IMAGES_FILE,
    IMAGES_SCHEMA,
    MASKS_SCHEMA,
    MaskFiles,
    MaskFilesWriter,
    RowsWriter,
)
from tests.benchmarks.scale import SIZE, random_masks

PER_IMAGE = 100
SHAPES = 20_000
RUN = "0f1e2d3c4b5a69788796a5b4c3d2e1f0"


def write_release(folder: Path, masks: int) -> None:
    """Write the files of a release of so many masks."""
    folder.mkdir()
    shapes = pa.Table.from_batches([to_batch(random_masks(0, min(SHAPES, masks)))])
    rng = np.random.default_rng(0)
    with (
        MaskFilesWriter(folder) as files,
        RowsWriter(folder / IMAGES_FILE, IMAGES_SCHEMA) as images,
    ):
        for begin in range(0, masks, SHAPES):
            count = min(SHAPES, masks - begin)
            files.write(_rows(shapes.slice(0, count), begin, rng))
            images.write(_images(begin // PER_IMAGE, -(-count // PER_IMAGE)))


def _rows(shapes: pa.Table, begin: int, rng: np.random.Generator) -> pa.Table:
    """Rows of MASKS_SCHEMA with these shapes, and ids and scores of their own."""
    count = shapes.num_rows
    numbers = np.arange(begin, begin + count)
    fresh = {
        "mask_id": pa.array(
            [f"{rng.integers(1 << 62):016x}/{n // PER_IMAGE}/{n}" for n in numbers]
        ),
        "image_id": pa.array(1 + numbers // PER_IMAGE),
        "predicted_iou": pa.array(rng.uniform(0.88, 1, count).astype(np.float32)),
        "stability_score": pa.array(rng.uniform(0.92, 1, count).astype(np.float32)),
        "point_x": pa.array(rng.uniform(0, SIZE[1], count).astype(np.float32)),
        "point_y": pa.array(rng.uniform(0, SIZE[0], count).astype(np.float32)),
        "category_id": pa.nulls(count, pa.int32()),
    }
    columns = [fresh.get(field.name) for field in MASKS_SCHEMA]
    return pa.Table.from_arrays(
        [
            shapes.column(field.name) if column is None else column
            for field, column in zip(MASKS_SCHEMA, columns, strict=True)
        ],
        schema=MASKS_SCHEMA,
    )


def _images(begin: int, count: int) -> pa.Table:
    rows = [
        {
            "image_id": n,
            "file_name": f"{n:07}.png",
            "sha256": f"{n:064x}",
            "key": f"images/{n}",
            "height": SIZE[0],
            "width": SIZE[1],
            "split": "train",
            "status": "generated",
            "near_image_id": None,
            "masks": PER_IMAGE,
        }
        for n in range(begin + 1, begin + 1 + count)
    ]
    return pa.Table.from_pylist(rows, IMAGES_SCHEMA)


def files_of(folder: Path) -> MaskFiles:
    """The release's files."""
    return MaskFiles([path.name for path in folder.iterdir()], folder.joinpath)


def json_files(release: Path) -> Iterator[bytes]:
    """SA-1B's JSON of each image."""
    files = files_of(release)
    for page in pages(files.images(), files.batches()):
        for text in sa1b_texts(page):
            yield text.as_buffer().to_pybytes()
