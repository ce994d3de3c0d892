"""Retrain: masks -> training -> held-out scores -> promotion, or the version stays a candidate."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import tempfile
import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from prefect import flow

from engine.sam import ModelCard, Segmenter, save_checkpoint
from engine.training.output_scores import level_scores
from engine.training.trainer import Progress, Trainer
from flows.prefect_api import events
from flows.training.calibrate import calibrate_version
from flows.training.detector import run_detector_training
from flows.training.promotion import MARK, PromotionRecord, RetrainResult, verdict
from flows.training.recipe import train_config
from flows.training.scores import HeldOut, held_out
from flows.training.training_set import MaskSource
from flows.workspace import costs, progress
from flows.workspace.run_lock import exclusive_run, loop_lock, named_lock, tracked_run
from flows.workspace.slowdown import Slowdown
from flows.workspace.workspace import Workspace, code_version, open_workspace
from storage import layout
from storage.catalog import (
    CatalogError,
    Dataset,
    Model,
    Run,
    RunKind,
    StaleStateError,
    check_name,
)

log = logging.getLogger(__name__)


REPORT_SECONDS = 2.0
"""Seconds between two updates of a training's progress in the catalog."""

LEVELLED_IMAGES = 24
"""Training images on which the scores of a trained model's outputs are levelled, at most."""

UNCALIBRATED = "Thresholds are those of its parent; they are calibrated when it is promoted."
"""Note of a new version."""

TRAINING_SHARE = 0.9
"""Share of the training in a retrain's progress; the rest is the comparison."""


@flow(name="retrain")
def retrain(
    workspace: str, dataset: str, version: str, newest_run: str | None = None
) -> RetrainResult:
    """Prefect flow around `run_retrain`."""
    opened = open_workspace(workspace)
    return run_retrain(opened, opened.catalog.datasets.get(dataset), version, newest_run)


def run_retrain(
    workspace: Workspace, dataset: Dataset, version: str, newest_run: str | None
) -> RetrainResult:
    """Train `version` from the current model on the dataset's masks (`TrainingRule`), in a turn
    of the dataset's loop; then, if detectors pre-fill stage 2, a detector `VERSION-detector`.

    Safe to repeat, and to call from several processes: one trains, a stopped training resumes from
    its checkpoint, and an existing version is only compared.

    Args:
        workspace: the workspace.
        dataset: the dataset.
        version: name of the new model version.
        newest_run: the run whose images are drawn more often than older ones.

    Raises:
        NoMasksError: the dataset has no masks to train on.
        BadNameError: the version's name is invalid.
    """
    with named_lock(workspace, loop_lock(dataset.id)):
        result = _train_and_compare(workspace, dataset, version, newest_run)
        if workspace.settings.prefill.source in ("detector", "union"):
            run_detector_training(workspace, dataset, f"{version}-detector")
        return result


def retrain_run_id(dataset_id: int, version: str) -> str:
    """Return the id of the run that trains the version; it is the same for every start."""
    return uuid.uuid5(uuid.NAMESPACE_URL, f"retrain/{dataset_id}/{version}").hex


def _train_and_compare(
    workspace: Workspace, dataset: Dataset, version: str, newest_run: str | None
) -> RetrainResult:
    run_id = retrain_run_id(dataset.id, version)
    is_known = version in {model.version for model in workspace.catalog.models.all()}
    if not is_known:
        check_name("model", version)
    run = workspace.catalog.runs.start(
        run_id,
        RunKind.RETRAIN,
        dataset_id=dataset.id,
        model=workspace.current_model().version,
        config={"settings": workspace.settings.shaping()},
        code_version=code_version(),
    )
    workspace = workspace.as_started(run)
    with tracked_run(workspace, run_id):
        if not is_known:
            parent = workspace.catalog.models.get(str(run.model))
            with exclusive_run(workspace, run_id) as is_to_train:
                if is_to_train:
                    log.info("training begins", extra={"run_id": run_id, "model": version})
                    with costs.spending(workspace, run_id):
                        _train(workspace, dataset, version, parent, run, newest_run)
        with costs.spending(workspace, run_id):
            return _compare(workspace, dataset, run_id, workspace.catalog.models.get(version))


