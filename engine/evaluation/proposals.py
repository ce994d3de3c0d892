"""Automatic masks as proposals: average recall and average precision, by pycocotools.

No classes: every mask is an "object". AR@k is recall averaged over IoU .50 to .95, with the k best
masks of each image (SAM paper, appendix D.3).
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


@dataclass(frozen=True, slots=True)
class ProposalScores:
    """`precision`: ap, ap_50 and ap_75. `by_image`: recalls ar_10, ar_100 and ar_1000, which are
    means over true masks, and masks_per_image."""

    precision: dict[str, float]
    by_image: ByImage

    def summary(self) -> dict[str, Any]:
        """All of them; means with their intervals (`ByImage.summary`)."""
        return {**self.precision, **self.by_image.summary()}


def score_proposals(
    truths: Sequence[Sequence[RLE]], found: Sequence[Sequence[tuple[RLE, float]]]
) -> dict[str, float]:
    """Scores of generated masks against true ones, without intervals: `evaluate_proposals`.

    Returns:
        ar_10, ar_100, ar_1000, ap, ap_50, ap_75, each in [0, 1], and masks_per_image; zeros where
        there is no truth or nothing was found.
    """
    scores = evaluate_proposals(truths, found)
    return {**scores.precision, **scores.by_image.means()}


def evaluate_proposals(
    truths: Sequence[Sequence[RLE]], found: Sequence[Sequence[tuple[RLE, float]]]
) -> ProposalScores:
    """Score generated masks against true ones.

    Args:
        truths: per image its true masks.
        found: per image its masks with a score each; higher is more confident.

    Raises:
        ValueError: the lists differ in length.
    """
    if len(truths) != len(found):
        raise ValueError(f"{len(truths)} images of truth but {len(found)} of masks")
    precision = dict.fromkeys(("ap", "ap_50", "ap_75"), 0.0)
    recalled_IK = np.zeros((len(truths), len(MAX_MASKS)))
    results = _results(found)
    if results and any(truths):
        scored = _run(truths, results)
        curve = scored.eval["precision"][:, :, 0, 0, -1]  # IoU x recall, most masks
        precision = {
            "ap": _mean(curve),
            "ap_50": _mean(curve[0]),
            "ap_75": _mean(curve[5]),
        }
        recalled_IK = np.array([_recalled(image) for image in scored.evalImgs])
    truths_I, found_I = (np.array([len(m) for m in masks], np.float64) for masks in (truths, found))
    ones = np.ones_like(found_I)
    by_image = ByImage(
        (*(f"ar_{limit}" for limit in MAX_MASKS), "masks_per_image"),
        np.column_stack([recalled_IK, found_I]),
        np.column_stack([*[truths_I] * len(MAX_MASKS), ones]),
    )
    return ProposalScores(precision, by_image)


def _run(truths: Sequence[Sequence[RLE]], results: list[dict[str, Any]]) -> Any:
    """pycocotools' evaluation over masks of all sizes; one entry of `evalImgs` an image."""
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools reports by printing
        truth = COCO()
        truth.dataset = _dataset(truths)
        truth.createIndex()
        scored = COCOeval(truth, truth.loadRes(results), "segm")
        scored.params.maxDets = list(MAX_MASKS)
        scored.params.useCats = 0
        scored.params.areaRng, scored.params.areaRngLbl = [[0, 1e10]], ["all"]
        scored.evaluate()
        scored.accumulate()
    return scored


def _recalled(image: dict[str, Any] | None) -> list[float]:
    """How many true masks of an image its k best masks match, for each k of MAX_MASKS: the mean
    over limits of IoU. pycocotools has the number of the match, or 0, in limit x mask; no entry
    where an image has neither truth nor masks."""
    if image is None:
        return [0.0] * len(MAX_MASKS)
    matched = np.asarray(image["dtMatches"]) > 0
    return [float(matched[:, :limit].sum(axis=1).mean()) for limit in MAX_MASKS]


def _mean(values: np.ndarray) -> float:
    known = values[values > -1]
    return float(known.mean()) if known.size else 0.0


def _dataset(truths: Sequence[Sequence[RLE]]) -> dict[str, Any]:
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
    sizes = [rles[0].size if rles else (1, 1) for rles in truths]  # pycocotools wants them told
    images = [{"id": i, "height": h, "width": w} for i, (h, w) in enumerate(sizes, start=1)]
    categories = [{"id": 1, "name": "object"}]
    return {"info": {}, "images": images, "annotations": annotations, "categories": categories}


def _results(found: Sequence[Sequence[tuple[RLE, float]]]) -> list[dict[str, Any]]:
    return [
        {"image_id": image, "category_id": 1, "segmentation": rle.as_coco(), "score": score}
        for image, masks in enumerate(found, start=1)
        for rle, score in masks
    ]
