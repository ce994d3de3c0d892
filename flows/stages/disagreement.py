"""How sure the automatic masks of images are: by their scores, and by the detector's boxes."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from engine.core.boxes import iou_matrix
from engine.core.metrics import match
from engine.core.records import Source
from flows.training.detector import load_detector
from flows.workspace import progress
from flows.workspace.embeddings import embedding_of
from storage.formats.images import BadImageError

if TYPE_CHECKING:
    from flows.workspace.workspace import Workspace

MIN_SCORE = 0.3
"""Score from which a detected box counts."""

MIN_IOU = 0.5
"""IoU from which a mask's box and a detected box are of the same object."""


def automatic_scores(workspace: Workspace, dataset: str) -> dict[int, float]:
    """By image: the mean over its automatic masks of the lower of predicted IoU and stability, in
    [0, 1]. Images without automatic masks are left out."""
    total, masks = defaultdict[int, float](float), defaultdict[int, int](int)
    columns = ("image_id", "predicted_iou", "stability_score")
    for batch in workspace.masks.scan(
        dataset=dataset, source=Source.AUTOMATIC, columns=columns, current_only=True
    ):
        ids, iou, stability = (column.to_numpy(zero_copy_only=False) for column in batch.columns)
        lower = np.fmin(iou.astype(float), stability.astype(float))
        for image_id, score in zip(ids.tolist(), lower.tolist(), strict=True):
            if score == score:  # neither is known
                total[image_id] += score
                masks[image_id] += 1
    return {image_id: total[image_id] / masks[image_id] for image_id in total}


def detector_agreement(
    workspace: Workspace, dataset: str, image_ids: Sequence[int]
) -> dict[int, float]:
    """By image: how well the boxes of its automatic masks and the detector's match, as F1, in
    [0, 1]. Empty if no detector reads the current model's embeddings; images that cannot be read
    are left out."""
    model = workspace.current_model().version
    detector = load_detector(workspace, model) if image_ids else None
    if detector is None:
        return {}
    boxes = _automatic_boxes(workspace, dataset, image_ids)
    found: dict[int, float] = {}
    images = workspace.catalog.images.get_many(list(image_ids))
    with progress.current().track("detector", len(images), "image") as advance:
        for image in images:
            with contextlib.suppress(BadImageError):  # the image is quarantined elsewhere
                detected = detector.detect(embedding_of(workspace, model, image))
                confident = detected.boxes_N4[detected.scores_N >= MIN_SCORE]
                found[image.id] = f1_of_boxes(boxes[image.id], confident)
            advance()
    return found


def _automatic_boxes(
    workspace: Workspace, dataset: str, image_ids: Sequence[int]
) -> dict[int, np.ndarray]:
    """By image: the boxes of its automatic masks, (N, 4) XYXY in pixels."""
    by_image = defaultdict[int, list[np.ndarray]](list)
    columns = ("image_id", "bbox_x", "bbox_y", "bbox_w", "bbox_h")
    for batch in workspace.masks.scan(
        dataset=dataset,
        source=Source.AUTOMATIC,
        columns=columns,
        image_ids=image_ids,
        current_only=True,
    ):
        ids, *sides = (column.to_numpy() for column in batch.columns)
        x, y, w, h = sides
        boxes = np.stack([x, y, x + w, y + h], axis=1)
        for image_id, box in zip(ids.tolist(), boxes, strict=True):
            by_image[image_id].append(box)
    return {image_id: np.array(by_image[image_id]).reshape(-1, 4) for image_id in image_ids}


def f1_of_boxes(left_N4: np.ndarray, right_M4: np.ndarray) -> float:
    """Return the F1 of two sets of XYXY boxes, in [0, 1]; 1 if both are empty."""
    count = len(left_N4) + len(right_M4)
    if not count:
        return 1.0
    return 2 * len(match(iou_matrix(left_N4, right_M4), MIN_IOU)) / count
