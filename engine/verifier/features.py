"""What a verifier knows about a mask, as numbers: its shape, the image along its outline, its
scores, how it relates to the image's other masks, and how the image embedding inside it differs
from the embedding around it.

The embedding's channels themselves are not among them: with the verdicts of some dozens of images,
a verifier that reads them learns the images (docs/LOG.md).

N = masks, F = features, C = channels of the embedding, h x w = its grid, H x W = image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np

from engine.core import rle as rle_codec
from engine.core.components import connected_components
from engine.core.rle import RLE
from engine.sam.segmenter import Embedding

RING = 0.25
"""Width of the ring around a mask, as a share of the square root of its area."""

TINY = 1e-6

SHAPE = (
    "log_area",
    "fill",
    "compactness",
    "solidity",
    "aspect",
    "pieces",
    "holes",
    "hole_share",
    "touches_border",
)
CONTRAST = ("edge", "edge_low", "colour_apart", "colour_inside")
BANDS = (-3, -2, -1, 0, 1, 2, 3)
"""Bands along the outline, from inside to outside; each is as wide as BAND."""
BAND = 0.04
"""Width of a band, as a share of the square root of the mask's area."""
PROFILE = tuple(f"{kind}_{band}" for kind in ("edges", "colours") for band in BANDS)
SCORES = ("predicted_iou", "stability_score", "crop", "depth")
OTHERS = ("inside_other", "covered", "overlaps", "relative_area", "relative_iou", "masks")
GRID = ("grid_alike", "grid_apart", "grid_spread")
NAMES = SHAPE + CONTRAST + PROFILE + SCORES + OTHERS + GRID
"""The F features in their order."""


class SeenMask(Protocol):
    """A mask with scores: `engine.core.records.Mask`, or one of the generator."""

    @property
    def rle(self) -> RLE: ...
    @property
    def area(self) -> int: ...
    @property
    def box_xyxy(self) -> tuple[int, int, int, int]: ...
    @property
    def predicted_iou(self) -> float | None: ...
    @property
    def stability_score(self) -> float | None: ...
    @property
    def point_xy(self) -> tuple[float, float] | None: ...
    @property
    def crop_xyxy(self) -> tuple[int, int, int, int] | None: ...


@dataclass(frozen=True, slots=True)
class Picture:
    """An image with all masks that one run found in it: what a verifier judges at once.

    Attributes:
        image_HWC: RGB uint8.
        embedding: of the segmenter version that the verifier names.
        masks: none is empty.
    """

    image_HWC: np.ndarray
    embedding: Embedding
    masks: Sequence[SeenMask]


def features(picture: Picture) -> np.ndarray:
    """Return the features of a picture's masks, float32 (N, F), in the order of NAMES; NaN where
    unknown."""
    if not picture.masks:
        return np.zeros((0, len(NAMES)), np.float32)
    edges_HW = _edges(picture.image_HWC)
    rows, inside, around = [], [], []
    for mask in picture.masks:
        window = _Window.of(mask, picture.image_HWC.shape[:2])
        shape, contrast = _shape(mask, window), _contrast(picture.image_HWC, edges_HW, window)
        profile = _profile(picture.image_HWC, edges_HW, window, mask.area)
        rows.append([*shape, *contrast, *profile, *_scores(mask, window)])
        inside.append(_on_grid(window, window.mask, picture.embedding))
        around.append(_on_grid(window, window.ring, picture.embedding))
    grid = _pooled(picture.embedding, np.stack(inside), np.stack(around))
    columns = [np.array(rows), _others(picture.masks), grid]
    return np.concatenate(columns, axis=1).astype(np.float32)


@dataclass(frozen=True, slots=True)
class _Window:
    """A mask and the ring around it, bool, inside a window at (x, y) of an image of `size`."""

    mask: np.ndarray
    ring: np.ndarray
    x: int
    y: int
    size: tuple[int, int]

    @staticmethod
    def of(mask: SeenMask, size: tuple[int, int]) -> _Window:
        """Cut the mask's box out, with room for the ring."""
        width = max(2, round(RING * math.sqrt(mask.area)))
        x0, y0, x1, y1 = mask.box_xyxy
        left, top = max(0, x0 - width), max(0, y0 - width)
        rows = slice(top, min(size[0], y1 + width))
        columns = slice(left, min(size[1], x1 + width))
        cut = np.ascontiguousarray(rle_codec.decode(mask.rle)[rows, columns])
        outside = (~cut).view(np.uint8)
        near = cv2.distanceTransform(outside, cv2.DIST_L2, 3) <= width if cut.any() else cut
        return _Window(cut, np.asarray(near & ~cut), left, top, size)

    def cut(self, image: np.ndarray) -> np.ndarray:
        """Return the window of an image (H, W) or (H, W, 3)."""
        height, width = self.mask.shape
        return image[self.y : self.y + height, self.x : self.x + width]


