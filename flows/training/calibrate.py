"""Thresholds of a freshly trained model, found on held-out images of the dataset."""

from __future__ import annotations

from typing import Any

from engine.evaluation.calibration import calibrate
from engine.sam import Segmenter, Thresholds
from flows.training.scores import held_out_images
from flows.workspace import progress
from flows.workspace.workspace import Workspace

IMAGES = 12
"""Held-out images that thresholds are sought on, at most."""

MIN_IMAGES = 4
MIN_MASKS = 40
"""With fewer images or masks the parent's thresholds are kept."""


def calibrated(
    workspace: Workspace, sam: Any, dataset: str, parent: Thresholds
) -> tuple[Thresholds, dict[str, float], str]:
    """Thresholds for the automatic masks of a model that is to be a new version.

    Wanted is the precision that the workspace's settings state. The truths have to be complete: a
    right mask of an object that nobody annotated counts as wrong, and makes the thresholds stricter
    than they need be.

    Returns:
        The thresholds, what they gave on the images (empty where the parent's are kept), and a
        sentence for the card.
    """
    images = held_out_images(workspace, dataset, limit=IMAGES)
    masks = sum(len(item.truths) for item in images)
    if len(images) < MIN_IMAGES or masks < MIN_MASKS:
        return parent, {}, "Thresholds are the parent's: too few held-out masks to find own ones."
    wanted = workspace.settings.generator.precision
    segmenter = Segmenter(sam, version="new", thresholds=parent)
    with progress.current().track("thresholds", len(images), "image") as advance:
        found, scores = calibrate(segmenter, images, min_precision=wanted, on_image=advance)
    if not scores["recall_50"]:
        return parent, {}, "Thresholds are the parent's: no automatic mask was right."
    told = f"precision {scores['precision_50']:.2f} of {wanted:g} wanted, recall "
    told += f"{scores['recall_50']:.2f}"
    return found, scores, f"Thresholds were found on {len(images)} held-out images ({told})."
