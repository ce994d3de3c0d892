"""Masks of everything in an image: a grid of points, three masks a point, filters, NMS.

Order of work, crop by crop: embed; decode the points in batches; drop by predicted IoU before any
mask is drawn; draw what is left on its own window, drop by stability, area and cut edges, and let
the pixels go; NMS by box. Then, over all crops: NMS, draw the survivors again, remove small
regions, encode. (SAM paper, appendix B.) What is kept of a candidate is its piece of the
low-resolution logits, so memory does not grow with the image.

B = candidates, L = side of a low-resolution mask, H x W = image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch

from engine.automatic.config import GeneratorConfig
from engine.automatic.crops import Crop, crops_of, cut_off
from engine.automatic.regions import clean
from engine.automatic.windows import Drawn, Frame, Window, finite
from engine.core.boxes import nms
from engine.core.grids import point_grid
from engine.core.rle import RLE
from engine.sam.segmenter import Embedding, Segmenter


@dataclass(frozen=True, slots=True)
class GeneratedMask:
    """One automatic mask. Boxes half-open XYXY, point (x, y), all in pixels of the image.

    `crop_xyxy` is the crop it was found in, the whole image where no crops are used.
    """

    rle: RLE
    area: int
    box_xyxy: tuple[int, int, int, int]
    predicted_iou: float
    stability_score: float
    point_xy: tuple[float, float]
    crop_xyxy: tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A mask that passed the filters; box and point in pixels of the image."""

    frame: Frame
    crop: Crop
    window: Window
    box_xyxy: tuple[int, int, int, int]
    predicted_iou: float
    stability: float
    point_xy: tuple[float, float]

    def draw(self) -> Drawn:
        """The mask on its own box, in pixels of the image."""
        return _placed(self.frame.draw(self.window) > 0, self.window, self.crop)


class MaskGenerator:
    """Generates masks with one model and one configuration."""

    def __init__(self, segmenter: Segmenter, config: GeneratorConfig | None = None) -> None:
        self.segmenter = segmenter
        self.config = config or GeneratorConfig()
        self.min_predicted_iou, self.min_stability = self.config.with_thresholds(
            segmenter.thresholds
        )

    def generate(self, image_HWC: np.ndarray) -> list[GeneratedMask]:
        """All masks of an RGB uint8 image (H, W, 3), best predicted IoU first; with crops, those of
        the smallest crops first.

        Raises:
            ValueError: the array is not such an image.
        """
        size = (int(image_HWC.shape[0]), int(image_HWC.shape[1]))
        found: list[_Candidate] = []
        crops = crops_of(size, self.config.crop_layers, self.config.crop_overlap)
        step = self.segmenter.images_at_once
        for start in range(0, len(crops), step):
            group = crops[start : start + step]
            cut = [np.ascontiguousarray(crop.cut(image_HWC)) for crop in group]
            for crop, embedding in zip(group, self.segmenter.embed_many(cut), strict=True):
                found += self._of_crop(embedding, crop, size)
        if self.config.crop_layers:
            smallest_first = np.array([-np.prod(c.crop.size, dtype=np.float64) for c in found])
            found = self._distinct(found, smallest_first, self.config.max_crop_box_iou)
        return self._finish(found, size)

    def _of_crop(self, embedding: Embedding, crop: Crop, size: tuple[int, int]) -> list[_Candidate]:
        """What one crop gives after its own NMS, best predicted IoU first."""
        found = self._candidates(embedding, crop, size)
        scores = np.array([candidate.predicted_iou for candidate in found])
        return self._distinct(found, scores, self.config.max_box_iou)

    def _candidates(
        self, embedding: Embedding, crop: Crop, size: tuple[int, int]
    ) -> list[_Candidate]:
        """What passes the filters, in the order of the grid's points."""
        config = self.config
        per_side = max(1, int(config.points_per_side / config.crop_points_divisor**crop.layer))
        points = point_grid(per_side, crop.size)
        step = config.points_per_batch or self.segmenter.batch
        frame = Frame(embedding, self.segmenter.side, self.segmenter.low_side)

        def work(batch: np.ndarray) -> list[_Candidate]:
            return list(self._of_points(embedding, frame, crop, size, batch))

        batches = [points[start : start + step] for start in range(0, len(points), step)]
        return [c for found in _side_by_side(work, batches, self.segmenter.workers) for c in found]

    def _of_points(
        self,
        embedding: Embedding,
        frame: Frame,
        crop: Crop,
        size: tuple[int, int],
        points_B2: np.ndarray,
    ) -> Iterator[_Candidate]:
        logits, scores, rows = self.segmenter.candidates(
            embedding, points_B2, self.min_predicted_iou, half=self.config.half
        )
        low = finite(logits).numpy()
        for index, row in enumerate(rows.tolist()):
            x, y = points_B2[row] + crop.box_xyxy[:2]
            kept = self._filtered(
                frame, crop, size, low[index], float(scores[index]), (float(x), float(y))
            )
            if kept is not None:
                yield kept

    def _filtered(
        self,
        frame: Frame,
        crop: Crop,
        size: tuple[int, int],
        logits_LL: np.ndarray,
        predicted_iou: float,
        point_xy: tuple[float, float],
    ) -> _Candidate | None:
        """The candidate, or None where a filter drops it."""
        config = self.config
        window = frame.window(logits_LL, -config.stability_offset)
        if window is None:
            return None
        drawn = frame.draw(window)
        stability = stability_score(drawn, config.stability_offset)
        if not stability >= self.min_stability:
            return None
        mask = drawn > 0
        area = int(np.count_nonzero(mask))
        if area < max(config.min_area, 1) or area > config.max_area * size[0] * size[1]:
            return None
        tight = _placed(mask, window, crop)
        box = np.array([tight.box_xyxy])
        if crop.layer and cut_off(self._ends(box), crop, size)[0]:
            return None
        return _Candidate(frame, crop, window, tight.box_xyxy, predicted_iou, stability, point_xy)

    def _distinct(
        self, found: list[_Candidate], scores: np.ndarray, max_iou: float
    ) -> list[_Candidate]:
        if not found:
            return []
        boxes = self._ends(np.array([candidate.box_xyxy for candidate in found]))
        return [found[index] for index in nms(boxes, scores, max_iou)]

    def _ends(self, boxes_N4: np.ndarray) -> np.ndarray:
        """Half-open boxes, or those that end at their last pixel, as segment_anything's do."""
        return boxes_N4 - np.array([0, 0, 1, 1]) if self.config.as_library else boxes_N4

    def _finish(self, found: list[_Candidate], size: tuple[int, int]) -> list[GeneratedMask]:
        """Draw the survivors, remove small regions, encode."""
        config = self.config
        if not config.min_region:
            return [_encoded(candidate, candidate.draw(), size) for candidate in found]
        cleaned = []
        for candidate in found:
            drawn, changed = clean(
                candidate.draw(), size, config.min_region, keep_largest=config.as_library
            )
            if drawn.mask.any():
                cleaned.append((candidate, drawn, changed))
        boxes = np.array([drawn.box_xyxy for _, drawn, _ in cleaned]).reshape(-1, 4)
        # removing regions moves boxes, so duplicates are looked for again
        if config.as_library:
            ranks = np.array([not changed for _, _, changed in cleaned], np.float64)
        else:
            ranks = -np.arange(len(cleaned), dtype=np.float64)
        limit = max(config.max_box_iou, config.max_crop_box_iou)
        kept = nms(self._ends(boxes), ranks, limit)
        return [_encoded(cleaned[index][0], cleaned[index][1], size) for index in kept]


