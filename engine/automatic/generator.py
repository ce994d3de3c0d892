"""The automatic mask generator: a grid of points, three masks per point, filters, NMS (SAM paper,
appendix B).

For each crop, the generator encodes it, decodes the points in batches, drops candidates by
predicted IoU before upscaling, upsamples the others inside their own window, drops them by
stability, area and cut edges, and runs NMS by box. Then, over all crops, it runs NMS, upsamples the
kept masks again, removes small regions, duplicates and fragments, and encodes run lengths. A
candidate stores only its window of the low-resolution logits, so that memory does not grow with the
image.

B = candidates, L = side of a low-resolution mask, H x W = image.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from engine.automatic.candidates import (
    Candidate,
    FilterThresholds,
    average_candidates,
    find_uncertain,
    place_mask,
    stability_score,
)
from engine.automatic.config import GeneratorConfig
from engine.automatic.crops import Crop, make_crops, touches_crop_edge
from engine.automatic.duplicates import remove_duplicates
from engine.automatic.regions import remove_small_regions, remove_specks
from engine.automatic.windows import Frame, MaskWindow, finite
from engine.core.boxes import nms
from engine.core.grids import point_grid
from engine.core.records import Mask, Provenance
from engine.core.rle import RLE
from engine.sam.segmenter import Embedding, Segmenter
from engine.sam.threads import map_on_threads


@dataclass(frozen=True, slots=True)
class GeneratedMask:
    """One automatic mask. Boxes are half-open XYXY, the point is (x, y), all in pixels of the
    image; scores are in [0, 1]. `crop_xyxy` is the crop in which the mask was found.
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
class _CropView:
    """An encoded crop; `size` is (H, W) of the whole image."""

    embedding: Embedding
    frame: Frame
    crop: Crop
    size: tuple[int, int]


_DrawnCandidate = tuple[Candidate, MaskWindow, bool]
"""A candidate, its mask, and whether post-processing changed the mask."""


