"""Images and masks in memory, for trainings that draw thousands of views per minute.

Every image lies at the top left of a square canvas of `SIDE` pixels; masks are bits on the same
canvas. N images, M masks, S = SIDE, C = S / COARSE. The masks of an image
are a slice of the M: annotated or exact masks first, then regions and the
proposals of a model; the last mask of a complete
image is the union of its objects.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from engine.core.rle import RLE, decode
from engine.simulation.scenes import generate_scene
from engine.training.pack import SIDE, SetRule
from engine.training.regions import MAX_LEAVES
from engine.training.trainer import NoMasksError

COARSE = 4
"""Side of a cell of the coarse masks in pixels of the canvas."""

MIN_LEAF = 250
"""A leaf of at least this many pixels is a region of its own."""

SCENE_SIDE = 384
"""Longer side of a generated scene in pixels."""

REGION_SHARE = 0.45
"""Share of a photograph's masks that are drawn from its regions instead of its objects."""

LARGEST_REGION = 0.45
"""Regions above this share of the canvas are not drawn: else one of the three predicted masks is
always such a region."""


@dataclass(frozen=True, slots=True)
class _PoolImage:
    """One image of (H, W) `size` and its m masks, of which the first `objects` are objects: RGB
    uint8 canvas (S, S, 3), masks as bits along x, uint8 (m, S, S / 8), coarse masks, bool
    (m, C, C), and the probability of each mask, float32 (m,)."""

    canvas: np.ndarray
    size: tuple[int, int]
    packed: np.ndarray
    coarse: np.ndarray
    weights: np.ndarray
    objects: int
    set_name: str


@dataclass(frozen=True, slots=True)
class PhotoPool:
    """All images and masks of a training.

    Attributes:
        canvas_NSSC: RGB uint8.
        sizes_N2, share_N: (H, W) of each image on its canvas, and its probability.
        is_complete_N, has_up_N: of the image's `SetRule`.
        first_N1, objects_N: index of each image's first mask, then M; how many are objects.
        packed_MSB: masks as bits along x, uint8 (M, S, S / 8).
        coarse_MCC: bool.
        weight_M: probability of each mask within its image.
        box_M4: half-open XYXY pixels, to the cell of the coarse mask.
    """

    canvas_NSSC: np.ndarray
    sizes_N2: np.ndarray
    share_N: np.ndarray
    is_complete_N: np.ndarray
    has_up_N: np.ndarray
    first_N1: np.ndarray
    objects_N: np.ndarray
    packed_MSB: np.ndarray
    coarse_MCC: np.ndarray
    weight_M: np.ndarray
    box_M4: np.ndarray


def _stack_on_canvas(masks: list[np.ndarray], size: tuple[int, int]) -> np.ndarray:
    out = np.zeros((len(masks), SIDE, SIDE), bool)
    for row, mask in enumerate(masks):
        out[row, : size[0], : size[1]] = mask
    return out


