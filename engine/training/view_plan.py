"""Plans of training steps: which views, masks and prompts; `engine.training.render` renders them.

B images per step, G prompts per image, T nested masks per prompt, P cut-outs per image. Plans are
small arrays, which are cheap to send from loader processes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset

from engine.training.photo_pool import COARSE, PhotoPool
from engine.training.trainer import MAX_DRAWS, NoMasksError

TARGETS = 3
"""Nested masks per lone click, for the model's three outputs."""

CLICK, BOX, BACKGROUND = 0, 1, 2
"""Kinds of first prompt."""

MIN_VIEW_PIXELS = 60
"""Masks of fewer pixels in the view are not drawn."""

DISTINCT = 0.75
"""Two masks under one click count as distinct if the smaller is below this share of the larger."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ViewConfig:
    """Distributions from which views are drawn.

    Attributes:
        size: side of a view in pixels, a multiple of 32.
        images: images per step.
        prompts: prompts per image.
        tile_share: share of views of a tile around an object instead of the whole image.
        tile_range: range of the tile's side over the object's longer side.
        zoom: range of the scale of whole images; below 1 adds padding, above 1 crops.
        pastes: largest number of cut-outs on an image.
        paste_share: share of images with cut-outs.
        paste_range: range of a cut-out's longer side as a share of the view's.
        box_share, background_share: shares of first prompts; background on complete images only.
    """

    size: int = 384
    images: int = 64
    prompts: int = 4
    tile_share: float = 0.5
    tile_range: tuple[float, float] = (1.4, 10.0)
    zoom: tuple[float, float] = (0.4, 2.0)
    pastes: int = 3
    paste_share: float = 0.4
    paste_range: tuple[float, float] = (0.07, 0.6)
    box_share: float = 0.35
    background_share: float = 0.12


@dataclass(frozen=True, slots=True)
class Plan:
    """Views of one step; index -1 means none.

    Attributes:
        image_B: index of the image, int64.
        affine_B23: float32, maps (x, y, 1) in pixels of the view to pixels of the canvas; pixel
            centres are at + 0.5.
        extent_B2: (width, height) in pixels of the view's part that is image.
        masks_BGT: indices of masks, int64; the first is the prompt's target.
        kind_BG: CLICK, BOX or BACKGROUND.
        covered_B: index of the union of a complete image's objects.
        paste_image_BP, paste_mask_BP: image and mask of each cut-out, int64.
        paste_affine_BP23: as affine_B23.
        paste_prompt_BP: index of the prompt whose target is the cut-out.
    """

    image_B: torch.Tensor
    affine_B23: torch.Tensor
    extent_B2: torch.Tensor
    masks_BGT: torch.Tensor
    kind_BG: torch.Tensor
    covered_B: torch.Tensor
    paste_image_BP: torch.Tensor
    paste_mask_BP: torch.Tensor
    paste_affine_BP23: torch.Tensor
    paste_prompt_BP: torch.Tensor

    def to(self, device: torch.device) -> Plan:
        """Return a copy on a device."""
        moved = (getattr(self, f.name).to(device, non_blocking=True) for f in fields(self))
        return Plan(*moved)


def draw_plan(pool: PhotoPool, config: ViewConfig, rng: np.random.Generator) -> Plan:
    """Draw the views of one step.

    Raises:
        NoMasksError: MAX_DRAWS views in a row have no mask that is large enough.
    """
    drawn = [_draw_view(pool, config, rng) for _ in range(config.images)]
    return Plan(*(torch.from_numpy(np.stack(column)) for column in zip(*drawn, strict=True)))


_View = tuple[np.ndarray, ...]


def _draw_view(pool: PhotoPool, config: ViewConfig, rng: np.random.Generator) -> _View:
    for _ in range(MAX_DRAWS):
        image = int(rng.choice(len(pool.share_N), p=pool.share_N))
        affine, extent, window = _draw_window(pool, image, config, rng)
        first, end = int(pool.first_N1[image]), int(pool.first_N1[image + 1])
        inside = _usable_masks(pool, first, end, window, affine)
        if inside.any():
            break
    else:
        raise NoMasksError(
            f"{MAX_DRAWS} views in a row have no mask of at least {MIN_VIEW_PIXELS} pixels: the "
            "masks are too small, or cover the whole image"
        )
    masks = np.full((config.prompts, TARGETS), -1, np.int64)
    kinds = np.zeros(config.prompts, np.int64)
    complete = bool(pool.is_complete_N[image])
    chance = pool.weight_M[first:end] * inside
    chance = chance / chance.sum()
    for prompt in range(config.prompts):
        drawn = rng.random()
        if complete and drawn < config.background_share:
            kinds[prompt] = BACKGROUND
            continue
        main = int(rng.choice(end - first, p=chance))
        masks[prompt] = _nested_masks(pool, first, end, main, window, rng)
        kinds[prompt] = BOX if rng.random() < config.box_share else CLICK
    covered = np.array(end - 1 if complete else -1)
    pasted = _draw_pastes(pool, config, kinds, rng)
    return np.array(image), affine, extent, masks, kinds, covered, *pasted


def _draw_window(
    pool: PhotoPool, image: int, config: ViewConfig, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, tuple[int, int, int, int]]:
    """Draw a view's window: its affine, its extent, and the box on the canvas that it shows."""
    height, width = (int(side) for side in pool.sizes_N2[image])
    longer = max(height, width)
    shown = float(config.size)
    if rng.random() < config.tile_share:
        first, end = int(pool.first_N1[image]), int(pool.first_N1[image + 1])
        weights = pool.weight_M[first:end].astype(np.float64)
        box = pool.box_M4[first + int(rng.choice(end - first, p=weights / weights.sum()))]
        needed = float(max(box[2] - box[0], box[3] - box[1]))
        side = needed * float(np.exp(rng.uniform(*np.log(config.tile_range))))
        side = float(np.clip(side, 56, longer))
        middle = (box[:2] + box[2:]) / 2 + rng.uniform(-0.25, 0.25, 2) * side
    else:
        zoom = float(np.exp(rng.uniform(*np.log(config.zoom)))) if rng.random() < 0.7 else 1.0
        side = longer / max(zoom, 1.0)
        shown *= min(zoom, 1.0)
        middle = rng.uniform(0, 1, 2) * (width, height)
    cut_w, cut_h = min(side, width), min(side, height)
    x0 = float(np.clip(middle[0] - cut_w / 2, 0, width - cut_w))
    y0 = float(np.clip(middle[1] - cut_h / 2, 0, height - cut_h))
    scale = shown / max(cut_w, cut_h)
    view_w, view_h = cut_w * scale, cut_h * scale
    turns = pool.has_up_N[image]
    flip_x, flip_y = rng.random() < 0.5, rng.random() < 0.5 and not turns
    swap = rng.random() < 0.5 and not turns
    # view pixels to canvas pixels; flips and transposition are applied to the upright view
    matrix = np.array([[1 / scale, 0, x0], [0, 1 / scale, y0], [0, 0, 1]])
    if flip_x:
        matrix = matrix @ np.array([[-1, 0, view_w], [0, 1, 0], [0, 0, 1]])
    if flip_y:
        matrix = matrix @ np.array([[1, 0, 0], [0, -1, view_h], [0, 0, 1]])
    extent = np.array([view_w, view_h], np.float32)
    if swap:
        matrix = matrix @ np.array([[0, 1, 0], [1, 0, 0], [0, 0, 1]])
        extent = extent[::-1].copy()
    box = (int(x0), int(y0), int(np.ceil(x0 + cut_w)), int(np.ceil(y0 + cut_h)))
    return matrix[:2].astype(np.float32), extent, box