def _train(
    workspace: Workspace,
    dataset: Dataset,
    version: str,
    parent: Model,
    run: Run,
    newest_run: str | None,
) -> None:
    """Train, write the checkpoint, add it as a candidate."""
    sam, started = workspace.load_model(parent.version)
    folder = workspace.cache / "training"
    folder.mkdir(exist_ok=True)
    resume, steps, drawn = (folder / f"{run.id}.{end}" for end in ("pt", "csv", "version"))
    table_version = workspace.masks.version()
    if resume.exists() and drawn.exists():  # resume with the masks of the start
        table_version = int(drawn.read_text())
    source = MaskSource(workspace, dataset, table_version, newest_run)
    drawn.write_text(str(table_version))
    config = replace(train_config(workspace, source.data), image_size=sam.image_encoder.img_size)
    trainer = Trainer(sam, config, source.draw, source.checked())
    with progress.current().track(f"train {version}", config.steps, "step") as advance:
        report = _progress_reporter(workspace, run.id, config.steps, advance)
        trainer.run(on_step=report, checkpoint=resume, every_seconds=30, log=steps)
    images = min(LEVELLED_IMAGES, len(source.masks))
    with progress.current().track("scores of the outputs", images, "image") as advance:
        segmenter, examples = Segmenter.from_card(sam, started), source.some(images)
        shift = level_scores(segmenter, examples, on_image=advance)
    if shift:
        log.info("scores of the outputs are shifted by %s", np.round(shift, 3).tolist())
    losses = steps.read_bytes()  # timings in it differ between attempts
    name = hashlib.sha256(losses).hexdigest()[:16]
    workspace.objects.put(layout.TRAINING_LOG.key(version=version, digest=name), losses)
    card = ModelCard(
        version=version,
        architecture=parent.architecture,
        parent=parent.version,
        table_version=table_version,
        data=source.counts(),
        config=replace(config, trained_share=trainer.share).as_dict(),
        thresholds=started.thresholds,
        click_levels=started.click_levels,
        seconds=round(trainer.seconds, 1),
        gpu_seconds=round(trainer.seconds, 1) if workspace.device() == "cuda" else 0.0,
        code_version=code_version(),
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        note=UNCALIBRATED,
    )
    with tempfile.TemporaryDirectory(prefix="dataengine-") as fresh:
        path = Path(fresh) / "model.safetensors"
        save_checkpoint(sam, card, path)
        workspace.add_model(path, card.as_dict())
    resume.unlink(missing_ok=True)
    steps.unlink(missing_ok=True)
    drawn.unlink(missing_ok=True)


def _progress_reporter(
    workspace: Workspace, run_id: str, steps: int, advance: progress.Advance
) -> Callable[[Progress], None]:
    last, reported_at = 0, time.monotonic()
    slowdown = Slowdown()

    def report(state: Progress) -> None:
        nonlocal last, reported_at
        if time.monotonic() - reported_at > REPORT_SECONDS:
            reported_at = time.monotonic()
            with contextlib.suppress(CatalogError):  # the next update follows soon
                workspace.catalog.runs.set_progress(run_id, TRAINING_SHARE * state.step / steps)
        notes = (f"loss {state.loss:.3f}, IoU {state.iou:.2f}", slowdown.note())
        advance(state.step - last, "; ".join(filter(None, notes)))
        last = state.step

    return report


def _compare(
    workspace: Workspace, dataset: Dataset, run_id: str, candidate: Model
) -> RetrainResult:
    """Promote the candidate if it is better on held-out images than the current model, with
    thresholds calibrated on them; write its scores and the reason onto its card."""
    current = workspace.current_model()
    settings = workspace.settings.train
    before, after = held_out(workspace, [current.version, candidate.version], dataset.name)
    if current.version == candidate.version:
        reason, promoted = "promoted before", True
    else:
        promoted, reason = verdict(
            before, after, min_gain=settings.min_gain, confidence=settings.promotion_confidence
        )
        record = PromotionRecord.from_card(candidate.card)
        if promoted:
            # of a version that was calibrated before a stop, the note has the comparison too
            note = calibrate_version(workspace, candidate.version, [dataset.name])
            record = replace(record, note=note.rpartition(MARK)[2])
        record = replace(
            record,
            against=current.version,
            promoted=promoted,
            reason=reason,
        )
        _describe(workspace, candidate, after, record)
        if promoted:
            try:
                workspace.catalog.models.promote(
                    candidate.version, expected_current=current.version
                )
            except StaleStateError:
                promoted, reason = False, "another version became current meanwhile"
                record = replace(record, promoted=promoted, reason=reason)
                _describe(workspace, candidate, after, record)
            else:
                events.model_promoted(workspace, candidate.version)
    result = RetrainResult(
        version=candidate.version,
        model=workspace.current_model().version,
        promoted=promoted,
        reason=reason,
        before=before.scores,
        after=after.scores,
    )
    workspace.catalog.runs.finish(run_id, result.to_json())
    log.info("retrained: %s", reason, extra={"run_id": run_id, "model": candidate.version})
    return result


def _describe(
    workspace: Workspace, candidate: Model, after: HeldOut, record: PromotionRecord
) -> None:
    """Write scores and record onto the card, before the promotion: a current version has both."""
    card = workspace.catalog.models.get(candidate.version).card
    scores = {**card.get("scores", {}), "held_out": after.scores}
    workspace.catalog.models.describe(candidate.version, {"scores": scores, **record.to_card()})
