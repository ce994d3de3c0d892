"""Masks of everything in an image: a grid of points, three masks a point, filters, NMS.

Order of work, crop by crop: embed; decode the points in batches; drop by predicted IoU before any
mask is drawn; draw what is left on its own window, drop by stability, area and cut edges, and let
the pixels go; NMS by box. Then, over all crops: NMS, draw the survivors again, remove small
regions, drop repeats and fragments, encode. (SAM paper, appendix B.) What is kept of a candidate
is its piece of the low-resolution logits, so memory does not grow with the image.

B = candidates, L = side of a low-resolution mask, H x W = image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch

from engine.automatic.candidates import Bar, Candidate, doubtful, placed
from engine.automatic.config import GeneratorConfig
from engine.automatic.crops import Crop, crops_of, cut_off
from engine.automatic.families import without_repeats
from engine.automatic.regions import clean, tidy
from engine.automatic.windows import Drawn, Frame, finite
from engine.core.boxes import nms
from engine.core.grids import point_grid
from engine.core.records import Mask, Provenance
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

    def as_mask(self, provenance: Provenance, image_id: int, number: int) -> Mask:
        """The record of the image's mask of this number."""
        return provenance.mask(
            image_id,
            number,
            self.rle,
            predicted_iou=self.predicted_iou,
            stability_score=self.stability_score,
            point_xy=self.point_xy,
            crop_xyxy=self.crop_xyxy,
        )


@dataclass(frozen=True, slots=True)
class _View:
    """A crop as the model sees it, of an image of (H, W)."""

    embedding: Embedding
    frame: Frame
    crop: Crop
    size: tuple[int, int]


_Made = tuple[Candidate, Drawn, bool]
"""A candidate, its pixels, and whether these are others than the model drew."""


