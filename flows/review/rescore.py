"""After a promotion, compares a sample of old automatic masks with the new model's predictions.

Each old mask names its prompt point. The new model predicts three masks (whole, part, subpart) for
that point. If none is similar to the old mask, one of the two models is wrong, and the image goes
to review.
"""

from __future__ import annotations

import uuid
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np

from engine.core import rle as rle_codec
from engine.core.records import Mask, Prompt, Stage
from engine.core.rle import iou_matrix
from flows.review.review import draw_masks, queue_review, start_review
from flows.stages.embeddings import make_embeddings
from flows.workspace import progress
from flows.workspace.retry import retry_during_outage
from flows.workspace.run_lock import named_lock, review_lock, tracked_run
from flows.workspace.workspace import Workspace, code_version
from storage.catalog import Dataset, RunKind, RunState
from storage.formats.images import BadImageError


@dataclass(frozen=True, kw_only=True, slots=True)
class RescoreFigures:
    """Figures of comparing old masks with a model version."""

    model: str
    images: int
    masks: int
    """Compared masks."""
    disagreements: int
    """Masks that differ from the model's predictions."""
    queued: int
    """Images that go to review."""

    def to_json(self) -> dict[str, Any]:
        """The stored form."""
        return asdict(self)


def rescore_dataset(workspace: Workspace, dataset: Dataset) -> RescoreFigures | None:
    """Compare once for each model version that becomes current; repeating it changes nothing.

    Waits for another process that compares or samples the dataset's masks: it may have begun
    before the current version was promoted.

    Returns:
        None if there is nothing to compare, or it is already done.
    """
    with named_lock(workspace, review_lock(dataset.id)):
        return _rescore_once(workspace, dataset)


def _rescore_once(workspace: Workspace, dataset: Dataset) -> RescoreFigures | None:
    model = workspace.current_model().version
    name = f"rescore/{dataset.id}/{model}"
    run_id = uuid.uuid5(uuid.NAMESPACE_URL, name).hex
    found = workspace.catalog.runs.all(dataset_id=dataset.id, kind=RunKind.REVIEW, limit=10_000)
    known = {run.id: run for run in found}
    tasks = workspace.queue.counts(run_id=run_id)
    if run_id in known and (known[run_id].state == RunState.FINISHED or any(tasks.values())):
        return None
    sample = old_masks(workspace, dataset, model)
    if not sample:
        return None
    workspace.catalog.runs.start(
        run_id,
        RunKind.REVIEW,
        dataset_id=dataset.id,
        model=model,
        config={"rescore": True, **workspace.settings.production.model_dump(include=SETTINGS)},
        code_version=code_version(),
    )
    with tracked_run(workspace, run_id):
        return _compare(workspace, dataset, model, run_id, sample)


def _compare(
    workspace: Workspace, dataset: Dataset, model: str, run_id: str, sample: dict[int, list[Mask]]
) -> RescoreFigures:
    differing = disagreements(workspace, model, sample)
    context = start_review(workspace, dataset.name, run_id)
    figures = RescoreFigures(
        model=model,
        images=len(sample),
        masks=sum(len(masks) for masks in sample.values()),
        disagreements=sum(len(masks) for masks in differing.values()),
        queued=len(differing),
    )
    if differing:
        make_embeddings(workspace, context, sorted(differing))
        queue_review(workspace, context, differing)
    else:
        workspace.catalog.runs.finish(run_id, {**figures.to_json(), "judged": 0})
    progress.current().say(
        f"{dataset.name}: {figures.disagreements} of {figures.masks} old masks differ from "
        f"the predictions of {model}; {len(differing)} images go to review"
    )
    return figures


SETTINGS = {"rescore_images", "rescore_min_iou"}


def old_masks(workspace: Workspace, dataset: Dataset, model: str) -> dict[int, list[Mask]]:
    """Return a random sample of other models' automatic masks that no review task contains, by
    image, at most MASKS_PER_IMAGE of each. Deterministic for the same model and table."""
    counts = workspace.masks.counts(
        ("image_id", "model"), dataset=dataset.name, stage=Stage.FULLY_AUTOMATIC
    )
    return draw_masks(
        workspace,
        dataset,
        {int(str(image)) for image, made_by in counts if made_by != model},
        workspace.settings.production.rescore_images,
        list(f"{dataset.id}/{model}".encode()),
        lambda mask: mask.model != model and mask.point_xy is not None,
    )


def disagreements(
    workspace: Workspace, model: str, sample: dict[int, list[Mask]]
) -> dict[int, list[Mask]]:
    """Return the sample's masks that differ from all predictions of the model for their point."""
    least = workspace.settings.production.rescore_min_iou
    outage_seconds = workspace.settings.outage_seconds
    differing: dict[int, list[Mask]] = {}
    images = workspace.catalog.images.get_many(list(sample))
    with progress.current().track("compare", len(images), "image") as advance:
        for image in images:
            try:
                pixels = retry_during_outage(outage_seconds, partial(workspace.pixels, image))
            except BadImageError:
                pixels = None  # the next stage that reads the image quarantines it
            if pixels is not None:
                best = best_ious(workspace, model, pixels, sample[image.id])
                bad = [
                    mask for mask, iou in zip(sample[image.id], best, strict=True) if iou < least
                ]
                if bad:
                    differing[image.id] = bad
            advance()
    return differing


def best_ious(
    workspace: Workspace, model: str, image_HWC: np.ndarray, masks: list[Mask]
) -> list[float]:
    """Return each old mask's highest IoU, in [0, 1], with the model's three predictions."""
    segmenter = workspace.segmenter(model)
    embedding = segmenter.embed(image_HWC)
    best = []
    for mask in masks:
        prompt = Prompt(points_xy=np.array([mask.point_xy], np.float32), labels=np.array([1]))
        answer = segmenter.predict(embedding, [prompt], multimask=True)
        answers_MHW = segmenter.masks(embedding, answer.logits_BMHW[0])
        coded = [rle_codec.encode(answer_HW) for answer_HW in answers_MHW]
        best.append(float(iou_matrix([mask.rle], coded).max(initial=0.0)))
    return best
