"""Export masks as COCO instance JSON, as a stream.

Format: https://cocodataset.org/#format-data.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self, TextIO

from engine.core.categories import UNLABELLED, CategoryList
from engine.core.records import Mask

UNLABELLED_ID = 0
"""Category id of masks without a category, in files with categories: those have ids from 1."""
_COPY_CHARACTERS = 1 << 16


class CocoWriter:
    """Writes a COCO file image by image; what is held in memory is one image's masks.

    Use as a context manager. The file appears under its name, whole, when the block ends; if the
    block raises, nothing is left behind and an older file of that name stays as it was.

    Without categories the file is class-agnostic: the category of all masks is `object`, id 1.
    """

    def __init__(
        self, path: Path, *, description: str = "", categories: CategoryList | None = None
    ) -> None:
        self._path = path
        self._categories = categories
        self._has_unlabelled = False
        self._description = description
        fresh = f".{path.name}.{uuid.uuid4().hex}"
        self._main_path = path.with_name(f"{fresh}.tmp")
        self._images_path = path.with_name(f"{fresh}.images.tmp")
        self._main: TextIO | None = None
        self._images: TextIO | None = None
        self._image_ids: set[int] = set()
        self._written = 0

    def __enter__(self) -> Self:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._main = self._main_path.open("w", encoding="utf-8")
        self._images = self._images_path.open("w+", encoding="utf-8")
        info = json.dumps({"description": self._description})
        self._main.write(f'{{"info":{info},\n"licenses":[],\n')
        if self._categories is None:
            categories = json.dumps([{"id": 1, "name": "object", "supercategory": "object"}])
            self._main.write(f'"categories":{categories},\n')
        self._main.write('"annotations":[')
        return self

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
        """Write one image and all its masks, or nothing if one does not fit; `status`, if given, is
        a field of the image. `category_ids`: of the writer's categories, by mask id; other masks
        get UNLABELLED_ID, which is listed as a category if a mask has it.

        Annotation ids count from 1, because COCOeval treats 0 as "no match". The SHA-256 of the
        image file is a field of our own: it identifies the file under any name.

        Raises:
            ValueError: a repeated image id, a mask whose size is not (height, width), or a score
                that is not finite.
            RuntimeError: called outside the `with` block.
        """
        if self._main is None or self._images is None:
            raise RuntimeError("CocoWriter.add_image works inside its `with` block only")
        if image_id in self._image_ids:
            raise ValueError(f"image id {image_id} was written before")
        image = {"id": image_id, "file_name": file_name, "height": height, "width": width}
        image |= {"sha256": sha256} if sha256 else {}
        if status is not None:
            image["status"] = status
        lines, size = [], (height, width)
        for number, mask in enumerate(masks, start=self._written + 1):
            category_id = 1
            if self._categories is not None:
                category_id = (category_ids or {}).get(mask.mask_id, UNLABELLED_ID)
                self._has_unlabelled |= category_id == UNLABELLED_ID
            lines.append(_line(_annotation_of(mask, image_id, number, size, category_id)))
        image_line = _line(image)
        for number, line in enumerate(lines, start=self._written):
            self._main.write(f",\n{line}" if number else f"\n{line}")
        self._images.write(f",\n{image_line}" if self._image_ids else f"\n{image_line}")
        self._image_ids.add(image_id)
        self._written += len(lines)

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
        self._main.write('],\n"images":[')
        self._images.seek(0)
        while chunk := self._images.read(_COPY_CHARACTERS):
            self._main.write(chunk)
        self._main.write("]")
        if self._categories is not None:
            listed = category_entries(self._categories, unlabelled=self._has_unlabelled)
            self._main.write(f',\n"categories":{json.dumps(listed)}')
        self._main.write("}\n")
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


def box_xywh(box_xyxy: tuple[int, int, int, int]) -> list[int]:
    """A half-open pixel box in COCO's form: [x, y, width, height]."""
    x0, y0, x1, y1 = (int(value) for value in box_xyxy)
    return [x0, y0, x1 - x0, y1 - y0]


def _annotation_of(
    mask: Mask, image_id: int, annotation_id: int, size: tuple[int, int], category_id: int
) -> dict[str, Any]:
    if mask.rle.size != size:
        raise ValueError(f"mask {mask.mask_id} has size {mask.rle.size}, its image {size} (H, W)")
    annotation: dict[str, Any] = {
        "id": annotation_id,
        "image_id": image_id,
        "category_id": category_id,
        "segmentation": mask.rle.as_json(),
        "bbox": box_xywh(mask.box_xyxy),
        "area": int(mask.area),
        "iscrowd": 0,
    }
    scores = {"predicted_iou": mask.predicted_iou, "stability_score": mask.stability_score}
    annotation |= {name: float(score) for name, score in scores.items() if score is not None}
    return annotation | {
        "stage": mask.stage.value,
        "source": mask.source.value,
        "mask_id": mask.mask_id,
    }


def _line(record: dict[str, Any]) -> str:
    return json.dumps(record, separators=(",", ":"), allow_nan=False)