_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def _side_by_side(
    work: Callable[[_Item], _Result], items: Sequence[_Item], workers: int
) -> list[_Result]:
    """`work` on every item, in their order, on several threads with one core each.

    A decoder's operations are small: two cores on one of them spend more time on waiting for each
    other than two on different ones.
    """
    if workers < 2 or len(items) < 2:
        return [work(item) for item in items]

    def alone(item: _Item) -> _Result:
        torch.set_num_threads(1)
        return work(item)

    try:
        with ThreadPoolExecutor(workers) as pool:
            return list(pool.map(alone, items))
    finally:
        torch.set_num_threads(workers)


def _placed(mask_HW: np.ndarray, window: Window, crop: Crop) -> Drawn:
    """A window's mask on its own box, in pixels of the image."""
    left, top = crop.box_xyxy[:2]
    return Drawn(mask_HW, left + window.frame_columns[0], top + window.frame_rows[0]).tight()


def _encoded(candidate: _Candidate, drawn: Drawn, size: tuple[int, int]) -> GeneratedMask:
    return GeneratedMask(
        rle=drawn.rle(size),
        area=int(np.count_nonzero(drawn.mask)),
        box_xyxy=drawn.box_xyxy,
        predicted_iou=candidate.predicted_iou,
        stability_score=candidate.stability,
        point_xy=candidate.point_xy,
        crop_xyxy=candidate.crop.box_xyxy,
    )


def stability_score(logits_HW: np.ndarray, offset: float) -> float:
    """IoU of the masks cut at +offset and -offset, in [0, 1]; 0 for an empty mask.

    The one lies inside the other, so the IoU is the ratio of their areas (SAM paper, appendix B).
    """
    outer = int(np.count_nonzero(logits_HW > -offset))
    return int(np.count_nonzero(logits_HW > offset)) / outer if outer else 0.0
