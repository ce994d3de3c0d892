"""A release's images and masks as Parquet that Hugging Face's `datasets` and `MaskDataset` read.

A row is an image with its bytes; `objects` has a list for each field of its masks, all of one
length. `counts` is COCO's compressed RLE as text, of the size (height, width); boxes are x, y,
width, height in pixels. The meaning of the columns is in the file's metadata, as `datasets` writes
it: https://huggingface.co/docs/datasets.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from storage.formats.pages import Page

GROUP_IMAGES = 16
"""Images of a row group: what a reader holds at least."""
_BOX = pa.list_(pa.int32(), 4)
_OBJECTS: dict[str, pa.DataType] = {
    "mask_id": pa.string(),
    "category": pa.int64(),
    "bbox": _BOX,
    "area": pa.int64(),
    "counts": pa.string(),
    "predicted_iou": pa.float32(),
    "stability_score": pa.float32(),
    "stage": pa.string(),
    "source": pa.string(),
}
SCHEMA = pa.schema(
    [
        pa.field("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        *(pa.field(name, pa.string()) for name in ("file_name", "sha256", "status")),
        pa.field("image_id", pa.int64()),
        *(pa.field(name, pa.int32()) for name in ("height", "width")),
        pa.field("objects", pa.struct([(n, pa.list_(kind)) for n, kind in _OBJECTS.items()])),
    ]
)
"""The columns. `category` is a place in the list of names, -1 for a mask without a category."""
FOLDER = "data"
_LEAVES = [
    *(field.name for field in SCHEMA if not pa.types.is_struct(field.type)),
    *(f"objects.{name}.list.element" for name in _OBJECTS if name != "bbox"),
    *("objects.bbox.list.element.list.element", "image.bytes", "image.path"),
]
"""Paths of the columns in the file."""


def schema_of(names: Sequence[str]) -> pa.Schema:
    """SCHEMA with the description that `datasets` reads; `names` are those of the categories."""
    features: dict[str, Any] = {field.name: _feature(field.type) for field in SCHEMA}
    features["image"] = {"_type": "Image"}
    category = {"names": list(names), "_type": "ClassLabel"}
    features["objects"]["category"] = {"feature": category, "_type": "Sequence"}
    described = json.dumps({"info": {"features": features}})
    return SCHEMA.with_metadata({"huggingface": described})


class ImageRows:
    """Writes one Parquet file, in a `with` block."""

    def __init__(
        self, path: Path, ids: Sequence[int | None], names: Sequence[str], load: ImageLoader
    ) -> None:
        """`ids` are the categories' ids in the order of `names`; [None]: all masks are of the one
        category."""
        self._ids, self._load = ids, load
        # Image files are compressed already.
        compression = dict.fromkeys(_LEAVES, "zstd") | {"image.bytes": "none"}
        self._writer = pq.ParquetWriter(path, schema_of(names), compression=compression)

    def __enter__(self) -> Self:
        return self

    def add(self, page: Page) -> None:
        """Append the page's images.

        Raises:
            BadImageError: an image cannot be read.
            StorageError: an image's object cannot be fetched.
        """
        for begin in range(0, len(page), GROUP_IMAGES):
            rows = self._rows(page.slice(begin, min(begin + GROUP_IMAGES, len(page))))
            self._writer.write_table(rows)

    def _rows(self, page: Page) -> pa.Table:
        keys = page.image_column("key").to_pylist()
        ids = page.image_column("image_id").to_pylist()
        files = [self._load(key) for key in keys]
        paths = [f"{number}{suffix}" for number, (_, suffix) in zip(ids, files, strict=True)]
        image = pa.StructArray.from_arrays(
            [pa.array([data for data, _ in files], pa.binary()), pa.array(paths)],
            fields=list(SCHEMA.field("image").type),
        )
        columns = {
            name: page.image_column(name)
            for name in ("file_name", "sha256", "status", "image_id", "height", "width")
        }
        columns |= {"image": image, "objects": self._objects(page)}
        arrays = [columns[field.name].cast(field.type) for field in SCHEMA]
        return pa.Table.from_arrays(arrays, schema=self._writer.schema)

    def _objects(self, page: Page) -> pa.StructArray:
        starts = pa.array(page.starts, pa.int32())
        lists = []
        for name, kind in _OBJECTS.items():
            if name == "bbox":
                sides = [page.column(f"bbox_{side}").to_numpy() for side in "xywh"]
                flat = pa.array(
                    [value for box in zip(*sides, strict=True) for value in box], pa.int32()
                )
                values = pa.FixedSizeListArray.from_arrays(flat, type=_BOX)
            elif name == "category":
                values = self._categories(page)
            else:
                values = page.column(name).cast(kind)
            lists.append(pa.ListArray.from_arrays(starts, values))
        return pa.StructArray.from_arrays(lists, fields=list(SCHEMA.field("objects").type))

    def _categories(self, page: Page) -> pa.Array:
        if self._ids == [None]:
            return pa.array([0] * page.masks.num_rows, pa.int64())
        places = pc.index_in(page.column("category_id"), pa.array(self._ids, pa.int32()))
        return pc.fill_null(places, -1).cast(pa.int64())

    def __exit__(self, *error: object) -> None:
        self._writer.close()


ImageLoader = Callable[[str], tuple[bytes, str]]
"""Returns an image file that every reader knows, and its suffix, from the key of its object."""


def card_head(splits: Sequence[str], rows: int) -> str:
    """The YAML head of a dataset card that names the files of each split."""
    names = {"val": "validation"}
    lines = ["---", "configs:", "- config_name: default", "  data_files:"]
    for split in splits:
        lines.append(f"  - split: {names.get(split, split)}")
        lines.append(f"    path: {FOLDER}/{split}-*.parquet")
    return "\n".join([*lines, f"size_categories: [{_size(rows)}]", "---", ""])


def _size(rows: int) -> str:
    """Hugging Face's word for a number of rows."""
    steps = [(1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (10**6, "100K<n<1M")]
    return next((word for limit, word in steps if rows < limit), "1M<n<10M")


def _feature(kind: pa.DataType) -> dict[str, Any]:
    if pa.types.is_struct(kind):
        return {field.name: _feature(field.type) for field in kind}
    if pa.types.is_fixed_size_list(kind):
        length = kind.list_size
        return {"feature": _feature(kind.value_type), "length": length, "_type": "Sequence"}
    if pa.types.is_list(kind):
        return {"feature": _feature(kind.value_type), "_type": "Sequence"}
    name = {"float": "float32", "double": "float64"}.get(str(kind), str(kind))
    return {"dtype": name, "_type": "Value"}