def _build_image(
    image: np.ndarray,
    objects: list[np.ndarray],
    regions: list[np.ndarray],
    rule: SetRule,
    set_name: str,
    proposals: Sequence[np.ndarray] = (),
) -> _PoolImage:
    size = (image.shape[0], image.shape[1])
    canvas = np.zeros((SIDE, SIDE, 3), np.uint8)
    canvas[: size[0], : size[1]] = image
    masks = [*objects, *regions, *proposals]
    if rule.is_complete:
        covered = np.zeros(size, bool)
        for mask in objects:
            covered |= mask
        masks.append(covered)
    stacked = _stack_on_canvas(masks, size)
    area = (len(masks), SIDE // COARSE, COARSE, SIDE // COARSE, COARSE)
    coarse = stacked.reshape(area).mean(axis=(2, 4), dtype=np.float32) >= 0.5
    first, second, end = np.cumsum([len(objects), len(regions), len(proposals)])
    of_regions, of_proposals = (
        _region_weights(coarse[part], coarse[:first])
        for part in (slice(first, second), slice(second, end))
    )
    if of_regions.any():  # the two kinds are drawn equally often
        of_proposals *= of_regions.sum() / max(float(of_proposals.sum()), 1e-9)
    weights = _mask_weights(len(objects), np.concatenate([of_regions, of_proposals]))
    if rule.is_complete:
        weights = np.append(weights, np.float32(0))
    return _PoolImage(
        canvas, size, np.packbits(stacked, axis=2), coarse, weights, len(objects), set_name
    )


def _region_weights(regions: np.ndarray, objects: np.ndarray) -> np.ndarray:
    """Return the weight of each region from coarse masks (r, C, C) and (o, C, C): higher for
    smaller regions, highest for parts of objects, 0 above LARGEST_REGION."""
    share = regions.mean(axis=(1, 2))
    weights = np.select([share < 0.1, share < 0.25, share < LARGEST_REGION], [1.0, 0.5, 0.2], 0.0)
    area = np.maximum(regions.sum(axis=(1, 2)), 1)
    for one in objects:
        inside = (regions & one).sum(axis=(1, 2)) / area
        is_part = (inside > 0.9) & (area < 0.7 * one.sum())
        weights = np.where(is_part, np.maximum(weights, 2.0), weights)
    return weights.astype(np.float32)


def _mask_weights(objects: int, of_regions: np.ndarray) -> np.ndarray:
    """Return the probability of each mask: equal for objects, by weight for regions."""
    total = float(of_regions.sum())
    share = (REGION_SHARE if objects else 1.0) if total else 0.0
    of_objects = np.full(objects, (1 - share) / max(objects, 1), np.float32)
    return np.concatenate([of_objects, of_regions * (share / max(total, 1e-9))])


@dataclass(frozen=True, slots=True)
class _StoredImage:
    """One encoded image of a file of `engine.training.pack`."""

    pixels: bytes
    size: tuple[int, int]
    counts: list[bytes]
    proposals: list[bytes]
    leaves: bytes
    members: np.ndarray
    set_name: str
    rule: SetRule


def _load_photo(stored: _StoredImage) -> _PoolImage:
    with Image.open(io.BytesIO(stored.pixels)) as opened:
        image = np.array(opened.convert("RGB"))
    objects = [decode(RLE(stored.size, counts)) for counts in stored.counts]
    regions: list[np.ndarray] = []
    if stored.leaves:
        with Image.open(io.BytesIO(stored.leaves)) as opened:
            leaves = np.array(opened)
        alone = np.eye(MAX_LEAVES, dtype=bool)[
            np.bincount(leaves.ravel(), minlength=MAX_LEAVES) >= MIN_LEAF
        ]
        members = np.unique(np.concatenate([stored.members, alone]), axis=0)
        regions = [row[leaves] for row in members]
    proposals = [decode(RLE(stored.size, counts)) for counts in stored.proposals]
    return _build_image(image, objects, regions, stored.rule, stored.set_name, proposals)


def _read_pack(path: Path) -> Iterator[_StoredImage]:
    with np.load(path) as file:
        content = {name: file[name] for name in file.files}
    if "image_P" not in content:  # packed before files had proposals
        none = np.zeros(0, np.int64)
        content |= {"image_P": none, "proposals": none, "proposal_start_P1": none}
    rules, names = _rules(path), set_names(path)
    members = np.unpackbits(content["members_RL"], axis=1).astype(bool)
    images = np.arange(len(content["set_N"]) + 1)
    objects, proposals, regions = (
        np.searchsorted(content[name], images) for name in ("image_T", "image_P", "image_R")
    )

    def part(name: str, start: str, index: int) -> bytes:
        begin, end = content[start][index : index + 2]
        return bytes(content[name][begin:end].tobytes())

    def run_lengths(name: str, start: str, ends: np.ndarray) -> list[bytes]:
        return [part(name, start, row) for row in range(ends[0], ends[1])]

    for index, number in enumerate(content["set_N"].tolist()):
        rows = slice(regions[index], regions[index + 1])
        height, width = content["sizes_N2"][index].tolist()
        yield _StoredImage(
            part("pixels", "pixel_start_N1", index),
            (height, width),
            run_lengths("counts", "count_start_T1", objects[index : index + 2]),
            run_lengths("proposals", "proposal_start_P1", proposals[index : index + 2]),
            part("leaves", "leaf_start_N1", index),
            members[rows],
            names[number],
            rules[names[number]],
        )


SCENES = "generated scenes"
_SCENE_RULE = SetRule(is_complete=True, has_up=False)


def scene_size(seed: int, side: int) -> tuple[int, int]:
    """Return (H, W) of a scene with a longer side of `side` pixels: two thirds are square, the
    others up to twice as long as wide."""
    rng = np.random.default_rng([seed, 77])
    if rng.random() < 0.67:
        return side, side
    short = round(side * rng.uniform(0.5, 0.95))
    return (side, short) if rng.random() < 0.5 else (short, side)


def _load_scene(seed: int) -> _PoolImage:
    scene = generate_scene(seed, scene_size(seed, SCENE_SIDE))
    return _build_image(scene.image_HWC, list(scene.masks), [], _SCENE_RULE, SCENES)


def load_pool(
    pack: Path | None, scenes: Iterable[int], *, scene_share: float, workers: int | None = None
) -> PhotoPool:
    """Read a pack and generate scenes.

    Args:
        pack: a file of `engine.training.pack`; None for scenes alone.
        scenes: seeds of the scenes.
        scene_share: share of scenes among the drawn images, if there are photographs.
        workers: processes; None for one per core.

    Raises:
        NoMasksError: no image has a mask to train on.
    """
    cv2.setNumThreads(1)
    with ProcessPoolExecutor(workers or os.cpu_count()) as pool:
        painted = pool.map(_load_scene, scenes, chunksize=8)
        photos = pool.map(_load_photo, _read_pack(pack), chunksize=4) if pack else iter(())
        found = [*photos, *painted]
    found = [item for item in found if len(item.weights) and item.weights.sum() > 0]
    if not found:
        raise NoMasksError("there is no photograph and no scene with a mask to train on")
    rules = _rules(pack)
    return _join(found, rules, scene_share if pack else 1.0)


def set_names(pack: Path) -> list[str]:
    """Return the names of a pack's sets."""
    return [name for name in _rules(pack) if name != SCENES]


def _rules(pack: Path | None) -> dict[str, SetRule]:
    rules = {SCENES: _SCENE_RULE}
    if pack:
        with np.load(pack) as file:
            rules |= {n: SetRule(**r) for n, r in json.loads(file["names"].tobytes()).items()}
    return rules


def _join(found: list[_PoolImage], rules: dict[str, SetRule], scene_share: float) -> PhotoPool:
    names = [item.set_name for item in found]
    count = {name: names.count(name) for name in set(names)}
    photo_shares = sum(rules[name].share for name in count if name != SCENES) or 1.0
    share = np.array(
        [
            (
                scene_share
                if name == SCENES
                else (1 - scene_share) * rules[name].share / photo_shares
            )
            / count[name]
            for name in names
        ]
    )
    packed = np.concatenate([item.packed for item in found])
    coarse = np.concatenate([item.coarse for item in found])
    return PhotoPool(
        canvas_NSSC=np.stack([item.canvas for item in found]),
        sizes_N2=np.array([item.size for item in found], np.int32),
        share_N=share / share.sum(),
        is_complete_N=np.array([rules[name].is_complete for name in names]),
        has_up_N=np.array([rules[name].has_up for name in names]),
        first_N1=np.cumsum([0, *(len(item.weights) for item in found)]),
        objects_N=np.array([item.objects for item in found], np.int32),
        packed_MSB=packed,
        coarse_MCC=coarse,
        weight_M=np.concatenate([item.weights for item in found]),
        box_M4=np.stack([_bounding_box(mask) for mask in coarse]) * COARSE,
    )


def _bounding_box(coarse: np.ndarray) -> np.ndarray:
    x, y, w, h = cv2.boundingRect(coarse.view(np.uint8))
    return np.array([x, y, x + w, y + h], np.int32)
