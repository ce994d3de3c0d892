"""Export masks as LVIS's JSON: COCO with counts of each category, and what an image lacks.

Format: https://www.lvisdataset.org/dataset. Masks need a category, so those without one are left
out. No image says which categories it certainly lacks (`neg_category_ids`); the categories of an
image that people have not annotated completely are `not_exhaustive_category_ids`.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from engine.core.categories import CategoryList
from storage.formats import json_columns as columns
from storage.formats.coco_writer import CocoWriter, category_entries
from storage.formats.pages import Page

_RARE, _COMMON = 10, 100
"""LVIS: up to so many images a category is rare ("r") or common ("c"), else frequent ("f")."""
COMPLETE = "annotated"
"""Status of images that people have annotated completely."""


class LvisWriter(CocoWriter):
    """Writes an LVIS file; use as CocoWriter. `counts` has also `without_category`."""

    def __init__(
        self,
        path: Path,
        *,
        description: str = "",
        categories: CategoryList | None = None,
        polygons: bool = False,
    ) -> None:
        super().__init__(path, description=description, categories=categories, polygons=polygons)
        self.counts["without_category"] = 0
        self._images_of: Counter[int] = Counter()
        self._masks_of: Counter[int] = Counter()

    @property
    def _categories_last(self) -> bool:
        return True

    def add_page(self, page: Page) -> None:
        if self._categories is not None:
            named = pc.is_valid(page.column("category_id"))
            keep = named.to_numpy(zero_copy_only=False)
            if not keep.all():
                self.counts["without_category"] += int((~keep).sum())
                page = page.with_masks(keep)
        super().add_page(page)

    def _image_lines(self, page: Page) -> pa.Array:
        if self._categories is None:
            ids = np.ones(page.masks.num_rows, np.int64)
        else:
            ids = page.column("category_id").to_numpy().astype(np.int64)
        pairs = np.unique(np.stack([page.image_of_masks(), ids], axis=1), axis=0)
        self._images_of.update(pairs[:, 1].tolist())
        self._masks_of.update(ids.tolist())
        starts = np.searchsorted(pairs[:, 0], np.arange(len(page) + 1))
        held = columns.grouped(columns.integers(pa.array(pairs[:, 1], pa.int64())), starts)
        complete = pc.fill_null(pc.equal(page.image_column("status"), COMPLETE), False)
        return columns.joined(
            super()._image_lines(page),
            ',"coco_url":"","flickr_url":"","license":0,"date_captured":"","neg_category_ids":[]',
            *(',"not_exhaustive_category_ids":[', pc.if_else(complete, "", held), "]"),
        )

    def _category_entries(self) -> list[dict[str, Any]]:
        if self._categories is None:
            entries: list[dict[str, Any]] = [{"id": 1, "name": "object", "supercategory": "object"}]
        else:
            entries = category_entries(self._categories, unlabelled=False)
        return [entry | self._counted(entry["id"], entry["name"]) for entry in entries]

    def _counted(self, number: int, name: str) -> dict[str, Any]:
        images = self._images_of[number]
        frequency = "r" if images <= _RARE else "c" if images <= _COMMON else "f"
        return {
            "synset": f"{name}.n.01",
            "synonyms": [name],
            "def": "",
            "frequency": frequency,
            "image_count": images,
            "instance_count": self._masks_of[number],
        }