class MaskGenerator:
    """Generates masks with one model and one configuration."""

    def __init__(self, segmenter: Segmenter, config: GeneratorConfig | None = None) -> None:
        self.segmenter = segmenter
        self.config = config or GeneratorConfig()
        if self.config.compile:
            segmenter.compile()
        self.crop_layers = self.config.layers_of_crops(segmenter.side)
        self.thresholds = FilterThresholds(*self.config.with_thresholds(segmenter.thresholds))

    def generate(self, image_HWC: np.ndarray) -> list[GeneratedMask]:
        """Return all masks of an RGB uint8 image (H, W, 3), highest predicted IoU first; if
        crops have their own NMS (`max_crop_box_iou` below 1), masks of the smallest crops first.

        Raises:
            ValueError: the array is not such an image.
        """
        size = (int(image_HWC.shape[0]), int(image_HWC.shape[1]))
        found: list[Candidate] = []
        crops = make_crops(size, self.crop_layers, self.config.crop_overlap)
        step = self.segmenter.images_at_once
        for start in range(0, len(crops), step):
            group = crops[start : start + step]
            cut = [np.ascontiguousarray(crop.cut(image_HWC)) for crop in group]
            embedded = self.segmenter.embed_many(cut, half=self.config.half)
            for crop, embedding in zip(group, embedded, strict=True):
                found += self._process_crop(embedding, crop, size)
        if self.crop_layers and self.config.max_crop_box_iou < 1:
            smallest_first = np.array([-np.prod(c.crop.size, dtype=np.float64) for c in found])
            boxes = self._nms_boxes(np.array([c.box_xyxy for c in found]).reshape(-1, 4))
            kept = nms(boxes, smallest_first, self.config.max_crop_box_iou)
            found = [found[index] for index in kept]
        elif self.crop_layers:
            found.sort(key=lambda candidate: -candidate.predicted_iou)
        return self._finalize(found, size)

    def _process_crop(
        self, embedding: Embedding, crop: Crop, size: tuple[int, int]
    ) -> list[Candidate]:
        """Return one crop's candidates after NMS, highest predicted IoU first."""
        config = self.config
        per_side = max(1, int(config.points_per_side / config.crop_points_divisor**crop.layer))
        points = point_grid(per_side, crop.size)
        view = _CropView(
            embedding, Frame(embedding, self.segmenter.side, self.segmenter.low_side), crop, size
        )
        if config.half and self.segmenter.has_half:
            found = self._resolve_uncertain(
                view, self._candidates(view, points, self.thresholds.relaxed())
            )
        else:
            found = self._candidates(view, points, self.thresholds)
        return self._keep_best(found)

    def _resolve_uncertain(self, view: _CropView, found: list[Candidate]) -> list[Candidate]:
        """Decode uncertain candidates again in float32, and apply the final thresholds.

        A new score can make other candidates uncertain, so this repeats until none is.
        """
        while found:
            boxes, kept = self._suppress(found)
            uncertain = find_uncertain(found, boxes, kept, self.config.max_box_iou, self.thresholds)
            if not uncertain:
                break
            again = {found[index].point_xy for index in uncertain}
            points = np.array(sorted(again)) - view.crop.box_xyxy[:2]
            found = [candidate for candidate in found if candidate.point_xy not in again]
            found += self._candidates(view, points, self.thresholds)
        thresholds = self.thresholds
        return [
            c
            for c in found
            if c.predicted_iou > thresholds.predicted_iou and c.stability >= thresholds.stability
        ]

    def _candidates(
        self, view: _CropView, points_N2: np.ndarray, thresholds: FilterThresholds
    ) -> list[Candidate]:
        """Return the candidates that pass the filters, in the order of the points, which are in
        pixels of the crop."""
        step = self.config.points_per_batch or self.segmenter.batch

        def work(batch: np.ndarray) -> list[Candidate]:
            return list(self._decode_points(view, batch, thresholds))

        batches = [points_N2[start : start + step] for start in range(0, len(points_N2), step)]
        return [c for found in map_on_threads(work, batches, self.segmenter.workers) for c in found]

    def _decode_points(
        self, view: _CropView, points_B2: np.ndarray, thresholds: FilterThresholds
    ) -> Iterator[Candidate]:
        logits, scores, rows = self.segmenter.candidates(
            view.embedding, points_B2, thresholds.predicted_iou, half=thresholds.half
        )
        low = finite(logits).numpy()
        for index, row in enumerate(rows.tolist()):
            x, y = points_B2[row] + view.crop.box_xyxy[:2]
            kept = self._filter(
                view, low[index], float(scores[index]), (float(x), float(y)), thresholds
            )
            if kept is not None:
                yield kept

    def _filter(
        self,
        view: _CropView,
        logits_LL: np.ndarray,
        predicted_iou: float,
        point_xy: tuple[float, float],
        thresholds: FilterThresholds,
    ) -> Candidate | None:
        """Return the candidate, or None if a filter drops it."""
        config, frame, crop = self.config, view.frame, view.crop
        window = frame.window(logits_LL, -config.stability_offset)
        if window is None:
            return None
        drawn = frame.draw(window)
        stability = stability_score(drawn, config.stability_offset)
        if not stability >= thresholds.stability:
            return None
        mask = drawn > 0
        area = int(np.count_nonzero(mask))
        if area < max(config.min_area, 1) or area > config.max_area * np.prod(view.size):
            return None
        tight = place_mask(mask, window, crop)
        box = np.array([tight.box_xyxy])
        if crop.layer and touches_crop_edge(self._nms_boxes(box), crop, view.size)[0]:
            return None
        return Candidate(
            frame,
            crop,
            window,
            tight.box_xyxy,
            predicted_iou,
            stability,
            point_xy,
            exact=not thresholds.half,
        )

    def _suppress(self, found: Sequence[Candidate]) -> tuple[np.ndarray, np.ndarray]:
        """Return the boxes (N, 4) that NMS compares, and the indices that it keeps, best first."""
        boxes = self._nms_boxes(np.array([candidate.box_xyxy for candidate in found]))
        scores = np.array([candidate.predicted_iou for candidate in found])
        return boxes, nms(boxes, scores, self.config.max_box_iou)

    def _keep_best(self, found: Sequence[Candidate]) -> list[Candidate]:
        """Return the candidates that NMS keeps, averaged, highest predicted IoU first."""
        config = self.config
        kept = self._suppress(found)[1] if found else np.array([], np.int64)
        if config.average_iou == 1:
            return [found[index] for index in kept]
        return average_candidates(found, kept, config.average_iou, config.stability_offset)

    def _nms_boxes(self, boxes_N4: np.ndarray) -> np.ndarray:
        """Return half-open boxes, or boxes that end at their last pixel, as segment_anything's."""
        return boxes_N4 - np.array([0, 0, 1, 1]) if self.config.as_library else boxes_N4

    def _finalize(self, found: list[Candidate], size: tuple[int, int]) -> list[GeneratedMask]:
        """Upsample the candidates, post-process their masks, drop duplicates, and encode."""
        config = self.config
        drawn = [(candidate, candidate.draw(), False) for candidate in found]
        if config.min_region:
            drawn = self._remove_small_regions(drawn, size)
        if config.min_piece or config.min_hole or config.min_whole:
            drawn = self._remove_specks(drawn)
        masks = [_encode(candidate, mask, size) for candidate, mask, _ in drawn]
        if config.max_mask_iou == config.max_inside == 1 or not masks:
            return masks
        scores = np.array([(mask.predicted_iou + mask.stability_score) / 2 for mask in masks])
        rles = [mask.rle for mask in masks]
        kept = remove_duplicates(rles, scores, config.max_mask_iou, config.max_inside)
        return [masks[index] for index in kept]

    def _remove_small_regions(
        self, drawn: list[_DrawnCandidate], size: tuple[int, int]
    ) -> list[_DrawnCandidate]:
        config = self.config
        cleaned = []
        for candidate, mask, _ in drawn:
            made, changed = remove_small_regions(
                mask, size, config.min_region, keep_largest=config.as_library
            )
            if made.mask.any():
                cleaned.append((candidate, made, changed))
        return self._suppress_again(cleaned)

    def _remove_specks(self, drawn: list[_DrawnCandidate]) -> list[_DrawnCandidate]:
        config = self.config
        tidied = []
        for candidate, mask, _ in drawn:
            made = remove_specks(mask, config.min_piece, config.min_hole, config.min_whole)
            if np.count_nonzero(made.mask) >= max(config.min_area, 1):
                tidied.append((candidate, made, made is not mask))
        return self._suppress_again(tidied)

    def _suppress_again(self, drawn: list[_DrawnCandidate]) -> list[_DrawnCandidate]:
        """Run NMS again, because post-processing changes boxes."""
        config = self.config
        boxes = np.array([mask.box_xyxy for _, mask, _ in drawn]).reshape(-1, 4)
        if config.as_library:
            ranks = np.array([not changed for _, _, changed in drawn], np.float64)
        else:
            ranks = -np.arange(len(drawn), dtype=np.float64)
        limit = max(config.max_box_iou, config.max_crop_box_iou if self.crop_layers else 0.0)
        return [drawn[index] for index in nms(self._nms_boxes(boxes), ranks, limit)]


def _encode(candidate: Candidate, drawn: MaskWindow, size: tuple[int, int]) -> GeneratedMask:
    return GeneratedMask(
        rle=drawn.rle(size),
        area=int(np.count_nonzero(drawn.mask)),
        box_xyxy=drawn.box_xyxy,
        predicted_iou=candidate.predicted_iou,
        stability_score=candidate.stability,
        point_xy=candidate.point_xy,
        crop_xyxy=candidate.crop.box_xyxy,
    )
