"""Calibrates the thresholds of a newly trained model on held-out images of the dataset."""

from __future__ import annotations

from typing import Any

from engine.evaluation.calibration import calibrate
from engine.sam import Segmenter, Thresholds
from flows.training.scores import held_out_images
from flows.workspace import progress
from flows.workspace.workspace import Workspace

IMAGES = 12
"""Maximum number of held-out images for the calibration."""

MIN_IMAGES = 4
MIN_MASKS = 40
"""With fewer images or masks the version keeps its parent's thresholds."""


def calibrated(
    workspace: Workspace, sam: Any, dataset: str, parent: Thresholds
) -> tuple[Thresholds, dict[str, float], str]:
    """Return thresholds for the automatic masks of a new model version.

    The target precision is a setting of the workspace. The truths must be complete: a correct mask
    of an object without annotation counts as wrong and makes the thresholds too strict.

    Returns:
        The thresholds, their scores on the images (empty if the parent's are kept), and a sentence
        for the card.
    """
    images = held_out_images(workspace, dataset, limit=IMAGES)
    masks = sum(len(item.truths) for item in images)
    if len(images) < MIN_IMAGES or masks < MIN_MASKS:
        return parent, {}, "Thresholds are the parent's: too few held-out masks to calibrate on."
    target = workspace.settings.generator.precision
    segmenter = Segmenter(sam, version="new", thresholds=parent)
    with progress.current().track("thresholds", len(images), "image") as advance:
        found, scores = calibrate(segmenter, images, min_precision=target, on_image=advance)
    if not scores["recall_50"]:
        return parent, {}, "Thresholds are the parent's: no automatic mask matches a true one."
    figures = f"precision {scores['precision_50']:.2f}, target {target:g}, recall "
    figures += f"{scores['recall_50']:.2f}"
    return found, scores, f"Thresholds are calibrated on {len(images)} held-out images ({figures})."
