"""Average recall and average precision of automatic masks, by pycocotools.

There are no classes: every mask is an "object". AR@k is recall averaged over IoU .50 to .95, with
the k highest-scored masks of each image (SAM paper, appendix D.3).

I = images, K = limits of masks per image.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from engine.core.rle import RLE, area, box_xyxy
from engine.evaluation.bootstrap import ByImage

MAX_MASKS = (10, 100, 1000)
"""Limits of masks per image for AR@k."""


@dataclass(frozen=True, slots=True)
class ProposalScores:
    """`precision`: ap, ap_50, ap_75. `by_image`: ar_10, ar_100, ar_1000, which are means over true
    masks, and masks_per_image."""

    precision: dict[str, float]
    by_image: ByImage

    def summary(self) -> dict[str, Any]:
        """Return all scores; means have intervals (`ByImage.summary`)."""
        return {**self.precision, **self.by_image.summary()}


def score_proposals(
    truths: Sequence[Sequence[RLE]], found: Sequence[Sequence[tuple[RLE, float]]]
) -> dict[str, float]:
    """Return the scores of `evaluate_proposals` without intervals.

    Returns:
        ar_10, ar_100, ar_1000, ap, ap_50, ap_75, each in [0, 1], and masks_per_image; all are 0 if
        there are no true or no automatic masks.

    Raises:
        ValueError: the lists differ in length.
    """
    scores = evaluate_proposals(truths, found)
    return {**scores.precision, **scores.by_image.means()}


def evaluate_proposals(
    truths: Sequence[Sequence[RLE]], found: Sequence[Sequence[tuple[RLE, float]]]
) -> ProposalScores:
    """Score automatic masks against true masks.

    Args:
        truths: true masks of each image.
        found: automatic masks of each image with their scores; higher is more confident.

    Raises:
        ValueError: the lists differ in length.
    """
    if len(truths) != len(found):
        raise ValueError(f"expected {len(truths)} lists of automatic masks, got {len(found)}")
    precision = dict.fromkeys(("ap", "ap_50", "ap_75"), 0.0)
    recalled_IK = np.zeros((len(truths), len(MAX_MASKS)))
    results = _coco_results(found)
    if results and any(truths):
        scored = _run_cocoeval(truths, results)
        curve = scored.eval["precision"][:, :, 0, 0, -1]  # IoU x recall, largest limit
        precision = {
            "ap": _mean(curve),
            "ap_50": _mean(curve[0]),
            "ap_75": _mean(curve[5]),
        }
        recalled_IK = np.array([_count_matches(image) for image in scored.evalImgs])
    truths_I, found_I = (np.array([len(m) for m in masks], np.float64) for masks in (truths, found))
    ones = np.ones_like(found_I)
    by_image = ByImage(
        (*(f"ar_{limit}" for limit in MAX_MASKS), "masks_per_image"),
        np.column_stack([recalled_IK, found_I]),
        np.column_stack([*[truths_I] * len(MAX_MASKS), ones]),
    )
    return ProposalScores(precision, by_image)


def _run_cocoeval(truths: Sequence[Sequence[RLE]], results: list[dict[str, Any]]) -> Any:
    """Run pycocotools over masks of all sizes; its `evalImgs` has one entry per image."""
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        truth = COCO()
        truth.dataset = _coco_dataset(truths)
        truth.createIndex()
        scored = COCOeval(truth, truth.loadRes(results), "segm")
        scored.params.maxDets = list(MAX_MASKS)
        scored.params.useCats = 0
        scored.params.areaRng, scored.params.areaRngLbl = [[0, 1e10]], ["all"]
        scored.evaluate()
        scored.accumulate()
    return scored


def _count_matches(image: dict[str, Any] | None) -> list[float]:
    """Return how many true masks the k best masks match, as the mean over IoU thresholds, for each
    k of MAX_MASKS. pycocotools stores the match's id, or 0, by threshold and mask."""
    if image is None:
        return [0.0] * len(MAX_MASKS)
    matched = np.asarray(image["dtMatches"]) > 0
    return [float(matched[:, :limit].sum(axis=1).mean()) for limit in MAX_MASKS]


def _mean(values: np.ndarray) -> float:
    known = values[values > -1]
    return float(known.mean()) if known.size else 0.0


def _coco_dataset(truths: Sequence[Sequence[RLE]]) -> dict[str, Any]:
    annotations: list[dict[str, Any]] = []
    for image, rles in enumerate(truths, start=1):
        for rle in rles:
            x0, y0, x1, y1 = box_xyxy(rle)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image,
                    "category_id": 1,
                    "iscrowd": 0,
                    "area": area(rle),
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "segmentation": rle.as_coco(),
                }
            )
    sizes = [rles[0].size if rles else (1, 1) for rles in truths]  # pycocotools requires sizes
    images = [{"id": i, "height": h, "width": w} for i, (h, w) in enumerate(sizes, start=1)]
    categories = [{"id": 1, "name": "object"}]
    return {"info": {}, "images": images, "annotations": annotations, "categories": categories}


def _coco_results(found: Sequence[Sequence[tuple[RLE, float]]]) -> list[dict[str, Any]]:
    return [
        {"image_id": image, "category_id": 1, "segmentation": rle.as_coco(), "score": score}
        for image, masks in enumerate(found, start=1)
        for rle, score in masks
    ]
