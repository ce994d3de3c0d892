"""Trains stage 2's detector on the current model's embeddings and all masks of people, and promotes
it if it is better on held-out images than the current one."""

from __future__ import annotations

import contextlib
import logging
import tempfile
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.core.errors import DataEngineError
from engine.evaluation.bootstrap import ByImage, paired_gain
from engine.evaluation.clicks import EvaluationImage
from engine.evaluation.proposals import evaluate_proposals
from engine.sam import Segmenter
from flows.training.scores import held_out_images
from flows.training.training_set import MaskSource
from flows.workspace import costs, progress
from flows.workspace.embeddings import embedding_of
from flows.workspace.run_lock import loop_lock, named_lock, tracked_run
from flows.workspace.workspace import Workspace, code_version
from storage.catalog import Dataset, Model, ModelKind, RunKind, check_name
from storage.formats.images import BadImageError

if TYPE_CHECKING:
    from engine.detector import Detector, DetectorCard, Example
    from engine.detector.prefill import ScoredMask

log = logging.getLogger(__name__)

HELD_OUT_IMAGES = 24
"""Held-out images, at most, on which a detector is scored and its confidence is found."""

STEPS_PER_IMAGE = 5
LEAST_STEPS, MOST_STEPS = 200, 1000
"""Optimiser steps by the number of training images, within these limits."""

GOOD_IOU = 0.75
"""A pre-filled mask with this IoU with a true one is right."""

COMPARED = "ar_100"


class NameTakenError(DataEngineError):
    """The name belongs to a model of another kind: choose another one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DetectorResult:
    """Result of a detector's training."""

    version: str
    current: str | None
    """The current detector after it."""
    promoted: bool
    reason: str
    scores: Mapping[str, Any]
    """`ar_100` and `ap` of its masks on held-out images, `precision` and `recall` of those that
    would pre-fill an image, and `confident`, their least confidence."""

    def to_json(self) -> dict[str, Any]:
        """The stored form."""
        return asdict(self)


def run_detector_training(workspace: Workspace, dataset: Dataset, version: str) -> DetectorResult:
    """Train detector `version` on the current model's embeddings of the dataset's images, with the
    masks of a retrain (`TrainingRule`), in a turn of the dataset's loop.

    Safe to repeat: an existing version is only compared.

    Args:
        workspace: the workspace.
        dataset: the dataset.
        version: name of the new detector version.

    Raises:
        NoMasksError: the dataset has no masks to train on.
        NameTakenError: the version's name belongs to a model of another kind.
        BadNameError: the version's name is invalid.
    """
    with named_lock(workspace, loop_lock(dataset.id)):
        segmenter = workspace.segmenter()
        run_id = uuid.uuid5(uuid.NAMESPACE_URL, f"detector/{dataset.id}/{version}").hex
        run = workspace.catalog.runs.start(
            run_id,
            RunKind.TRAIN_DETECTOR,
            dataset_id=dataset.id,
            model=segmenter.version,
            config={"settings": workspace.settings.shaping(), "detector": version},
            code_version=code_version(),
        )
        with tracked_run(workspace, run.id), costs.spending(workspace, run.id):
            known = {model.version: model for model in workspace.catalog.models.all(None)}
            if version not in known:
                check_name("model", version)
                _train(workspace, dataset, version, segmenter)
            elif known[version].kind != ModelKind.DETECTOR:
                raise NameTakenError(f"{version!r} is no detector: choose another name")
            result = _compare(workspace, version)
            workspace.catalog.runs.finish(run.id, result.to_json())
    log.info("detector trained: %s", result.reason, extra={"run_id": run_id, "model": version})
    return result


