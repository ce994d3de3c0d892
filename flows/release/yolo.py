"""Writes a release as a dataset of YOLO's segmentation format, with its images.

`images/` and `labels/` have a folder for each split: `train`, and `val` with the held-out images.
Files are named by the images' ids; `images.csv` says which image is which.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from engine.core.categories import CategoryList
from flows.release.image_names import ImageNames
from storage.catalog import Image, Split
from storage.formats.yolo_seg import data_yaml, label_line, outline_of
from storage.objects import ObjectStore
from storage.outputs import OutputFolder

if TYPE_CHECKING:
    from flows.release.release import ReleasedImage

DATA_FILE, LIST_FILE = "data.yaml", "images.csv"
FOLDERS = {Split.TRAIN: "train", Split.HELD_OUT: "val"}
AGNOSTIC = "object"
"""The only class of a release without categories."""


def yolo_names(images: Iterator[Image]) -> Iterator[str]:
    """Yield the names of the files that an export of some images may write."""
    yield from (DATA_FILE, LIST_FILE)
    for image in images:
        yield from _names_of(image)


def write_yolo(
    objects: ObjectStore,
    outputs: OutputFolder,
    found: Iterator[ReleasedImage],
    names: ImageNames,
    categories: CategoryList | None,
) -> dict[str, Any]:
    """Write images, labels and `data.yaml`, an image at a time.

    Returns:
        `train`, `val`: images; `polygons`; `lost_holes`, `lost_pieces`: parts of masks that
        polygons cannot show; `without_category`: masks that were left out.
    """
    classes = [AGNOSTIC] if categories is None else list(categories.names.values())
    numbers = {} if categories is None else {one: n for n, one in enumerate(categories.names)}
    counts = Counter(
        dict.fromkeys(
            ("train", "val", "polygons", "lost_holes", "lost_pieces", "without_category"), 0
        )
    )
    with outputs.writing(LIST_FILE) as listed, listed.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(("file", "file_name", "status"))
        for item in found:
            picture, label = _names_of(item.image)
            outputs.write(label, _label_file(item, None if categories is None else numbers, counts))
            if not outputs.is_ours(picture, of=item.image.sha256):
                with outputs.writing(picture, of=item.image.sha256) as fresh:
                    objects.fetch(item.image.key, fresh)
            counts[FOLDERS[item.image.split]] += 1
            table.writerow((picture, names.of(item.image), str(item.status)))
    splits = {name: f"images/{name}" for name in FOLDERS.values()}
    if not counts["val"]:  # readers need one
        splits["val"] = splits["train"]
    outputs.write(DATA_FILE, data_yaml(classes, splits.items()))
    return dict(counts)


def _names_of(image: Image) -> tuple[str, str]:
    """Return the names of an image's file and of its labels."""
    folder, ending = FOLDERS[image.split], PurePosixPath(image.key).suffix
    return f"images/{folder}/{image.id}{ending}", f"labels/{folder}/{image.id}.txt"


def _label_file(item: ReleasedImage, numbers: dict[int, int] | None, counts: Counter[str]) -> str:
    """Return the lines of an image's masks, and count what they lose; `numbers`: of the classes by
    category, None for a class-agnostic release."""
    lines = []
    for mask in item.masks:
        category = (item.category_ids or {}).get(mask.mask_id)
        if numbers is not None and category is None:
            counts["without_category"] += 1
            continue
        number = 0 if numbers is None or category is None else numbers[category]
        outline = outline_of(mask.rle)
        lines.append(f"{label_line(number, outline, mask.rle.size)}\n")
        counts.update(polygons=1, lost_holes=outline.holes, lost_pieces=outline.pieces)
    return "".join(lines)
