"""Folders of pictures of `labelled_shapes`, with their masks as COCO files."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from engine.core import rle as rle_codec
from storage.formats.images import write_png
from tests.labelled_shapes import SIDE, draw_picture

WANTED = ("circle", "star", "cross")
"""Shapes whose masks are in the files: the categories."""


def write_pictures(folder: Path, seeds: Iterable[int], *, named: bool = True) -> Path:
    """Write pictures and `instances.json` with the masks of WANTED into a new folder.

    Args:
        folder: the folder.
        seeds: of the pictures.
        named: the masks' categories are their shapes; else all are `object`.
    """
    folder.mkdir(parents=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, seed in enumerate(seeds, 1):
        picture, name = draw_picture(seed), f"{seed:03d}.png"
        (folder / name).write_bytes(write_png(picture.image_HWC))
        images.append({"id": number, "file_name": name, "height": SIDE, "width": SIDE})
        for thing in picture.things:
            if thing.shape in WANTED:
                x0, y0, x1, y1 = rle_codec.box_xyxy(thing.rle)
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": number,
                        "category_id": WANTED.index(thing.shape) + 1 if named else 1,
                        "iscrowd": 0,
                        "segmentation": thing.rle.as_json(),
                        "area": rle_codec.area(thing.rle),
                        "bbox": [x0, y0, x1 - x0, y1 - y0],
                    }
                )
    names = WANTED if named else ("object",)
    categories = [{"id": number, "name": name} for number, name in enumerate(names, 1)]
    coco = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "instances.json").write_text(json.dumps(coco))
    return folder


def true_shapes(folder: Path) -> dict[str, str]:
    """Return the shape of each mask of a folder's pictures, by file name and COCO counts."""
    return {
        f"{path.name} {thing.rle.counts.decode()}": thing.shape
        for path in sorted(folder.glob("*.png"))
        for thing in draw_picture(int(path.stem)).things
    }
