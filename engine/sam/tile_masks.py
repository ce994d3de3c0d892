"""Masks that a model predicted on tiles of an image, and the choice among those of one click.

A click does not say how large its object is. A model takes what fills its view for the object, so
it answers the same click differently on the whole image and on tiles around it. What it finds in
two views is more often an object (docs/LOG.md, 2026-11-28).

N = masks, H x W = image, h x w = embedding grid.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from engine.core.postprocess import postprocess_mask
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
