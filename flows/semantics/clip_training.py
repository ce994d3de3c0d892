"""Trains a CLIP on a dataset's labelled masks, stores it, and brings it into use unless it is
worse."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from prefect import flow

from engine.semantics.adapter import AdapterCard
from engine.semantics.clip import ClipEncoder
from engine.semantics.suggesting import Labelled
from engine.semantics.texts import text_vectors
from flows.encoders.trained import UsedClip, clip_of, used_clip
from flows.semantics.clip_lessons import AdapterLesson, Job, Lesson, TowersLesson, not_learned
from flows.semantics.known_labels import known_labels
from flows.semantics.learning import Answers, is_significantly_worse
from flows.semantics.vectors import make_vectors
from flows.workspace.run_lock import named_lock, tracked_run
from flows.workspace.workspace import code_version, open_workspace
from storage.catalog import LearnedKind, RunKind
from storage.catalog.sessions import new_id
from storage.catalog.suggesters import StoredSuggester


@flow(name="train-clip")
def train_clip(
    workspace: str,
    dataset: str,
    encoder: str,
    towers: bool = False,
    steps: int | None = None,
    batch: int | None = None,
    learning_rate: float | None = None,
) -> dict[str, Any]:
    """Prefect flow: make missing vectors, and train a CLIP on the masks that people labelled, with
    CLIP's symmetric contrastive objective, unless nothing is new.

    Args:
        encoder: `clip:NAME`.
        towers: train its towers, which takes a GPU or a small CLIP; else an adapter of its vectors.
        steps, batch, learning_rate: None: as in TowersConfig or AdapterConfig.

    Raises:
        EncoderError: the encoder reads no texts.
        ContrastiveError: too few labels, or the loss is not finite.
    """
    opened = open_workspace(workspace)
    row = opened.catalog.datasets.get(dataset)
    base = clip_of(opened, encoder)
    given = {"steps": steps, "batch": batch, "learning_rate": learning_rate}
    chosen = {name: value for name, value in given.items() if value is not None}
    job = Job(opened, row, encoder, towers, chosen)
    make_vectors(workspace, dataset, encoder)
    with named_lock(opened, f"train-clip/{row.id}"):
        card = job.card(base, known_labels(opened, row).last)
        newest = next(iter(opened.catalog.suggesters.all(row.id, LearnedKind.CLIP)), None)
        if newest is not None and _same(newest.card, card.as_dict()):
            return _result(used_clip(opened, row, encoder).stored or newest, "no new labels")
        before = used_clip(opened, row, encoder)
        run = opened.catalog.runs.start(
            new_id(),
            RunKind.TRAIN_CLIP,
            dataset_id=row.id,
            model=base.version,
            config={"name": encoder, "method": card.method, **card.config},
            code_version=code_version(),
        )
        with tracked_run(opened, run.id):
            card = replace(card, parent=before.version or None)
            stored, reason = _train(job, base, before, card)
            opened.catalog.runs.finish(run.id, {"trained_clip": stored.version, "reason": reason})
    return _result(opened.catalog.suggesters.get(stored.version), reason)


def _same(old: dict[str, Any], new: dict[str, Any]) -> bool:
    names = ("encoder", "method", "config", "texts", "last_label")
    return all(old.get(name) == new[name] for name in names)


def _result(stored: StoredSuggester, reason: str) -> dict[str, Any]:
    """Return what a training came to."""
    card = stored.card
    names = ("name", "method", "dataset", "data", "scores", "seconds")
    is_used = stored.promoted_at is not None and stored.withdrawn_at is None
    return {
        "version": stored.version,
        "in_use": is_used,
        "reason": reason,
        **{name: card[name] for name in names},
    }


def _train(
    job: Job, base: ClipEncoder, before: UsedClip, card: AdapterCard
) -> tuple[StoredSuggester, str]:
    """Train and store a version, and promote it unless it is significantly worse than the CLIP in
    use on masks that neither has learned from."""
    root, suggesters = str(job.workspace.settings.root), job.workspace.catalog.suggesters
    lesson: Lesson = TowersLesson(job) if job.towers else AdapterLesson(job, base)
    after, card = lesson.train(card)
    if before.name != job.encoder:
        make_vectors(root, job.dataset.name, before.name)
    is_used, reason, scores = _compared(job, before, after, lesson)
    card = replace(card, scores=scores)
    stored = suggesters.add(
        job.dataset.id,
        card.version,
        encoder=card.encoder,
        key=lesson.store(card),
        card=card.as_dict(),
        kind=LearnedKind.CLIP,
    )
    if is_used:
        suggesters.promote(stored.version)
        if job.towers:
            make_vectors(root, job.dataset.name, after.name)
    return stored, reason


def _compared(
    job: Job, before: UsedClip, after: UsedClip, lesson: Lesson
) -> tuple[bool, str, dict[str, Any]]:
    """Return whether the trained CLIP is to be used, why, and its scores: the share of masks that
    texts name right, of held-out images, or where these have no labels, of those kept back."""
    for held_out in (True, False):
        asked = not_learned(job, before.encoder, held_out=held_out)
        if len(asked.category_N):
            break
    else:
        return False, "no labelled mask is left to compare on: label masks of more images", {}
    old = _answers(job, before, asked)
    new = _answers(job, after, lesson.asked(held_out=held_out))
    is_worse, reason = is_significantly_worse(old, new, before.version or job.encoder)
    scores = {
        "masks": len(old.right_N),
        "images": len(np.unique(old.image_N)),
        "held_out": held_out,
        "accuracy_before": float(old.right_N.mean()),
        "accuracy": float(new.right_N.mean()),
    }
    return not is_worse, reason, scores


def _answers(job: Job, clip: UsedClip, asked: Labelled) -> Answers:
    """Return which masks the texts name right."""
    texts_KD = text_vectors(clip.texts, job.names, job.descriptions)
    vectors_ND = clip.mask_vectors(asked.vectors_ND).astype(np.float32)
    named = np.array(sorted(job.names))[(vectors_ND @ texts_KD.T).argmax(axis=1)]
    return Answers(named == asked.category_N, asked.image_N)