class MaskGenerator:
    """Generates masks with one model and one configuration."""

    def __init__(self, segmenter: Segmenter, config: GeneratorConfig | None = None) -> None:
        self.segmenter = segmenter
        self.config = config or GeneratorConfig()
        if self.config.compile:
            segmenter.compile()
        self.bar = Bar(*self.config.with_thresholds(segmenter.thresholds))

    def generate(self, image_HWC: np.ndarray) -> list[GeneratedMask]:
        """All masks of an RGB uint8 image (H, W, 3), best predicted IoU first; with crops, those of
        the smallest crops first.

        Raises:
            ValueError: the array is not such an image.
        """
        size = (int(image_HWC.shape[0]), int(image_HWC.shape[1]))
        found: list[Candidate] = []
        crops = crops_of(size, self.config.crop_layers, self.config.crop_overlap)
        step = self.segmenter.images_at_once
        for start in range(0, len(crops), step):
            group = crops[start : start + step]
            cut = [np.ascontiguousarray(crop.cut(image_HWC)) for crop in group]
            embedded = self.segmenter.embed_many(cut, half=self.config.half)
            for crop, embedding in zip(group, embedded, strict=True):
                found += self._of_crop(embedding, crop, size)
        if self.config.crop_layers:
            smallest_first = np.array([-np.prod(c.crop.size, dtype=np.float64) for c in found])
            boxes = self._ends(np.array([c.box_xyxy for c in found]).reshape(-1, 4))
            kept = nms(boxes, smallest_first, self.config.max_crop_box_iou)
            found = [found[index] for index in kept]
        return self._finish(found, size)

    def _of_crop(self, embedding: Embedding, crop: Crop, size: tuple[int, int]) -> list[Candidate]:
        """What one crop gives after its own NMS, best predicted IoU first."""
        config = self.config
        per_side = max(1, int(config.points_per_side / config.crop_points_divisor**crop.layer))
        points = point_grid(per_side, crop.size)
        view = _View(
            embedding, Frame(embedding, self.segmenter.side, self.segmenter.low_side), crop, size
        )
        if config.half and self.segmenter.has_half:
            found = self._settled(view, self._candidates(view, points, self.bar.rough()))
        else:
            found = self._candidates(view, points, self.bar)
        return self._best(found)

    def _settled(self, view: _View, found: list[Candidate]) -> list[Candidate]:
        """What passes the bar, with every candidate decoded again exactly on which the outcome
        depends. A winner that falls makes others win, so it is asked until nothing is in doubt."""
        while found:
            boxes, kept = self._suppress(found)
            doubts = doubtful(found, boxes, kept, self.config.max_box_iou, self.bar)
            if not doubts:
                break
            again = {found[index].point_xy for index in doubts}
            points = np.array(sorted(again)) - view.crop.box_xyxy[:2]
            found = [candidate for candidate in found if candidate.point_xy not in again]
            found += self._candidates(view, points, self.bar)
        bar = self.bar
        return [
            c for c in found if c.predicted_iou > bar.predicted_iou and c.stability >= bar.stability
        ]

    def _candidates(self, view: _View, points_N2: np.ndarray, bar: Bar) -> list[Candidate]:
        """What passes the filters, in the order of the points (in pixels of the crop)."""
        step = self.config.points_per_batch or self.segmenter.batch

        def work(batch: np.ndarray) -> list[Candidate]:
            return list(self._of_points(view, batch, bar))

        batches = [points_N2[start : start + step] for start in range(0, len(points_N2), step)]
        return [c for found in _side_by_side(work, batches, self.segmenter.workers) for c in found]

    def _of_points(self, view: _View, points_B2: np.ndarray, bar: Bar) -> Iterator[Candidate]:
        logits, scores, rows = self.segmenter.candidates(
            view.embedding, points_B2, bar.predicted_iou, half=bar.half
        )
        low = finite(logits).numpy()
        for index, row in enumerate(rows.tolist()):
            x, y = points_B2[row] + view.crop.box_xyxy[:2]
            kept = self._filtered(view, low[index], float(scores[index]), (float(x), float(y)), bar)
            if kept is not None:
                yield kept

    def _filtered(
        self,
        view: _View,
        logits_LL: np.ndarray,
        predicted_iou: float,
        point_xy: tuple[float, float],
        bar: Bar,
    ) -> Candidate | None:
        """The candidate, or None where a filter drops it."""
        config, frame, crop = self.config, view.frame, view.crop
        window = frame.window(logits_LL, -config.stability_offset)
        if window is None:
            return None
        drawn = frame.draw(window)
        stability = stability_score(drawn, config.stability_offset)
        if not stability >= bar.stability:
            return None
        mask = drawn > 0
        area = int(np.count_nonzero(mask))
        if area < max(config.min_area, 1) or area > config.max_area * np.prod(view.size):
            return None
        tight = placed(mask, window, crop)
        box = np.array([tight.box_xyxy])
        if crop.layer and cut_off(self._ends(box), crop, view.size)[0]:
            return None
        return Candidate(
            frame,
            crop,
            window,
            tight.box_xyxy,
            predicted_iou,
            stability,
            point_xy,
            exact=not bar.half,
        )

    def _suppress(self, found: Sequence[Candidate]) -> tuple[np.ndarray, np.ndarray]:
        """The candidates' boxes (N, 4) as NMS sees them, and whom it keeps, best first."""
        boxes = self._ends(np.array([candidate.box_xyxy for candidate in found]))
        scores = np.array([candidate.predicted_iou for candidate in found])
        return boxes, nms(boxes, scores, self.config.max_box_iou)

    def _best(self, found: Sequence[Candidate]) -> list[Candidate]:
        """What NMS keeps of one crop, best predicted IoU first."""
        return [found[index] for index in self._suppress(found)[1]] if found else []

    def _ends(self, boxes_N4: np.ndarray) -> np.ndarray:
        """Half-open boxes, or those that end at their last pixel, as segment_anything's do."""
        return boxes_N4 - np.array([0, 0, 1, 1]) if self.config.as_library else boxes_N4

    def _finish(self, found: list[Candidate], size: tuple[int, int]) -> list[GeneratedMask]:
        """Draw the survivors, tidy them up, drop repeats and fragments, encode."""
        config = self.config
        drawn = [(candidate, candidate.draw(), False) for candidate in found]
        if config.min_region:
            drawn = self._without_small_regions(drawn, size)
        if config.min_piece or config.min_hole or config.min_whole:
            drawn = self._tidied(drawn)
        masks = [_encoded(candidate, mask, size) for candidate, mask, _ in drawn]
        if config.max_mask_iou == config.max_inside == 1 or not masks:
            return masks
        scores = np.array([(mask.predicted_iou + mask.stability_score) / 2 for mask in masks])
        rles = [mask.rle for mask in masks]
        kept = without_repeats(rles, scores, config.max_mask_iou, config.max_inside)
        return [masks[index] for index in kept]

    def _without_small_regions(self, drawn: list[_Made], size: tuple[int, int]) -> list[_Made]:
        config = self.config
        cleaned = []
        for candidate, mask, _ in drawn:
            made, changed = clean(mask, size, config.min_region, keep_largest=config.as_library)
            if made.mask.any():
                cleaned.append((candidate, made, changed))
        return self._suppressed_again(cleaned)

    def _tidied(self, drawn: list[_Made]) -> list[_Made]:
        config = self.config
        tidied = []
        for candidate, mask, _ in drawn:
            made = tidy(mask, config.min_piece, config.min_hole, config.min_whole)
            if np.count_nonzero(made.mask) >= max(config.min_area, 1):
                tidied.append((candidate, made, made is not mask))
        return self._suppressed_again(tidied)

    def _suppressed_again(self, drawn: list[_Made]) -> list[_Made]:
        """Removing regions moves boxes, so duplicates are looked for again."""
        config = self.config
        boxes = np.array([mask.box_xyxy for _, mask, _ in drawn]).reshape(-1, 4)
        if config.as_library:
            ranks = np.array([not changed for _, _, changed in drawn], np.float64)
        else:
            ranks = -np.arange(len(drawn), dtype=np.float64)
        limit = max(config.max_box_iou, config.max_crop_box_iou)
        return [drawn[index] for index in nms(self._ends(boxes), ranks, limit)]


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


def _encoded(candidate: Candidate, drawn: Drawn, size: tuple[int, int]) -> GeneratedMask:
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
