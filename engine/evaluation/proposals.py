"""Automatic masks as proposals: average recall and average precision, by pycocotools.

No classes: every mask is an "object". AR@k is recall averaged over IoU .50 to .95, with the k best
masks of each image (SAM paper, appendix D.3).
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from engine.core.rle import RLE, area, box_xyxy

MAX_MASKS = (10, 100, 1000)


def score_proposals(
    truths: Sequence[Sequence[RLE]], found: Sequence[Sequence[tuple[RLE, float]]]
) -> dict[str, float]:
    """Scores of generated masks against true ones.

    Args:
        truths: per image its true masks.
        found: per image its masks with a score each; higher is more confident.

    Returns:
        ar_10, ar_100, ar_1000, ap, ap_50, ap_75, each in [0, 1], and masks_per_image; zeros where
        there is no truth or nothing was found.

    Raises:
        ValueError: the lists differ in length.
    """
    if len(truths) != len(found):
        raise ValueError(f"{len(truths)} images of truth but {len(found)} of masks")
    per_image = float(np.mean([len(masks) for masks in found])) if found else 0.0
    names = ["ap", "ap_50", "ap_75", *(f"ar_{limit}" for limit in MAX_MASKS)]
    results = _results(found)
    if not results or not any(truths):
        return {**dict.fromkeys(names, 0.0), "masks_per_image": per_image}
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools reports by printing
        truth = COCO()
        truth.dataset = _dataset(truths)
        truth.createIndex()
        scored = COCOeval(truth, truth.loadRes(results), "segm")
        scored.params.maxDets = list(MAX_MASKS)
        scored.params.useCats = 0
        scored.evaluate()
        scored.accumulate()
    precision = scored.eval["precision"][:, :, 0, 0, -1]  # IoU x recall, all areas, most masks
    recall = scored.eval["recall"][:, 0, 0, :]  # IoU x limit
    values = [_mean(precision), _mean(precision[0]), _mean(precision[5])]
    values += [_mean(recall[:, index]) for index in range(len(MAX_MASKS))]
    return {**dict(zip(names, values, strict=True)), "masks_per_image": per_image}


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
