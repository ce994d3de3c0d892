"""Annotated photographs in one small file, which a training reads into memory.

Images are shrunk to SIDE pixels and stored as WebP, masks as run lengths, and the regions of
`engine.training.regions` as a map of leaves and a table of each region's leaves. `RULES` describes
the sets behind the shipped model (docs/lite.md); other sets get the default rule.

A file's arrays, N images, T masks, P proposals of a model, R regions: sizes_N2 (H, W), set_N;
image_T, counts (bytes end to end) with count_start_T1; image_P, proposals and proposal_start_P1;
pixels and pixel_start_N1; leaves (PNG) and leaf_start_N1; image_R,
members_RL (bits over MAX_LEAVES); names (JSON: set names and rules).
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
from engine.sam.trunk import fresh_trunk, imagenet_weights
from engine.training.regions import MAX_LEAVES, Regions, find_regions, trunk_features
from engine.training.samples import Example, resize_mask

SIDE = 480
"""Longer side of a stored image in pixels."""

Propose = Callable[[np.ndarray], list[np.ndarray]]
"""Returns masks, bool (H, W), of an RGB uint8 image (H, W, 3)."""

MakePropose = Callable[[], Propose]
"""Loads what finds masks, and returns the function."""

QUALITY = 76
"""Quality of WebP; 1,244 photographs take about 30 MB."""

WORSE_COPY = 0.6
"""A proposal with a higher IoU with a known mask is a copy of it."""

CONTAINED = 0.85
"""A mask with at least this share of its area in another is a part of it; with at most the rest,
outside."""

MIN_PIXELS = 20
"""Masks of fewer pixels at SIDE are dropped."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SetRule:
    """Properties of a set of photographs.

    Attributes:
        share: weight of the set when images are drawn.
        is_complete: every object is annotated, so that other clicks are on no object.
        has_regions: train on regions and parts too; False for images of one kind of small object,
            on which regions are noise.
        has_up: images have an upright orientation; False adds vertical flips and transposition.
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
"""Rules by set, which is the folder's name (docs/lite.md)."""


@dataclass(frozen=True, slots=True)
class _PackedImage:
    set_number: int
    size: tuple[int, int]
    pixels: bytes
    masks: list[RLE]
    proposals: list[RLE]
    leaves: bytes
    members_RL: np.ndarray


_trunk: Any = None
"""The trunk of this worker process."""

_propose: Propose | None = None
"""The function of this worker process that finds proposals."""

_Task = tuple[int, Example, bool]
"""Number of the set, an annotated image, and the set's `has_regions`."""


def _pack_image(task: _Task) -> _PackedImage:
    number, example, has_regions = task
    image = example.image_HWC
    height, width = image.shape[:2]
    scale = min(1.0, SIDE / max(height, width))
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    if scale < 1:
        image = cv2.resize(image, (size[1], size[0]), interpolation=cv2.INTER_AREA)
    masks = [resize_mask(decode(rle), (size[1], size[0])) for rle in example.rles]
    masks = [mask for mask in masks if mask.sum() >= MIN_PIXELS]
    pixels = io.BytesIO()
    Image.fromarray(image).save(pixels, "WEBP", quality=QUALITY, method=6)
    leaves, members = b"", np.zeros((0, MAX_LEAVES), bool)
    if has_regions:
        found = _drop_known(find_regions(image, masks, trunk_features(_trunk, image)), masks)
        members = np.zeros((len(found.members_RN), MAX_LEAVES), bool)
        members[:, : found.members_RN.shape[1]] = found.members_RN
        picture = io.BytesIO()
        Image.fromarray(found.leaves_HW).save(picture, "PNG", optimize=True)
        leaves = picture.getvalue()
    found_masks = _propose(image) if has_regions and _propose else []
    proposals = [mask for mask in found_masks if fits_known(mask, masks)]
    rles, proposed = ([encode(mask) for mask in some] for some in (masks, proposals))
    return _PackedImage(number, size, pixels.getvalue(), rles, proposed, leaves, members)


