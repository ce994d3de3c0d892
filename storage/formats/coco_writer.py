"""Export masks as COCO instance JSON, as a stream.

Format: https://cocodataset.org/#format-data. Annotations are made column by column, so a million
masks take seconds.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from engine.core.categories import UNLABELLED, CategoryList
from engine.core.records import Mask
from engine.core.rle import RLE
from storage.formats import json_columns as columns
from storage.formats.outlines import polygons_of
from storage.formats.pages import Page, page_of

UNLABELLED_ID = 0
"""Category id of masks without a category, in files with categories: those have ids from 1."""


class CocoWriter:
    """Writes a COCO file page by page; what is held in memory is one page.

    Use as a context manager. The file appears under its name, whole, when the block ends; if the
    block raises, nothing is left behind and an older file of that name stays as it was.

    Without categories the file is class-agnostic: the category of all masks is `object`, id 1.

    Attributes:
        counts: `annotations`, and with polygons `lost_holes`, which polygons fill.
    """

    def __init__(
        self,
        path: Path,
        *,
        description: str = "",
        categories: CategoryList | None = None,
        polygons: bool = False,
    ) -> None:
        self._path = path
        self._categories, self._polygons = categories, polygons
        self._has_unlabelled = False
        self._description = description
        fresh = f".{path.name}.{uuid.uuid4().hex}"
        self._main_path = path.with_name(f"{fresh}.tmp")
        self._images_path = path.with_name(f"{fresh}.images.tmp")
        self._main: BinaryIO | None = None
        self._images: BinaryIO | None = None
        self._image_ids: set[int] = set()
        self.counts = {"annotations": 0}
        if polygons:
            self.counts["lost_holes"] = 0

    def __enter__(self) -> Self:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._main = self._main_path.open("wb")
        self._images = self._images_path.open("w+b")
        info = json.dumps({"description": self._description})
        self._main.write(f'{{"info":{info},\n"licenses":[],\n'.encode())
        if not self._categories_last:
            listed = json.dumps(self._category_entries())
            self._main.write(f'"categories":{listed},\n'.encode())
        self._main.write(b'"annotations":[')
        return self

    @property
    def _categories_last(self) -> bool:
        """Whether the list of categories depends on the masks."""
        return self._categories is not None

    def add_image(
        self,
        image_id: int,
        file_name: str,
        height: int,
        width: int,
        masks: Iterable[Mask],
        *,
        sha256: str | None = None,
        status: str | None = None,
        category_ids: Mapping[str, int] | None = None,
    ) -> None:
        """Write one image and all its masks, as `add_page` does; `status`, if given, is a field of
        the image. `category_ids`: of the writer's categories, by mask id.
        """
        image = {"image_id": image_id, "file_name": file_name, "height": height, "width": width}
        self.add_page(page_of(image | {"sha256": sha256, "status": status}, masks, category_ids))

    def add_page(self, page: Page) -> None:
        """Write a page's images and all their masks, or nothing if a mask does not fit. In a file
        with categories, masks without one get UNLABELLED_ID, which is listed as a category if a
        mask has it.

        Annotation ids count from 1, because COCOeval treats 0 as "no match". The SHA-256 of the
        image file is a field of our own: it identifies the file under any name.

        Raises:
            ValueError: a repeated image id, a mask whose size is not its image's, or a score that
                is not finite.
            RuntimeError: called outside the `with` block.
        """
        if self._main is None or self._images is None:
            raise RuntimeError("CocoWriter writes inside its `with` block only")
        ids = page.image_column("image_id").to_pylist()
        for image_id in ids:
            if image_id in self._image_ids:
                raise ValueError(f"image id {image_id} was written before")
        check_sizes(page)
        first = self.counts["annotations"] + 1
        chosen = None if self._categories is None else _category_ids(page)
        shapes = (self._polygon_texts(page),) if self._polygons else segmentations(page)
        numbers = pa.array(np.arange(first, first + page.masks.num_rows))
        lines = _annotation_lines(page, numbers, shapes, chosen)
        image_lines = columns.joined(self._image_lines(page), "}")
        if chosen is not None:
            self._has_unlabelled |= bool(pc.any(pc.equal(chosen, UNLABELLED_ID)).as_py())
        _append(self._main, lines, is_first=first == 1)
        _append(self._images, image_lines, is_first=not self._image_ids)
        self._image_ids.update(ids)
        self.counts["annotations"] += len(lines)

    def _polygon_texts(self, page: Page) -> pa.Array:
        """The masks' polygons as JSON."""
        found = [polygons_of(rle) for rle in rles_of(page.masks)]
        self.counts["lost_holes"] += sum(one.holes for one in found)
        written = [json.dumps(one.rings, separators=(",", ":")) for one in found]
        return pa.array(written, pa.string())

    def _image_lines(self, page: Page) -> pa.Array:
        """Each image's entry without the bracket at its end."""
        return columns.joined(
            *('{"id":', columns.integers(page.image_column("image_id"))),
            *(',"file_name":', columns.texts(page.image_column("file_name"))),
            *(',"height":', columns.integers(page.image_column("height"))),
            *(',"width":', columns.integers(page.image_column("width"))),
            columns.optional(',"sha256":', columns.texts(page.image_column("sha256"))),
            columns.optional(',"status":', columns.texts(page.image_column("status"))),
        )

    def _category_entries(self) -> list[dict[str, Any]]:
        if self._categories is None:
            return [{"id": 1, "name": "object", "supercategory": "object"}]
        return category_entries(self._categories, unlabelled=self._has_unlabelled)

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            for file in (self._main, self._images):
                if file is not None:
                    file.close()
            self._main = self._images = None
            self._main_path.unlink(missing_ok=True)
            self._images_path.unlink(missing_ok=True)

    def _finish(self) -> None:
        assert self._main is not None
        assert self._images is not None
        self._main.write(b'],\n"images":[')
        self._images.seek(0)
        shutil.copyfileobj(self._images, self._main)
        self._main.write(b"]")
        if self._categories_last:
            listed = json.dumps(self._category_entries())
            self._main.write(f',\n"categories":{listed}'.encode())
        self._main.write(b"}\n")
        self._main.flush()
        os.fsync(self._main.fileno())
        self._main.close()
        self._main_path.replace(self._path)