def _edges(image_HWC: np.ndarray) -> np.ndarray:
    """Return the gradient's magnitude, float32 (H, W), relative to its mean in the image."""
    grey = cv2.GaussianBlur(cv2.cvtColor(image_HWC, cv2.COLOR_RGB2GRAY), (0, 0), 1.0)
    x, y = (cv2.Sobel(grey, cv2.CV_32F, *order, ksize=3) for order in ((1, 0), (0, 1)))
    size = cv2.magnitude(x, y)
    return np.asarray(size / max(float(size.mean()), TINY))


def _shape(mask: SeenMask, window: _Window) -> list[float]:
    area, (x0, y0, x1, y1) = max(mask.area, 1), mask.box_xyxy
    height, width = window.size
    padded = np.pad(window.mask.view(np.uint8), 1)
    lines, levels = cv2.findContours(padded, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    outlines = [line for line, level in zip(lines, levels[0], strict=True) if level[3] < 0]
    length = sum(cv2.arcLength(line, True) for line in outlines)
    hull = cv2.contourArea(cv2.convexHull(np.concatenate(outlines)))
    filled = sum(cv2.contourArea(line) + cv2.arcLength(line, True) / 2 + 1 for line in outlines)
    touched = (x0 <= 0) + (y0 <= 0) + (x1 >= width) + (y1 >= height)
    return [
        math.log(area / (height * width)),
        area / max((x1 - x0) * (y1 - y0), 1),
        min(4 * math.pi * area / max(length, 1.0) ** 2, 2.0),
        min(area / max(hull, 1.0), 2.0),
        abs(math.log(max(x1 - x0, 1) / max(y1 - y0, 1))),
        math.log(max(len(connected_components(window.mask)[1]), 1)),
        math.log1p(len(lines) - len(outlines)),
        max(0.0, 1 - area / max(filled, 1.0)),
        float(touched),
    ]


def _contrast(image_HWC: np.ndarray, edges_HW: np.ndarray, window: _Window) -> list[float]:
    padded = np.pad(window.mask.view(np.uint8), 1)
    inner = cv2.erode(padded, np.ones((3, 3), np.uint8))[1:-1, 1:-1].astype(bool)
    outline = window.cut(edges_HW)[window.mask & ~inner]
    colours = window.cut(image_HWC).astype(np.float32) / 255
    inside, around = colours[window.mask], colours[window.ring]
    spread = float(inside.std(axis=0).mean())
    apart = math.nan
    if len(around):
        apart = float(np.linalg.norm(inside.mean(axis=0) - around.mean(axis=0)))
        apart = math.log((apart + 0.01) / (spread + 0.01))
    low = float(np.quantile(outline, 0.25))
    return [math.log1p(float(outline.mean())), math.log1p(low), apart, spread]


def _profile(
    image_HWC: np.ndarray, edges_HW: np.ndarray, window: _Window, area: int
) -> list[float]:
    """Return, for each band along the outline, the mean gradient and the colour's distance from
    the inside towards the ring (0: as inside, 1: as in the ring)."""
    padded = np.pad(window.mask.view(np.uint8), 1)
    depth = cv2.distanceTransform(padded, cv2.DIST_L2, 3)[1:-1, 1:-1]
    height = cv2.distanceTransform((~window.mask).view(np.uint8), cv2.DIST_L2, 3)
    signed = np.where(window.mask, 0.5 - depth, height - 0.5)
    width = max(1.0, BAND * math.sqrt(area))
    band = np.clip(np.round(signed / width), BANDS[0] - 1, BANDS[-1] + 1).astype(np.int64)
    index = (band - BANDS[0] + 1).ravel()
    count = np.bincount(index, minlength=len(BANDS) + 2)[1:-1].astype(np.float64)
    count[count == 0] = np.nan
    colours = window.cut(image_HWC).reshape(-1, 3).astype(np.float64) / 255
    inside, ring = window.mask.ravel(), window.ring.ravel()
    base = colours[inside].mean(axis=0)
    towards = (colours[ring].mean(axis=0) if ring.any() else base) - base
    along = (colours - base) @ towards / max(float(towards @ towards), 1e-4)
    found = []
    for values in (np.log1p(window.cut(edges_HW).ravel()), along):
        total = np.bincount(index, weights=values, minlength=len(BANDS) + 2)[1:-1]
        found += (total / count).tolist()
    return found


def _scores(mask: SeenMask, window: _Window) -> list[float]:
    height, width = window.size
    x0, y0, x1, y1 = mask.crop_xyxy or (0, 0, width, height)
    depth = math.nan
    if mask.point_xy is not None:
        x, y = int(mask.point_xy[0]) - window.x, int(mask.point_xy[1]) - window.y
        depth = 0.0
        if 0 <= y < window.mask.shape[0] and 0 <= x < window.mask.shape[1]:
            padded = np.pad(window.mask.view(np.uint8), 1)
            inside = cv2.distanceTransform(padded, cv2.DIST_L2, 3)
            depth = float(inside[y + 1, x + 1] / max(float(inside.max()), 1.0))
    return [
        _log_odds(mask.predicted_iou),
        _log_odds(mask.stability_score),
        math.log((x1 - x0) * (y1 - y0) / (height * width)),
        depth,
    ]


def _log_odds(score: float | None) -> float:
    if score is None:
        return math.nan
    kept = min(max(score, 0.005), 0.995)
    return math.log(kept / (1 - kept))


def _others(masks: Sequence[SeenMask]) -> np.ndarray:
    """Return how each mask relates to the others, float64 (N, 6): the largest share of it inside a
    larger mask, the share of it that smaller masks cover at most together, the number of masks
    that overlap it, its area and its predicted IoU relative to the median, and their number."""
    areas = np.array([max(mask.area, 1) for mask in masks], np.float64)
    iou = rle_codec.iou_matrix([m.rle for m in masks], [m.rle for m in masks])
    shared = iou / (1 + iou) * (areas[:, None] + areas[None, :])  # pixels
    np.fill_diagonal(shared, 0)
    share = shared / areas[:, None]
    is_larger = areas[None, :] > areas[:, None]
    scores = np.array([np.nan if m.predicted_iou is None else m.predicted_iou for m in masks])
    middle = np.nanmedian(scores) if not np.isnan(scores).all() else np.nan
    return np.stack(
        [
            np.where(is_larger, share, 0).max(axis=1),
            np.minimum(np.where(is_larger, 0, share).sum(axis=1), 2.0),
            np.log1p((share > 0.1).sum(axis=1)),
            np.log(areas / np.median(areas)),
            scores - middle,
            np.full(len(masks), math.log(len(masks))),
        ],
        axis=1,
    )


def _on_grid(window: _Window, region: np.ndarray, embedding: Embedding) -> np.ndarray:
    """Return how much of each cell of the embedding's grid a region of the window covers, float32
    (h w,)."""
    height, width = embedding.features_1CHW.shape[-2:]
    cell = max(embedding.original_size) / height  # the image's longer side fills the square grid
    rows, columns = np.nonzero(region)
    y = np.minimum(((rows + window.y + 0.5) / cell).astype(np.int64), height - 1)
    x = np.minimum(((columns + window.x + 0.5) / cell).astype(np.int64), width - 1)
    return np.bincount(y * width + x, minlength=height * width).astype(np.float32)


def _pooled(embedding: Embedding, inside_NG: np.ndarray, around_NG: np.ndarray) -> np.ndarray:
    """Return GRID, float64 (N, 3): the cosine of the embedding's means inside and around each mask,
    their distance, and the deviation inside."""
    cells_GC = embedding.features_1CHW[0].flatten(1).T.cpu().numpy().astype(np.float64)

    def mean(weights_NG: np.ndarray, values_GC: np.ndarray) -> np.ndarray:
        total = weights_NG.sum(axis=1, keepdims=True)
        return np.where(total > 0, weights_NG @ values_GC / np.maximum(total, 1), np.nan)

    inside, around = mean(inside_NG, cells_GC), mean(around_NG, cells_GC)
    squares = mean(inside_NG, cells_GC**2)
    norms = np.linalg.norm(inside, axis=1) * np.linalg.norm(around, axis=1)
    alike = (inside * around).sum(axis=1) / np.maximum(norms, TINY)
    apart = np.linalg.norm(inside - around, axis=1)
    spread = np.sqrt(np.maximum(squares - inside**2, 0).sum(axis=1))
    return np.stack([alike, apart, spread], axis=1)
