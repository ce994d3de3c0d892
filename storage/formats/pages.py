"""Pages of a release: some images with all their masks, as Arrow tables.

Exports read and write page by page, so what they hold in memory does not grow with the release.

I = images of a page, N = its masks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from engine.core.records import Mask
from storage.mask_rows import columns_of
from storage.release_files import MASKS_SCHEMA

IMAGE_FIELDS = pa.schema(
    [
        pa.field("image_id", pa.int64(), nullable=False),
        pa.field("file_name", pa.string(), nullable=False),
        pa.field("sha256", pa.string()),
        pa.field("key", pa.string()),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("split", pa.string()),
        pa.field("status", pa.string()),
    ]
)
"""The columns of a page's images that exports read; `key` is of the image's object."""
_WIDE = pa.schema(
    field.with_type(pa.float64()) if field.type == pa.float32() else field for field in MASKS_SCHEMA
)
"""MASKS_SCHEMA with scores as Masks have them."""
PAGE_IMAGES = 4_096
"""Images of a page, at most."""


@dataclass(frozen=True, slots=True)
class Page:
    """Images of IMAGE_FIELDS, and their masks of MASKS_SCHEMA (scores may be float64), by image in
    the images' order."""

    images: pa.Table
    masks: pa.Table
    starts: np.ndarray
    """int64 (I + 1): each image's first mask, and N."""

    def __len__(self) -> int:
        return int(self.images.num_rows)

    def column(self, name: str) -> pa.Array:
        """A column of the masks, in one piece."""
        return _whole(self.masks.column(name))

    def image_column(self, name: str) -> pa.Array:
        """A column of the images, in one piece."""
        return _whole(self.images.column(name))

    def image_of_masks(self) -> np.ndarray:
        """The image's place in the page of each mask, int64 (N,)."""
        return np.repeat(np.arange(len(self)), np.diff(self.starts))

    def slice(self, begin: int, end: int) -> Page:
        """The page of the images from one place to another."""
        first, last = int(self.starts[begin]), int(self.starts[end])
        rows = self.masks.slice(first, last - first)
        return Page(
            self.images.slice(begin, end - begin), rows, self.starts[begin : end + 1] - first
        )

    def where(self, keep_I: np.ndarray) -> Page:
        """The page of some of its images; `keep_I` is bool (I,)."""
        if keep_I.all():
            return self
        counts = np.diff(self.starts)
        masks = self.masks.filter(pa.array(np.repeat(keep_I, counts)))
        return Page(self.images.filter(pa.array(keep_I)), masks, _starts(counts[keep_I]))

    def with_masks(self, keep_N: np.ndarray) -> Page:
        """The page of some of its masks; `keep_N` is bool (N,)."""
        kept = np.concatenate([[0], np.cumsum(keep_N)])[self.starts]
        return Page(self.images, self.masks.filter(pa.array(keep_N)), kept)


def page_of(image: Mapping[str, Any], masks: Iterable[Mask], category_ids: Any = None) -> Page:
    """The page of one image with Masks.

    Args:
        image: values of IMAGE_FIELDS.
        masks: of the image.
        category_ids: by mask id.
    """
    held = list(masks)
    columns = columns_of(held)
    columns["image_id"] = [image["image_id"]] * len(held)
    columns["category_id"] = [(category_ids or {}).get(mask.mask_id) for mask in held]
    rows = pa.Table.from_pydict(columns, schema=_WIDE)
    values = {field.name: [image.get(field.name)] for field in IMAGE_FIELDS}
    return Page(pa.Table.from_pydict(values, schema=IMAGE_FIELDS), rows, _starts([len(held)]))


def pages(images: pa.Table, batches: Iterable[pa.RecordBatch]) -> Iterator[Page]:
    """Divide a release into pages of whole images.

    Args:
        images: all images, by ascending `image_id`.
        batches: the masks, by ascending `image_id`, however they divide into images.

    Raises:
        ValueError: a mask's image is not listed, or the rows are in another order.
    """
    ids = images.column("image_id").to_numpy()
    place, pending = 0, None
    for batch in batches:
        fresh = pa.Table.from_batches([batch])
        pending = fresh if pending is None else pa.concat_tables([pending, fresh])
        if not pending.num_rows:
            continue
        end = int(np.searchsorted(ids, pending.column("image_id")[-1].as_py()))
        if end > place:
            owners = pending.column("image_id").to_numpy()
            cut = int(np.searchsorted(owners, ids[end])) if end < len(ids) else len(owners)
            yield from _cut(images, ids, place, end, pending.slice(0, cut))
            place, pending = end, pending.slice(cut)
    if pending is None:
        pending = MASKS_SCHEMA.empty_table()
    yield from _cut(images, ids, place, len(ids), pending)


def _cut(
    images: pa.Table, ids: np.ndarray, begin: int, end: int, masks: pa.Table
) -> Iterator[Page]:
    """Pages of the images from `begin` to `end`, whose masks these are."""
    owners = masks.column("image_id").to_numpy()
    firsts = np.searchsorted(owners, ids[begin:end], "left")
    lasts = np.searchsorted(owners, ids[begin:end], "right")
    if int((lasts - firsts).sum()) != len(owners) or (np.diff(owners) < 0).any():
        known = np.isin(owners, ids[begin:end])
        what = f"image {owners[~known][0]} is not listed" if not known.all() else "not by image"
        raise ValueError(f"the release's masks do not fit its images: {what}")
    for one in range(begin, end, PAGE_IMAGES):
        last = min(one + PAGE_IMAGES, end)
        counts = (lasts - firsts)[one - begin : last - begin]
        first = int(firsts[one - begin])
        rows = masks.slice(first, int(counts.sum()))
        yield Page(images.slice(one, last - one), rows, _starts(counts))


def _starts(counts: Any) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def _whole(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