def category_entries(categories: CategoryList, *, unlabelled: bool) -> list[dict[str, Any]]:
    """The categories as COCO lists them; `supercategory` is the parent's name, or the own one.

    Args:
        categories: the list.
        unlabelled: add the reserved category of masks without one.
    """
    names = categories.names
    entries = [
        {
            "id": one.id,
            "name": one.name,
            "supercategory": names[one.parent] if one.parent else one.name,
        }
        for one in categories.categories
    ]
    if unlabelled:
        entries.append({"id": UNLABELLED_ID, "name": UNLABELLED, "supercategory": UNLABELLED})
    return entries


def check_sizes(page: Page) -> None:
    """Check that each mask has its image's size.

    Raises:
        ValueError: one has not.
    """
    places = pa.array(page.image_of_masks())
    same = pa.array(np.ones(page.masks.num_rows, bool))
    for side in ("height", "width"):
        same = pc.and_(same, pc.equal(page.column(side), page.image_column(side).take(places)))
    if pc.all(same).as_py() is False:
        row = pc.index(same, False).as_py()
        mask = page.masks.slice(row, 1).to_pylist()[0]
        image = page.images.slice(places[row].as_py(), 1).to_pylist()[0]
        sizes = [(one["height"], one["width"]) for one in (mask, image)]
        raise ValueError(f"mask {mask['mask_id']} has size {sizes[0]}, its image {sizes[1]} (H, W)")


def segmentations(page: Page) -> columns.Parts:
    """The parts of each mask's RLE object in COCO's JSON.

    Raises:
        ValueError: run lengths have characters not of COCO.
    """
    counts = columns.run_length_texts(page.column("counts"), page.column("mask_id"))
    height, width = (columns.integers(page.column(side)) for side in ("height", "width"))
    return '{"size":[', height, ",", width, '],"counts":"', counts, '"}'


def boxes(page: Page, name: str = "bbox") -> pa.Array:
    """Each mask's box as a JSON list [x, y, width, height]; null without one."""
    sides = [page.column(f"{name}_{side}") for side in "xywh"]
    return columns.list_of([columns.integers(side) for side in sides])


def scores(page: Page, name: str, what: str) -> pa.Array:
    """A score of each mask as JSON; null without one.

    Raises:
        ValueError: one is not finite.
    """
    return columns.numbers(page.column(name), page.column("mask_id"), what)


def rles_of(masks: pa.Table) -> list[RLE]:
    """The RLE of rows of masks."""
    sides = [masks.column(name).to_pylist() for name in ("height", "width", "counts")]
    return [RLE(size=(h, w), counts=counts) for h, w, counts in zip(*sides, strict=True)]


def _category_ids(page: Page) -> pa.Array:
    return pc.fill_null(page.column("category_id"), UNLABELLED_ID)


def _annotation_lines(
    page: Page, numbers: pa.Array, shapes: columns.Parts, chosen: pa.Array | None
) -> pa.Array:
    """COCO's annotation of each mask, as JSON."""
    category = "1" if chosen is None else columns.integers(chosen)
    scored = [
        columns.optional(f',"{name}":', scores(page, name, "a score of"))
        for name in ("predicted_iou", "stability_score")
    ]
    words = [
        part
        for name in ("stage", "source", "mask_id")
        for part in (f',"{name}":', columns.texts(page.column(name)))
    ]
    return columns.joined(
        *('{"id":', columns.integers(numbers)),
        *(',"image_id":', columns.integers(page.column("image_id"))),
        *(',"category_id":', category),
        *(',"segmentation":', *shapes),
        *(',"bbox":', boxes(page)),
        *(',"area":', columns.integers(page.column("area"))),
        *(',"iscrowd":0', *scored, *words, "}"),
    )


def _append(file: BinaryIO, lines: pa.Array, *, is_first: bool) -> None:
    """Write items of a JSON list."""
    if not len(lines):
        return
    file.write(b"\n" if is_first else b",\n")
    file.write(columns.grouped(lines, np.array([0, len(lines)]), ",\n").buffers()[2])
