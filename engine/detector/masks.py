"""Masks of detected boxes: the boxes prompt the segmenter, on enlarged tiles where they are small.

N = masks, H x W = image.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from engine.automatic.candidates import stability_score
from engine.core.records import Mask, Prompt, Provenance
from engine.core.rle import RLE, encode
from engine.detector.detector import Detector
from engine.detector.prefill import ScoredMask, keep_distinct
from engine.sam.segmenter import Embedding, Segmenter
from engine.sam.tiles import PromptRequest, TiledPredictor

BOXES_AT_ONCE = 32

STABILITY_OFFSET = 1.0


@dataclass(frozen=True, slots=True)
class DetectedMask:
    """The mask of a detected box; scores are in [0, 1]."""

    rle: RLE
    box_score: float
    predicted_iou: float
    stability_score: float

    @property
    def confidence(self) -> float:
        """What orders and selects the masks. Predicted IoU orders them better than the box's score
        or both (docs/LOG.md, 2026-11-27)."""
        return self.predicted_iou

    def as_mask(self, provenance: Provenance, image_id: int, number: int) -> Mask:
        """The record of the image's detected mask of this number."""
        return provenance.mask(
            image_id,
            f"detected-{number}",
            self.rle,
            predicted_iou=self.predicted_iou,
            stability_score=self.stability_score,
        )


def detect_masks(
    segmenter: Segmenter, detector: Detector, image_HWC: np.ndarray, embedding: Embedding
) -> list[DetectedMask]:
    """Return the masks of an image's detected boxes without duplicates, most confident first.

    Args:
        segmenter: the version that the detector was trained on.
        detector: the detector.
        image_HWC: RGB uint8.
        embedding: of the whole image.
    """
    viewer = TiledPredictor(segmenter, image_HWC, embedding)
    found = detector.detect(embedding)
    masks: list[DetectedMask] = []
    for start in range(0, len(found.boxes_N4), BOXES_AT_ONCE):
        boxes = found.boxes_N4[start : start + BOXES_AT_ONCE]
        requests = [PromptRequest(Prompt(box_xyxy=box.astype(np.float64))) for box in boxes]
        answers = [candidates[0] for candidates in viewer.predict(requests, multimask=False)]
        drawn = viewer.masks(answers)
        scores = found.scores_N[start : start + BOXES_AT_ONCE]
        for answer, mask, score in zip(answers, drawn, scores, strict=True):
            if mask.any():
                logits = answer.logits_HW.float().cpu().numpy()
                masks.append(
                    DetectedMask(
                        rle=encode(mask),
                        box_score=float(score),
                        predicted_iou=answer.predicted_iou,
                        stability_score=stability_score(logits, STABILITY_OFFSET),
                    )
                )
    kept = keep_distinct([ScoredMask(mask.rle, mask.confidence) for mask in masks])
    return sorted((masks[index] for index in kept), key=lambda mask: -mask.confidence)
