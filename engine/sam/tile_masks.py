"""Masks that a model predicted on tiles of an image, and the choice among those of one prompt.

A click does not say how large its object is. A model takes what fills its view for the object, so
it answers the same click differently on the whole image and on tiles around it. What it finds in
two views is more often an object (docs/LOG.md, 2026-11-28). A box does say it: the mask that the
model means fills the box.

N = masks, H x W = image, h x w = embedding grid.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch.nn import functional as F

from engine.core.components import connected_components, select_components
from engine.core.postprocess import BOX_MARGIN, MIN_COMPONENT, postprocess_mask
from engine.core.records import Prompt
from engine.sam.segmenter import Embedding

Tile = tuple[int, int, int, int]
"""A part of the image, half-open pixel XYXY."""

AGREEMENT_WEIGHT = 0.5
"""Of the highest IoU with a mask of another tile, beside the predicted IoU."""

CUT_WEIGHT = 0.7
"""Of the share of a tile's edge that the mask takes."""

REPEAT_IOU = 0.7
"""Masks with this IoU with a better one come after all others."""

BOX_THRESHOLDS = (0.0, 0.5, 1.0, 1.5)
"""Logits above which a mask may begin, if a box tells where it ends."""


@dataclass(frozen=True, slots=True)
class TileMask:
    """One of the model's masks for a prompt, on one tile.

    Attributes:
        tile: the tile, in pixels of the image.
        embedding: of the tile.
        logits_HW: float tensor (4h, 4w) in the tile's frame.
        predicted_iou: in [0, 1].
        prompt: in pixels of the image; None turns post-processing off.
    """

    tile: Tile
    embedding: Embedding
    logits_HW: torch.Tensor
    predicted_iou: float
    prompt: Prompt | None = None

    def postprocess(self, mask_HW: np.ndarray, corner_xy: Sequence[int]) -> np.ndarray:
        """Apply `postprocess_mask` to the candidate's mask, unless it is turned off.

        Args:
            mask_HW: bool, a window of the image.
            corner_xy: the window's first pixel in the image.
        """
        if self.prompt is None:
            return mask_HW
        return postprocess_mask(mask_HW, self.prompt, corner_xy)


def choose(candidates: Sequence[TileMask], count: int, whole: Tile) -> list[TileMask]:
    """Return up to `count` candidates of one click on several tiles, the best first.

    The best have a high predicted IoU, do not end at their tile's edge, and are found on another
    tile too. Those that nearly repeat a better one come last.
    """
    ious = _ious(candidates, whole)
    elsewhere = np.array([[one.tile != other.tile for other in candidates] for one in candidates])
    agreement = np.where(elsewhere, ious, 0.0).max(1)
    predicted = np.array([candidate.predicted_iou for candidate in candidates])
    cut = np.array([_cut_share(candidate, whole) for candidate in candidates])
    scores = predicted + AGREEMENT_WEIGHT * agreement - CUT_WEIGHT * cut
    chosen: list[int] = []
    repeats: list[int] = []
    for row in np.argsort(-scores, kind="stable").tolist():
        is_new = not chosen or ious[row, chosen].max() < REPEAT_IOU
        (chosen if is_new else repeats).append(row)
    return [candidates[row] for row in (*chosen, *repeats)[:count]]


def choose_in_box(candidates: Sequence[TileMask], box_xyxy: np.ndarray) -> list[TileMask]:
    """Return all candidates of one box, the best first, each at its best threshold of
    BOX_THRESHOLDS: those that have a high predicted IoU and fill the box."""
    scored = []
    for candidate in candidates:
        fills = _box_ious(candidate, box_xyxy)
        best = int(np.argmax(fills))
        logits = candidate.logits_HW - BOX_THRESHOLDS[best]
        scored.append((candidate.predicted_iou * fills[best], replace(candidate, logits_HW=logits)))
    return [candidate for _, candidate in sorted(scored, key=lambda one: -one[0])]


