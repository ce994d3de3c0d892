"""Real photographs with masks as one small file that a training reads whole.

Images are shrunk to SIDE pixels and kept as WebP, masks as run lengths, and the regions of
`engine.training.regions` as a map of leaves and a table of which leaves each region is made of.
`RULES` says what is known of the sets that were tried (docs/lite.md); another gets the default.

A file's arrays, N images, T masks, R regions: sizes_N2 (H, W), set_N; image_T, counts (bytes end to
end) with count_start_T1; pixels and pixel_start_N1; leaves (PNG) and leaf_start_N1; image_R,
members_RL (bits over MAX_LEAVES); names (JSON: set names and rules).
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image

from engine.core.rle import RLE, decode, encode
from engine.training.regions import MAX_LEAVES, Regions, find_regions, trunk_features
from engine.training.samples import Example
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
    set_number: int
    size: tuple[int, int]
    pixels: bytes
    masks: list[RLE]
    leaves: bytes
    members_RL: np.ndarray


def shrunk_mask(mask_HW: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A bool mask at (h, w): cells at least half covered. Nearest neighbour would shift it by half
    a pixel against the image."""
    covered = cv2.resize(
        mask_HW.astype(np.uint8) * 255, (size[1], size[0]), interpolation=cv2.INTER_AREA
    )
    return np.asarray(covered > 127)


_trunk: Any = None
"""Of this process."""

_Task = tuple[int, Example, bool]
"""Number of the set, an annotated image, and whether regions are looked for."""


def _pack_image(task: _Task) -> _Packed:
    number, example, has_regions = task
    image = example.image_HWC
    height, width = image.shape[:2]
    scale = min(1.0, SIDE / max(height, width))
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    if scale < 1:
        image = cv2.resize(image, (size[1], size[0]), interpolation=cv2.INTER_AREA)
    masks = [shrunk_mask(decode(rle), size) for rle in example.rles]
    masks = [mask for mask in masks if mask.sum() >= MIN_PIXELS]
    pixels = io.BytesIO()
    Image.fromarray(image).save(pixels, "WEBP", quality=QUALITY, method=6)
    leaves, members = b"", np.zeros((0, MAX_LEAVES), bool)
    if has_regions:
        found = _unknown(find_regions(image, masks, trunk_features(_trunk, image)), masks)
        members = np.zeros((len(found.members_RN), MAX_LEAVES), bool)
        members[:, : found.members_RN.shape[1]] = found.members_RN
        picture = io.BytesIO()
        Image.fromarray(found.leaves_HW).save(picture, "PNG", optimize=True)
        leaves = picture.getvalue()
    rles = [encode(mask) for mask in masks]
    return _Packed(number, size, pixels.getvalue(), rles, leaves, members)


def _unknown(regions: Regions, masks: Sequence[np.ndarray]) -> Regions:
    """The regions that are not one of the masks already (IoU 0.85)."""
    leaves, count = regions.leaves_HW, regions.members_RN.shape[1]
    area = np.bincount(leaves.ravel(), minlength=count)
    regions_area = regions.members_RN @ area
    keep = np.ones(len(regions_area), bool)
    for mask in masks:
        overlap = regions.members_RN @ np.bincount(leaves[mask], minlength=count)
        keep &= overlap / (regions_area + mask.sum() - overlap) < 0.85
    return Regions(leaves, regions.members_RN[keep])


def _start(weights: dict[str, torch.Tensor]) -> None:
    global _trunk
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    _trunk = fresh_trunk(weights)


def _packed(
    tasks: Iterator[_Task], weights: dict[str, torch.Tensor], workers: int
) -> Iterator[_Packed]:
    if not workers:
        _start(weights)
        yield from map(_pack_image, tasks)
        return
    with ProcessPoolExecutor(workers, initializer=_start, initargs=(weights,)) as pool:
        while batch := list(islice(tasks, 8 * workers)):  # not all images in memory at once
            yield from pool.map(_pack_image, batch)


def pack(
    sets: Mapping[str, Iterable[Example]],
    out: Path,
    *,
    workers: int = 2,
) -> None:
    """Write the file of several sets.

    Args:
        sets: annotated images by the set's name.
        out: file to write; it is there whole or not at all.
        workers: processes that look for regions; 0: this one.

    Raises:
        ValueError: the sets have no image.
        OSError: the file cannot be written.
    """
    rules = {name: RULES.get(name, SetRule()) for name in sets}
    tasks = (
        (number, example, rules[name].has_regions)
        for number, (name, examples) in enumerate(sets.items())
        for example in examples
    )
    found = list(_packed(tasks, imagenet_weights(), workers))
    if not found:
        raise ValueError(f"there is no annotated image in {', '.join(sets)}")
    partial = out.with_name(f".{out.name}.partial.npz")
    try:
        _write(partial, found, {name: asdict(rule) for name, rule in rules.items()})
        partial.replace(out)
    finally:
        partial.unlink(missing_ok=True)


def _write(out: Path, found: list[_Packed], names: dict[str, Any]) -> None:
    def joined(parts: list[bytes]) -> tuple[np.ndarray, np.ndarray]:
        starts = np.cumsum([0, *(len(part) for part in parts)])
        return np.frombuffer(b"".join(parts), np.uint8), starts

    pixels, pixel_start = joined([item.pixels for item in found])
    leaves, leaf_start = joined([item.leaves for item in found])
    counts, count_start = joined([rle.counts for item in found for rle in item.masks])
    np.savez(
        out,
        sizes_N2=np.array([item.size for item in found], np.int32),
        set_N=np.array([item.set_number for item in found], np.int32),
        pixels=pixels,
        pixel_start_N1=pixel_start,
        leaves=leaves,
        leaf_start_N1=leaf_start,
        counts=counts,
        count_start_T1=count_start,
        image_T=np.repeat(np.arange(len(found)), [len(item.masks) for item in found]),
        image_R=np.repeat(np.arange(len(found)), [len(item.members_RL) for item in found]),
        members_RL=np.packbits(np.concatenate([item.members_RL for item in found]), axis=1),
        names=np.frombuffer(json.dumps(names).encode(), np.uint8),
    )
