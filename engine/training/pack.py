"""Real photographs with masks as one small file that a training reads whole.

    python -m engine.training.pack FOLDER... --out photos.npz

Each FOLDER is `images/` beside `instances.json` (COCO, polygons or RLE). Images are shrunk to
`SIDE` pixels and kept as WebP, masks as run lengths, and the regions of `engine.training.regions`
as a map of leaves and a table of which leaves each region is made of. `RULES` says what is known
of the sets that the shipped model was trained on; another folder gets the default.

A file's arrays, N images, T masks, R regions: sizes_N2 (H, W), set_N; image_T, counts (bytes end to
end) with count_start_T1; pixels and pixel_start_N1; leaves (PNG) and leaf_start_N1; image_R,
members_RL (bool over MAX_LEAVES), weight_R; names (JSON: set names and rules).
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image
from pycocotools import mask as coco_mask

from engine.core.rle import RLE, encode
from engine.training.regions import MAX_LEAVES, Regions, find_regions, trunk_features
from engine.training.trunk import fresh_trunk, imagenet_weights

SIDE = 480
"""Longer side of a kept image in pixels."""

QUALITY = 76
"""Of WebP; 1,244 photographs take about 30 MB."""

MIN_PIXELS = 20
"""Masks of fewer pixels at SIDE are left out."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SetRule:
    """What is known of a set.

    Attributes:
        share: how often it is drawn, beside the others.
        is_complete: every object is annotated, so that a click elsewhere is on no object.
        has_regions: regions and parts are found on its images too; not on pictures of one kind of
            small thing, where they are noise.
        has_up: its pictures have an upper side; else they are turned over as well.
    """

    share: float = 1.0
    is_complete: bool = False
    has_regions: bool = True
    has_up: bool = True


RULES = {
    "coco_open": SetRule(share=6),
    "coco_open_person": SetRule(share=2.5),
    "dali_objects": SetRule(share=1.5),
    "kuih_food": SetRule(share=1),
    "bottles": SetRule(share=0.7),
    "mushroom_beds": SetRule(share=1, is_complete=True, has_regions=False, has_up=False),
    "microcontrollers": SetRule(share=0.8),
    "strawberry_parts": SetRule(share=0.8),
    "hand_tools": SetRule(share=1, is_complete=True),
    "breadboards": SetRule(share=0.8),
    "facades": SetRule(share=2),
    "maize_kernels": SetRule(share=0.6, is_complete=True, has_regions=False, has_up=False),
    "dried_fruit": SetRule(share=0.6, is_complete=True, has_regions=False, has_up=False),
    "seedlings": SetRule(share=0.8, has_regions=False, has_up=False),
    "pine_trunks": SetRule(share=0.7),
}
"""Rules of the sets behind the shipped model, by folder name (docs/lite.md)."""


@dataclass(frozen=True, slots=True)
class _Packed:
    size: tuple[int, int]
    pixels: bytes
    masks: list[RLE]
    leaves: bytes
    members_RL: np.ndarray
    weights_R: np.ndarray


def _decoded(segmentation: Any, size: tuple[int, int]) -> np.ndarray:
    """A COCO polygon, RLE or compressed RLE as bool (H, W)."""
    if isinstance(segmentation, list):
        rle = coco_mask.merge(coco_mask.frPyObjects(segmentation, *size))
    elif isinstance(segmentation["counts"], list):
        rle = coco_mask.frPyObjects(segmentation, *segmentation["size"])
    else:
        rle = segmentation
    return np.asarray(coco_mask.decode(rle), dtype=bool)