def _train(workspace: Workspace, dataset: Dataset, version: str, segmenter: Segmenter) -> None:
    """Train, score, write the file, add it as a candidate."""
    from engine.detector import Detector, DetectorCard, DetectorConfig, train_detector

    began = time.monotonic()
    table_version = workspace.masks.version()
    source = MaskSource(workspace, dataset, table_version, None)
    examples = _examples(workspace, segmenter, source)
    steps = min(max(STEPS_PER_IMAGE * len(source.masks), LEAST_STEPS), MOST_STEPS)
    config = DetectorConfig(steps=steps)
    device = workspace.device()
    with progress.current().track(f"train {version}", steps, "step") as advance:
        network = train_detector(
            examples,
            config,
            device=device,
            on_step=lambda _, loss: advance(1, f"loss {loss:.3f}"),
        )
    current = workspace.catalog.models.current(ModelKind.DETECTOR)
    card = DetectorCard(
        version=version,
        segmenter=segmenter.version,
        embedding_channels=examples[0].embedding_Chw.shape[0],
        parent=current.version if current else None,
        table_version=table_version,
        data={"images": len(source.masks), "masks": source.data.masks},
        config=config.as_dict(),
        code_version=code_version(),
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    detector = Detector(network, card, device)
    images = held_out_images(workspace, [dataset.name], limit=HELD_OUT_IMAGES)
    detector.card = _scored(workspace, segmenter, detector, images, began)
    with tempfile.TemporaryDirectory(prefix="dataengine-") as fresh:
        path = Path(fresh) / "detector.safetensors"
        detector.save(path)
        workspace.add_model(path, detector.card.as_dict(), ModelKind.DETECTOR)


def _examples(workspace: Workspace, segmenter: Segmenter, source: MaskSource) -> list[Example]:
    from engine.detector.examples import example_of

    found: list[Example] = []
    rows = workspace.catalog.images.get_many(sorted(source.masks))
    with progress.current().track("embeddings", len(rows), "image") as advance:
        for row in rows:
            with contextlib.suppress(BadImageError):  # the image is quarantined elsewhere
                embedding = embedding_of(workspace, segmenter.version, row)
                found.append(example_of(embedding, source.masks[row.id]))
            advance()
    return found


def _scored(
    workspace: Workspace,
    segmenter: Segmenter,
    detector: Detector,
    images: Sequence[EvaluationImage],
    began: float,
) -> DetectorCard:
    """Return the detector's card with its scores, its confidence and its time."""
    from engine.detector.masks import detect_masks
    from engine.detector.prefill import ScoredMask, least_confidence, precision_of

    precision = workspace.settings.prefill.precision
    truths = [item.truths for item in images]
    found: list[list[ScoredMask]] = []
    with progress.current().track("held-out images", len(images), "image") as advance:
        for item in images:
            embedding = segmenter.embed(item.image_HWC)
            masks = detect_masks(segmenter, detector, item.image_HWC, embedding)
            found.append([ScoredMask(mask.rle, mask.confidence) for mask in masks])
            advance()
    least = least_confidence(found, truths, precision, GOOD_IOU)
    kept = [[mask for mask in masks if mask.confidence >= least] for masks in found]
    scored = evaluate_proposals(
        truths, [[(mask.rle, mask.confidence) for mask in masks] for masks in found]
    )
    reached, recall = precision_of(kept, truths, GOOD_IOU)
    scores = {
        **{name: scored.summary()[name] for name in (COMPARED, "ap")},
        "precision": reached,
        "recall": recall,
        "images": len(images),
        "by_image": scored.by_image.as_dict(),
    }
    note = (
        f"At confidence {least:.2f} its masks have precision {reached:.2f} and recall {recall:.2f}."
        if least <= 1
        else f"At no confidence its masks have precision {precision:g}: it pre-fills nothing."
    )
    seconds = round(time.monotonic() - began, 1)
    return replace(detector.card, confident=least, scores=scores, seconds=seconds, note=note)


def _compare(workspace: Workspace, version: str) -> DetectorResult:
    """Promote the candidate if it is better than the current detector of the same model."""
    models = workspace.catalog.models
    candidate, current = models.get(version), models.current(ModelKind.DETECTOR)
    promoted, reason = _verdict(workspace, candidate, current)
    if promoted:
        models.promote(version, expected_current=current.version if current else None)
    models.describe(version, {"reason": reason})
    now = models.current(ModelKind.DETECTOR)
    scores = {name: value for name, value in candidate.card["scores"].items() if name != "by_image"}
    return DetectorResult(
        version=version,
        current=now.version if now else None,
        promoted=promoted,
        reason=reason,
        scores={**scores, "confident": candidate.card["confident"]},
    )


def _verdict(workspace: Workspace, candidate: Model, current: Model | None) -> tuple[bool, str]:
    scores = candidate.card["scores"]
    if current is not None and current.version == candidate.version:
        return True, "promoted before"
    if not scores["images"]:
        return False, "no held-out image with known masks to score it on"
    text = f"AR@100 {scores[COMPARED]:.3f}"
    if current is None or current.card["segmenter"] != candidate.card["segmenter"]:
        return True, f"better: {text}; no detector reads the embeddings of this model"
    before, after = (ByImage.from_dict(m.card["scores"]["by_image"]) for m in (current, candidate))
    try:
        gain = paired_gain(before, after, [COMPARED], workspace.settings.train.promotion_confidence)
    except ValueError:
        return False, f"{text}, but {current.version} was scored on other images"
    text += f" against {current.card['scores'][COMPARED]:.3f}, gain {gain.mean:+.3f}"
    if gain.low is not None and gain.low > 0:
        return True, f"better: {text}"
    return False, f"not significantly better: {text}"


def load_detector(workspace: Workspace, segmenter: str) -> Detector | None:
    """Return the current detector if it reads this model version's embeddings."""
    from engine.detector import Detector

    current = workspace.catalog.models.current(ModelKind.DETECTOR)
    if current is None or current.card["segmenter"] != segmenter:
        return None
    return Detector.load(workspace.checkpoint(current.version), workspace.device())
