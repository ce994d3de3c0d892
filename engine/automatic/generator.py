"""Masks of everything in an image: a grid of points, three masks a point, filters, NMS.

Order of work: embed; decode the points in batches; drop by predicted IoU while masks are still
small; upsample what is left in pieces of bounded size; drop by stability and area; encode; NMS by
box. (SAM paper, appendix B.)

B = candidates, h x w = low-resolution masks, H x W = image.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from engine.automatic.config import GeneratorConfig
from engine.core import rle as rle_codec
from engine.core.boxes import nms
from engine.core.grids import point_grid
from engine.core.records import Prompt
from engine.core.rle import RLE
from engine.sam.segmenter import Embedding, Segmenter


@dataclass(frozen=True, slots=True)
class GeneratedMask:
    """One automatic mask. Box half-open XYXY, point (x, y), both in pixels of the image."""

    rle: RLE
    area: int
    box_xyxy: tuple[int, int, int, int]
    predicted_iou: float
    stability_score: float
    point_xy: tuple[float, float]


class MaskGenerator:
    """Generates masks with one model and one configuration."""

    def __init__(self, segmenter: Segmenter, config: GeneratorConfig | None = None) -> None:
        self.segmenter = segmenter
        self.config = config or GeneratorConfig()
        self.min_predicted_iou, self.min_stability = self.config.with_thresholds(
            segmenter.thresholds
        )

    def generate(self, image_HWC: np.ndarray) -> list[GeneratedMask]:
        """All masks of an RGB uint8 image (H, W, 3), best predicted IoU first.

        Raises:
            ValueError: the array is not such an image.
        """
        return self.generate_from(self.segmenter.embed(image_HWC))

    def generate_from(self, embedding: Embedding) -> list[GeneratedMask]:
        """The same for an image already embedded."""
        candidates = [
            mask
            for logits, scores, points in self._candidates(embedding)
            for mask in self._keep(embedding, logits, scores, points)
        ]
        if not candidates:
            return []
        boxes = np.array([mask.box_xyxy for mask in candidates], dtype=np.float64)
        scores = np.array([mask.predicted_iou for mask in candidates])
        return [candidates[index] for index in nms(boxes, scores, self.config.max_box_iou)]

    def _candidates(
        self, embedding: Embedding
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor, np.ndarray]]:
        """Per batch of points: logits (B, h, w), predicted IoU (B,) and points (B, 2) of the
        masks above the IoU threshold."""
        points = point_grid(self.config.points_per_side, embedding.original_size)
        label = np.ones(1, np.int64)
        for start in range(0, len(points), self.config.points_per_batch):
            batch = points[start : start + self.config.points_per_batch]
            prompts = [Prompt(points_xy=point[None], labels=label) for point in batch]
            answer = self.segmenter.predict(embedding, prompts, multimask=True)
            scores = answer.predicted_iou_BM.flatten()
            chosen = torch.nonzero(scores > self.min_predicted_iou)[:, 0]
            outputs = answer.predicted_iou_BM.shape[1]
            yield (
                answer.logits_BMHW.flatten(0, 1)[chosen],
                scores[chosen],
                batch[(chosen // outputs).cpu().numpy()],
            )

    def _keep(
        self, embedding: Embedding, logits: torch.Tensor, scores: torch.Tensor, points: np.ndarray
    ) -> Iterator[GeneratedMask]:
        """Upsample, filter by stability and area, encode."""
        height, width = embedding.original_size
        largest = self.config.max_area * height * width
        step = self.segmenter.pieces_at_once(height, width)
        for start in range(0, len(logits), step):
            full = self.segmenter.upsample(embedding, logits[start : start + step])
            stable = stability_score(full, self.config.stability_offset)
            masks = full > 0
            area = masks.sum(dim=(1, 2))
            good = (stable >= self.min_stability) & (area <= largest)
            good &= area >= self.config.min_area
            rows = torch.nonzero(good)[:, 0]
            coded = rle_codec.encode_batch(masks[rows].cpu().numpy())
            for row, rle in zip(rows.tolist(), coded, strict=True):
                x, y = points[start + row]
                yield GeneratedMask(
                    rle=rle,
                    area=int(area[row]),
                    box_xyxy=rle_codec.box_xyxy(rle),
                    predicted_iou=float(scores[start + row]),
                    stability_score=float(stable[row]),
                    point_xy=(float(x), float(y)),
                )


def stability_score(logits_BHW: torch.Tensor, offset: float) -> torch.Tensor:
    """IoU of the masks cut at +offset and -offset, (B,) in [0, 1]; 0 for an empty mask.

    The one lies inside the other, so the IoU is the ratio of their areas (SAM paper, appendix B).
    """
    inner = (logits_BHW > offset).sum(dim=(1, 2))
    outer = (logits_BHW > -offset).sum(dim=(1, 2))
    return inner / outer.clamp(min=1)