def fits_known(mask_HW: np.ndarray, known: Sequence[np.ndarray]) -> bool:
    """Return whether a mask is no worse copy of a known mask and crosses none: each known mask lies
    outside, contains it as a part, or is a part of it."""
    area = max(int(mask_HW.sum()), 1)
    for other in known:
        overlap = int((mask_HW & other).sum())
        of_mask, of_other = overlap / area, overlap / max(int(other.sum()), 1)
        if overlap / (area + other.sum() - overlap) > WORSE_COPY:
            return False
        if max(of_mask, of_other) > 1 - CONTAINED and max(of_mask, of_other) < CONTAINED:
            return False
    return True


def _drop_known(regions: Regions, masks: Sequence[np.ndarray]) -> Regions:
    """Return the regions whose IoU with every mask is below 0.85."""
    leaves, count = regions.leaves_HW, regions.members_RN.shape[1]
    area = np.bincount(leaves.ravel(), minlength=count)
    regions_area = regions.members_RN @ area
    keep = np.ones(len(regions_area), bool)
    for mask in masks:
        overlap = regions.members_RN @ np.bincount(leaves[mask], minlength=count)
        keep &= overlap / (regions_area + mask.sum() - overlap) < 0.85
    return Regions(leaves, regions.members_RN[keep])


def _init_worker(weights: dict[str, torch.Tensor], make_propose: MakePropose | None) -> None:
    global _trunk, _propose
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    _trunk = fresh_trunk(weights)
    _propose = make_propose() if make_propose else None


def _pack_images(
    tasks: Iterator[_Task],
    weights: dict[str, torch.Tensor],
    workers: int,
    make_propose: MakePropose | None,
) -> Iterator[_PackedImage]:
    given = (weights, make_propose)
    if not workers:
        _init_worker(*given)
        yield from map(_pack_image, tasks)
        return
    with ProcessPoolExecutor(workers, initializer=_init_worker, initargs=given) as pool:
        while batch := list(islice(tasks, 8 * workers)):  # bounds the images in memory
            yield from pool.map(_pack_image, batch)


def pack(
    sets: Mapping[str, Iterable[Example]],
    out: Path,
    *,
    workers: int = 2,
    make_propose: MakePropose | None = None,
) -> None:
    """Write several sets to one file, atomically.

    Args:
        sets: annotated images by the set's name.
        out: file to write.
        workers: processes that find regions; 0 for this process.
        make_propose: called once in each process; its result finds further masks, of which those
            that fit the known masks are stored. It must be picklable.

    Raises:
        ValueError: the sets have no images.
        OSError: the file cannot be written.
        ModuleNotFoundError: the extra `base-model` is not installed.
    """
    rules = {name: RULES.get(name, SetRule()) for name in sets}
    tasks = (
        (number, example, rules[name].has_regions)
        for number, (name, examples) in enumerate(sets.items())
        for example in examples
    )
    found = list(_pack_images(tasks, imagenet_weights(), workers, make_propose))
    if not found:
        raise ValueError(f"expected annotated images, found none in {', '.join(sets)}")
    partial = out.with_name(f".{out.name}.partial.npz")
    try:
        _write(partial, found, {name: asdict(rule) for name, rule in rules.items()})
        partial.replace(out)
    finally:
        partial.unlink(missing_ok=True)


def _write(out: Path, found: list[_PackedImage], names: dict[str, Any]) -> None:
    def concatenate(parts: list[bytes]) -> tuple[np.ndarray, np.ndarray]:
        starts = np.cumsum([0, *(len(part) for part in parts)])
        return np.frombuffer(b"".join(parts), np.uint8), starts

    pixels, pixel_start = concatenate([item.pixels for item in found])
    leaves, leaf_start = concatenate([item.leaves for item in found])
    counts, count_start = concatenate([rle.counts for item in found for rle in item.masks])
    proposals, proposal_start = concatenate(
        [rle.counts for item in found for rle in item.proposals]
    )
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
        proposals=proposals,
        proposal_start_P1=proposal_start,
        image_P=np.repeat(np.arange(len(found)), [len(item.proposals) for item in found]),
        image_R=np.repeat(np.arange(len(found)), [len(item.members_RL) for item in found]),
        members_RL=np.packbits(np.concatenate([item.members_RL for item in found]), axis=1),
        names=np.frombuffer(json.dumps(names).encode(), np.uint8),
    )
