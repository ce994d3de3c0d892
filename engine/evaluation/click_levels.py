"""On how many levels of tiles around a lone click a model is best asked, found on images with known
truth.

Where objects are large in their image, a tile shows a part, and a model finds parts; where they are
small or many, a tile shows what the whole image does not (docs/LOG.md, 2026-11-28).
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from engine.core.clicks import center_point
from engine.core.metrics import batch_iou
from engine.core.records import Prompt
from engine.core.rle import decode
from engine.evaluation.clicks import EvaluationImage
from engine.sam.segmenter import Segmenter
from engine.sam.threads import each_on_threads
from engine.sam.tiles import MOST_LEVELS, PromptRequest, TiledPredictor

TOLERANCE = 0.01
"""A further level must add this mean IoU: it costs the time of a prediction at each click."""


def score_click_levels(segmenter: Segmenter, images: Iterable[EvaluationImage]) -> np.ndarray:
    """Return the IoU after one click of each mask by levels of tiles, float (MOST_LEVELS + 1, N);
    empty masks are skipped."""
    label = np.ones(1, np.int64)

    def score(item: EvaluationImage) -> np.ndarray:
        truths = np.stack([decode(rle) for rle in item.truths])
        truths = truths[truths.any(axis=(1, 2))]
        clicks = [np.array([center_point(truth)], np.float64) for truth in truths]
        requests = [PromptRequest(Prompt(points_xy=click, labels=label)) for click in clicks]
        predictor = TiledPredictor(segmenter, item.image_HWC)
        by_levels = []
        for predictor.click_levels in range(MOST_LEVELS + 1):
            first = [candidates[0] for candidates in predictor.predict(requests, multimask=True)]
            by_levels.append(batch_iou(predictor.masks(first), truths))
        return np.stack(by_levels)

    found = list(each_on_threads(score, images, segmenter.workers))
    return np.concatenate(found, axis=1) if found else np.zeros((MOST_LEVELS + 1, 0))


def best_click_levels(iou_by_levels: np.ndarray) -> int:
    """Return the fewest levels whose mean IoU is not below the best by more than TOLERANCE.

    Args:
        iou_by_levels: of `score_click_levels`, with at least one mask.
    """
    means = iou_by_levels.mean(axis=1)
    return int(np.argmax(means >= means.max() - TOLERANCE))