def _usable_masks(
    pool: PhotoPool, first: int, end: int, window: tuple[int, int, int, int], affine: np.ndarray
) -> np.ndarray:
    """Return which masks are large enough in the view and do not cover all of it."""
    cut = _crop_coarse(pool, first, end, window)
    cells = cut.sum(axis=(1, 2))
    scale = abs(float(np.linalg.det(affine[:, :2])))  # canvas pixels per view pixel
    pixels = cells * COARSE**2 / scale
    found = (pixels >= MIN_VIEW_PIXELS) & (cells <= 0.9 * cut.shape[1] * cut.shape[2])
    return np.asarray(found & (pool.weight_M[first:end] > 0))


def _crop_coarse(
    pool: PhotoPool, first: int, end: int, window: tuple[int, int, int, int]
) -> np.ndarray:
    x0, y0, x1, y1 = window
    rows = slice(y0 // COARSE, -(-y1 // COARSE))
    return pool.coarse_MCC[first:end, rows, x0 // COARSE : -(-x1 // COARSE)]


def _nested_masks(
    pool: PhotoPool,
    first: int,
    end: int,
    main: int,
    window: tuple[int, int, int, int],
    rng: np.random.Generator,
) -> np.ndarray:
    """Return the target, and other masks of distinct sizes under a random point of it."""
    out = np.full(TARGETS, -1, np.int64)
    out[0] = first + main
    cut = _crop_coarse(pool, first, end, window)
    places = np.flatnonzero(cut[main])
    if not len(places):
        return out
    row, column = np.unravel_index(int(places[rng.integers(len(places))]), cut[main].shape)
    others = np.flatnonzero(cut[:, row, column] & (pool.weight_M[first:end] > 0))
    sizes = cut.sum(axis=(1, 2))
    taken = [main]
    objects = int(pool.objects_N[first_image(pool, first)])
    order = rng.permutation(others)
    for other in [*order[order < objects], *order[order >= objects]]:
        if len(taken) == TARGETS:
            break
        pairs = [sorted((sizes[other], sizes[one])) for one in taken]
        if all(small < DISTINCT * large for small, large in pairs):
            out[len(taken)] = first + other
            taken.append(int(other))
    return out


def first_image(pool: PhotoPool, mask: int) -> int:
    """Return the index of a mask's image."""
    return int(np.searchsorted(pool.first_N1, mask, side="right")) - 1


def _draw_pastes(
    pool: PhotoPool, config: ViewConfig, kinds: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    count = config.pastes
    images, masks = np.full(count, -1, np.int64), np.full(count, -1, np.int64)
    affines = np.zeros((count, 2, 3), np.float32)
    prompts = np.full(count, -1, np.int64)
    if not count or rng.random() >= config.paste_share:
        return images, masks, affines, prompts
    for slot in range(int(rng.integers(1, count + 1))):
        image = int(rng.choice(len(pool.share_N), p=pool.share_N))
        objects = int(pool.objects_N[image])
        if not objects:
            continue
        mask = int(pool.first_N1[image]) + int(rng.integers(objects))
        box = pool.box_M4[mask].astype(np.float64)
        longer = max(box[2] - box[0], box[3] - box[1])
        if longer < 20:
            continue
        target = config.size * float(np.exp(rng.uniform(*np.log(config.paste_range))))
        scale = longer / min(target, 3 * longer)
        middle = rng.uniform(0.05, 0.95, 2) * config.size
        turn = -scale if rng.random() < 0.5 else scale
        center = (box[:2] + box[2:]) / 2
        images[slot], masks[slot] = image, mask
        affines[slot] = [
            [turn, 0, center[0] - turn * middle[0]],
            [0, scale, center[1] - scale * middle[1]],
        ]
        if rng.random() < 0.5 and kinds[slot % len(kinds)] != BACKGROUND:
            prompts[slot] = slot % len(kinds)
    return images, masks, affines, prompts


class _Plans(IterableDataset[Plan]):
    def __init__(
        self, pool: PhotoPool, config: ViewConfig, seed: int, start: int, workers: int
    ) -> None:
        self.pool, self.config, self.seed, self.start = pool, config, seed, start
        self.workers = max(workers, 1)

    def __iter__(self) -> Iterator[Plan]:
        info = torch.utils.data.get_worker_info()
        step = self.start + (0 if info is None else info.id)
        while True:
            yield draw_plan(self.pool, self.config, np.random.default_rng([self.seed, step]))
            step += self.workers


def plans(
    pool: PhotoPool, config: ViewConfig, seed: int, start: int = 0, workers: int = 0
) -> Iterator[Plan]:
    """Yield the plans of steps from `start` on; they do not depend on the number of workers.

    Raises:
        NoMasksError: MAX_DRAWS views in a row have no mask that is large enough.
    """
    dataset = _Plans(pool, config, seed, start, workers)
    loader = DataLoader(
        dataset,
        batch_size=None,
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        multiprocessing_context="fork" if workers else None,
    )
    yield from loader