def _box_ious(candidate: TileMask, box_xyxy: np.ndarray) -> list[float]:
    """Return, for each of BOX_THRESHOLDS, the IoU of a box with that of the candidate's mask after
    `postprocess_mask`, between the cells of its logits."""
    cell = longer_side(candidate.tile) / candidate.logits_HW.shape[-1]
    box = (box_xyxy - np.tile(candidate.tile[:2], 2)) / cell
    margin = np.tile(BOX_MARGIN * (box[2:] - box[:2]), 2)
    wide = box + margin * np.array([-1, -1, 1, 1])
    height, width = candidate.logits_HW.shape
    x0, y0 = np.clip(np.floor(wide[:2]), 0, (width - 1, height - 1)).astype(int)
    x1, y1 = np.clip(np.ceil(wide[2:]), (x0 + 1, y0 + 1), (width, height)).astype(int)
    logits = candidate.logits_HW[y0:y1, x0:x1].float().cpu().numpy()
    ious = []
    for threshold in BOX_THRESHOLDS:
        above = _without_small_components(logits - threshold)
        (left, right), (top, bottom) = _extent(above.max(0), x0), _extent(above.max(1), y0)
        found = np.clip([left, top, right, bottom], np.tile(wide[:2], 2), np.tile(wide[2:], 2))
        low, high = np.maximum(found[:2], box[:2]), np.minimum(found[2:], box[2:])
        shared = np.maximum(high - low, 0).prod()
        areas = (found[2:] - found[:2]).prod() + (box[2:] - box[:2]).prod()
        ious.append(float(shared / max(areas - shared, 1e-9)))
    return ious


def _without_small_components(logits_HW: np.ndarray) -> np.ndarray:
    """Return logits that are negative in the components that `postprocess_mask` removes."""
    labels, areas = connected_components(logits_HW > 0)
    if len(areas) < 2:
        return logits_HW
    kept = select_components(labels, areas >= MIN_COMPONENT * areas.max())
    return np.where(kept, logits_HW, np.minimum(logits_HW, -1))


def _extent(profile_N: np.ndarray, start: int) -> tuple[float, float]:
    """Return where a profile of logits, whose first cell is `start`, first and last crosses zero,
    between the cells' centres."""
    inside = np.flatnonzero(profile_N > 0)
    if not len(inside):
        return float(start), float(start)
    first, last = int(inside[0]), int(inside[-1])
    low, high = float(first), float(last + 1)
    if first:
        low = first + 0.5 - profile_N[first] / (profile_N[first] - profile_N[first - 1])
    if last + 1 < len(profile_N):
        high = last + 0.5 + profile_N[last] / (profile_N[last] - profile_N[last + 1])
    return start + low, start + high


def _ious(candidates: Sequence[TileMask], whole: Tile) -> np.ndarray:
    """Return the IoU of each two candidates, float (N, N), on a grid over the image whose cells are
    those of the smallest tile."""
    cell = min(longer_side(one.tile) / one.logits_HW.shape[-1] for one in candidates)
    height, width = (math.ceil(size / cell) for size in (whole[3], whole[2]))
    masks = torch.zeros((len(candidates), height, width))
    for mask_HW, one in zip(masks, candidates, strict=True):
        side = round(longer_side(one.tile) / cell)
        x0, y0, x1, y1 = (round(edge / cell) for edge in one.tile)
        logits = one.logits_HW.float().cpu()[None, None]
        if side != logits.shape[-1]:
            logits = F.interpolate(logits, (side, side), mode="bilinear")
        part = mask_HW[y0 : min(y1, y0 + side), x0 : min(x1, x0 + side)]
        part[:] = logits[0, 0, : part.shape[0], : part.shape[1]] > 0
    flat = masks.flatten(1)
    shared, areas = flat @ flat.T, flat.sum(1)
    union = areas[:, None] + areas[None, :] - shared
    return np.asarray((shared / union.clamp(min=1)).numpy())


def _cut_share(candidate: TileMask, whole: Tile) -> float:
    """Return how much of an edge of its tile a candidate's mask takes, at most, in [0, 1]; edges of
    the image do not count."""
    x0, y0, x1, y1 = candidate.tile
    cells = candidate.logits_HW.shape[-1] / longer_side(candidate.tile)
    mask = candidate.logits_HW[: math.ceil((y1 - y0) * cells), : math.ceil((x1 - x0) * cells)] > 0
    edges = [
        (mask[:, 0], x0 > 0),
        (mask[:, -1], x1 < whole[2]),
        (mask[0], y0 > 0),
        (mask[-1], y1 < whole[3]),
    ]
    return max((float(edge.float().mean()) for edge, is_inside in edges if is_inside), default=0.0)


def longer_side(tile: Tile) -> int:
    """Return the longer side of a tile, pixels."""
    return max(tile[2] - tile[0], tile[3] - tile[1])