def shrunk_mask(mask_HW: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A bool mask at (h, w): cells at least half covered. Nearest neighbour would shift it by half
    a pixel against the image."""
    covered = cv2.resize(
        mask_HW.astype(np.uint8) * 255, (size[1], size[0]), interpolation=cv2.INTER_AREA
    )
    return np.asarray(covered > 127)


_trunk: Any = None
"""Of this process."""


_Task = tuple[Path, list[Any], bool]
"""An image, its segmentations, and whether regions are looked for."""


def _pack_image(task: _Task) -> _Packed:
    path, segmentations, has_regions = task
    with Image.open(path) as opened:
        image = np.array(opened.convert("RGB"))
    height, width = image.shape[:2]
    scale = min(1.0, SIDE / max(height, width))
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    if scale < 1:
        image = cv2.resize(image, (size[1], size[0]), interpolation=cv2.INTER_AREA)
    masks = [shrunk_mask(_decoded(s, (height, width)), size) for s in segmentations]
    masks = [mask for mask in masks if mask.sum() >= MIN_PIXELS]
    pixels = io.BytesIO()
    Image.fromarray(image).save(pixels, "WEBP", quality=QUALITY, method=6)
    leaves, members, weights = b"", np.zeros((0, MAX_LEAVES), bool), np.zeros(0, np.uint8)
    if has_regions:
        found = _unknown(find_regions(image, masks, trunk_features(_trunk, image)), masks)
        members = np.zeros((len(found.members_RN), MAX_LEAVES), bool)
        members[:, : found.members_RN.shape[1]] = found.members_RN
        weights, picture = found.weights_R, io.BytesIO()
        Image.fromarray(found.leaves_HW).save(picture, "PNG", optimize=True)
        leaves = picture.getvalue()
    return _Packed(size, pixels.getvalue(), [encode(m) for m in masks], leaves, members, weights)


def _unknown(regions: Regions, masks: Sequence[np.ndarray]) -> Regions:
    """The regions that are not one of the masks already (IoU 0.85)."""
    leaves, count = regions.leaves_HW, regions.members_RN.shape[1]
    area = np.bincount(leaves.ravel(), minlength=count)
    regions_area = regions.members_RN @ area
    keep = np.ones(len(regions_area), bool)
    for mask in masks:
        overlap = regions.members_RN @ np.bincount(leaves[mask], minlength=count)
        keep &= overlap / (regions_area + mask.sum() - overlap) < 0.85
    return Regions(leaves, regions.members_RN[keep], regions.weights_R[keep])


def _start(weights: dict[str, torch.Tensor]) -> None:
    global _trunk
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    _trunk = fresh_trunk(weights)


def read_annotations(folder: Path) -> list[tuple[Path, list[Any]]]:
    """Images of a folder with the segmentations of each, in the file's order.

    Raises:
        ValueError: `instances.json` is not there or not COCO instances.
    """
    path = folder / "instances.json"
    try:
        content = json.loads(path.read_text())
        by_image: dict[Any, list[Any]] = {}
        for annotation in content["annotations"]:
            by_image.setdefault(annotation["image_id"], []).append(annotation["segmentation"])
        return [
            (folder / "images" / image["file_name"], by_image[image["id"]])
            for image in content["images"]
            if image["id"] in by_image
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not COCO instance JSON: {error}") from error


def _packed(
    tasks: Sequence[_Task], weights: dict[str, torch.Tensor], workers: int
) -> Iterator[_Packed]:
    if not workers:
        _start(weights)
        yield from map(_pack_image, tasks)
        return
    with ProcessPoolExecutor(workers, initializer=_start, initargs=(weights,)) as pool:
        yield from pool.map(_pack_image, tasks, chunksize=4)


def pack(folders: Sequence[Path], out: Path, *, workers: int = 2) -> None:
    """Write the file of several sets.

    Args:
        folders: of images and annotations; their names are the sets'.
        out: file to write.
        workers: processes; 0: this one.

    Raises:
        ValueError: a folder's annotations cannot be read.
        OSError: an image cannot be read, or the file cannot be written.
    """
    rules = [RULES.get(folder.name, SetRule()) for folder in folders]
    tasks: list[_Task] = []
    of_set: list[int] = []
    for number, folder in enumerate(folders):
        for path, segmentations in read_annotations(folder):
            tasks.append((path, segmentations, rules[number].has_regions))
            of_set.append(number)
    found: list[_Packed] = []
    began = time.monotonic()
    for item in _packed(tasks, imagenet_weights(), workers):
        found.append(item)
        if len(found) % 20 == 0:
            rate = len(found) / (time.monotonic() - began)
            left = (len(tasks) - len(found)) / rate
            print(f"{len(found)}/{len(tasks)} {rate:.1f} images/s, {left:.0f} s left", flush=True)
    names = {folder.name: asdict(rule) for folder, rule in zip(folders, rules, strict=True)}
    _write(out, found, np.array(of_set, np.int32), names)


def _write(out: Path, found: list[_Packed], of_set: np.ndarray, names: dict[str, Any]) -> None:
    def joined(parts: list[bytes]) -> tuple[np.ndarray, np.ndarray]:
        starts = np.cumsum([0, *(len(part) for part in parts)])
        return np.frombuffer(b"".join(parts), np.uint8), starts

    pixels, pixel_start = joined([item.pixels for item in found])
    leaves, leaf_start = joined([item.leaves for item in found])
    counts, count_start = joined([rle.counts for item in found for rle in item.masks])
    np.savez(
        out,
        sizes_N2=np.array([item.size for item in found], np.int32),
        set_N=of_set,
        pixels=pixels,
        pixel_start_N1=pixel_start,
        leaves=leaves,
        leaf_start_N1=leaf_start,
        counts=counts,
        count_start_T1=count_start,
        image_T=np.repeat(np.arange(len(found)), [len(item.masks) for item in found]),
        image_R=np.repeat(np.arange(len(found)), [len(item.weights_R) for item in found]),
        members_RL=np.packbits(np.concatenate([item.members_RL for item in found]), axis=1),
        weight_R=np.concatenate([item.weights_R for item in found]),
        names=np.frombuffer(json.dumps(names).encode(), np.uint8),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Pack; 2 with a message where a folder cannot be read."""
    parser = argparse.ArgumentParser(prog="python -m engine.training.pack", description=__doc__)
    parser.add_argument("folders", type=Path, nargs="+", metavar="FOLDER")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args(arguments)
    try:
        pack(given.folders, given.out, workers=given.workers)
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
