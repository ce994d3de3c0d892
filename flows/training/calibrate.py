"""Calibrates the thresholds of a model version on held-out images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from engine.evaluation.calibration import calibrate
from engine.evaluation.clicks import EvaluationImage
from engine.sam import Segmenter, Thresholds
from flows.training.scores import held_out_images
from flows.workspace import progress
from flows.workspace.workspace import Workspace

IMAGES = 12
"""Maximum number of held-out images for the calibration."""

POINTS = 16
"""Maximum number of points of the grid along each side."""

MIN_IMAGES = 4
MIN_MASKS = 40
"""With fewer images or masks the version keeps its thresholds; a new one has its parent's."""

CALIBRATED = "automatic_on_held_out"
"""Name of the calibration's scores on a card."""

CALIBRATED_BY_AUDIT = "automatic_by_audit"
"""Name of the scores if the thresholds follow from an audit (docs/quality.md)."""


def calibration_images(workspace: Workspace, datasets: Sequence[str]) -> list[EvaluationImage]:
    """Return held-out images of the datasets with their masks; none if there are too few."""
    images = held_out_images(workspace, datasets, limit=IMAGES)
    masks = sum(len(item.truths) for item in images)
    return images if len(images) >= MIN_IMAGES and masks >= MIN_MASKS else []


def calibrated(
    workspace: Workspace, segmenter: Segmenter, images: Sequence[EvaluationImage]
) -> tuple[Thresholds, dict[str, float], str]:
    """Return thresholds for the automatic masks of a model version.

    The target precision is a setting of the workspace. The truths must be complete: a correct mask
    of an object without annotation counts as wrong and makes the thresholds too strict.

    Args:
        workspace: the workspace.
        segmenter: the model, with the thresholds that it keeps if there is nothing to choose by.
        images: of `calibration_images`.

    Returns:
        The thresholds, their scores on the images (empty if they are kept), and a sentence for the
        card.
    """
    kept = segmenter.thresholds
    if not images:
        return kept, {}, "Thresholds are unchanged: too few held-out masks to calibrate on."
    chosen = workspace.settings.generator
    target = chosen.precision
    with progress.current().track("thresholds", len(images), "image") as advance:
        found, scores = calibrate(
            segmenter,
            images,
            points_per_side=min(POINTS, chosen.points_per_side or POINTS),
            crop_layers=chosen.crop_layers,
            min_precision=target,
            on_image=advance,
        )
    if not scores["recall_50"]:
        return kept, {}, "Thresholds are unchanged: no automatic mask matches a true one."
    figures = f"precision {scores['precision_50']:.2f}, target {target:g}, recall "
    figures += f"{scores['recall_50']:.2f}"
    return found, scores, f"Thresholds are calibrated on {len(images)} held-out images ({figures})."


def calibrate_version(
    workspace: Workspace, version: str, datasets: Sequence[str] | None = None
) -> str:
    """Calibrate a stored version on held-out images of datasets, None for all, unless it is
    calibrated. The thresholds go onto the catalog's card; other processes use them when they load
    the model.

    Returns:
        A sentence about the thresholds.

    Raises:
        NotFoundError: no such version.
    """
    card = workspace.catalog.models.get(version).card
    if {CALIBRATED, CALIBRATED_BY_AUDIT} & set(card.get("scores", {})):
        return str(card.get("note") or "Thresholds were calibrated before.")
    names = datasets or [row.name for row in workspace.catalog.datasets.all()]
    if not (images := calibration_images(workspace, names)):
        return (
            "Thresholds are unchanged: too few held-out masks to calibrate on; promote it again "
            f"when there are {MIN_MASKS} on {MIN_IMAGES} images."
        )
    segmenter = workspace.segmenter(version)
    thresholds, scores, note = calibrated(workspace, segmenter, images)
    if scores:
        entries: dict[str, Any] = {"thresholds": asdict(thresholds), "note": note}
        entries["scores"] = {**card.get("scores", {}), CALIBRATED: scores}
        workspace.catalog.models.describe(version, entries)
        segmenter.thresholds = thresholds  # this process has loaded it already
    return note
