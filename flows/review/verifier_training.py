"""Trains a verifier on a dataset's verdicts; promotes it if it is better than the current one."""

from __future__ import annotations

import tempfile
import time
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from prefect import flow

from engine.core.errors import DataEngineError
from engine.verifier.learning import (
    Judged,
    TooFewVerdictsError,
    by_rate_alone,
    by_scores_alone,
    cross_fitted,
    gain,
    learn,
    quality,
)
from engine.verifier.model import LearnedVerifier, VerifierCard, load_verifier, save_verifier
from flows.review.judged_masks import judged_by_people
from flows.workspace import costs
from flows.workspace.run_lock import named_lock, tracked_run
from flows.workspace.workspace import Workspace, code_version, open_workspace
from storage.catalog import Dataset, Model, ModelKind, RunKind, new_id

LOCK = "verifier"
"""Lock on training and promoting verifiers, of which a workspace has one current."""

CONFIDENCE = 0.95
"""Of the interval of the gain, whose lower end must be above MIN_GAIN."""

MIN_GAIN = 0.001
"""Nats of log loss. Two trainings on the same verdicts differ by rounding, which can be a gain in
every image."""

SCORES_ALONE = "predicted IoU x stability alone"


@dataclass(frozen=True, kw_only=True, slots=True)
class VerifierResult:
    """Result of a training."""

    version: str
    promoted: bool
    reason: str
    verdicts: int
    images: int
    scores: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """The stored form."""
        return asdict(self)


@flow(name="train-verifier")
def train_verifier(workspace: str, dataset: str, run_id: str | None = None) -> dict[str, Any]:
    """Prefect flow around `run_training`."""
    opened = open_workspace(workspace)
    return run_training(opened, opened.catalog.datasets.get(dataset), run_id or new_id()).to_json()


def run_training(workspace: Workspace, dataset: Dataset, run_id: str) -> VerifierResult:
    """Train a version on the verdicts by people on the dataset's automatic masks.

    Raises:
        TooFewVerdictsError: they are too few, or all alike; the message says what to do.
    """
    check_verdicts(workspace, dataset)
    segmenter = workspace.current_model().version
    workspace.catalog.runs.start(
        run_id,
        RunKind.TRAIN_VERIFIER,
        dataset_id=dataset.id,
        model=segmenter,
        code_version=code_version(),
    )
    with named_lock(workspace, LOCK), tracked_run(workspace, run_id):
        with costs.spending(workspace, run_id):
            result = _train(workspace, dataset, segmenter)
        workspace.catalog.runs.finish(run_id, result.to_json())
    return result


def check_verdicts(workspace: Workspace, dataset: Dataset) -> None:
    """Check that people have judged masks of the dataset.

    Raises:
        TooFewVerdictsError: they have not.
    """
    if not workspace.catalog.verdicts.of_people(dataset.id):
        raise TooFewVerdictsError(
            f"dataset {dataset.name!r} has no verdicts by people; have a sample judged with "
            f"`dataengine review --dataset {dataset.name}`"
        )


def current_verifier(workspace: Workspace) -> LearnedVerifier | None:
    """Return the current verifier; None if there is none.

    Raises:
        VerifierFileError: its file is of other code.
    """
    model = workspace.catalog.models.current(ModelKind.VERIFIER)
    return None if model is None else load_verifier(workspace.checkpoint(model.version))


def _train(workspace: Workspace, dataset: Dataset, segmenter: str) -> VerifierResult:
    current = workspace.catalog.models.current(ModelKind.VERIFIER)
    table_version = workspace.masks.version()
    judged = judged_by_people(workspace, dataset, segmenter)
    if not len(judged):
        raise TooFewVerdictsError(
            f"people have judged no automatic masks of dataset {dataset.name!r}; make some with "
            f"`dataengine generate`, and have them judged with `dataengine review`"
        )
    began = time.monotonic()
    made = datetime.now(UTC)
    card = VerifierCard(
        version=f"verifier-{dataset.name}-{made:%Y%m%dT%H%M%S%f}",
        segmenter=segmenter,
        parent=None if current is None else current.version,
        table_version=table_version,
        data={"dataset": dataset.name, **_counts(judged)},
        code_version=code_version(),
        created_at=made.isoformat(timespec="seconds"),
    )
    verifier = learn(judged, card)
    found = cross_fitted(verifier, judged)
    scores = {
        "cross_validated": quality(found, judged.accepted_N),
        SCORES_ALONE: quality(by_scores_alone(judged), judged.accepted_N),
        "constant rate": quality(by_rate_alone(judged), judged.accepted_N),
    }
    against, before = _opponent(workspace, dataset, judged, segmenter)
    scores[against] = quality(before, judged.accepted_N)
    promoted, reason = verdict(judged, before, found, against)
    card = replace(
        card,
        scores=scores,
        promotion={"against": against, "promoted": promoted, "reason": reason},
        seconds=round(time.monotonic() - began, 2),
        note=f"Against {against}: {reason}.",
    )
    _store(workspace, LearnedVerifier(verifier.heads, card))
    if promoted:
        _promote(workspace, card.version, current)
    return VerifierResult(
        version=card.version,
        promoted=promoted,
        reason=reason,
        verdicts=len(judged),
        images=len(np.unique(judged.image_N)),
        scores=scores,
    )


def _counts(judged: Judged) -> dict[str, int]:
    accepted = int(judged.accepted_N.sum())
    return {
        "verdicts": len(judged),
        "accepted": accepted,
        "rejected_or_fixed": len(judged) - accepted,
        "held_out": int(judged.held_out_N.sum()),
        "images": len(np.unique(judged.image_N)),
    }


def _opponent(
    workspace: Workspace, dataset: Dataset, judged: Judged, segmenter: str
) -> tuple[str, np.ndarray]:
    """Return what a candidate has to beat, and its probabilities: the current verifier, else
    SCORES_ALONE."""
    current = current_verifier(workspace)
    if current is None:
        return SCORES_ALONE, by_scores_alone(judged)
    if current.card.segmenter != segmenter:  # it reads other embeddings
        judged = judged_by_people(workspace, dataset, current.card.segmenter)
    return current.version, cross_fitted(current, judged)


def verdict(
    judged: Judged, before_N: np.ndarray, after_N: np.ndarray, against: str
) -> tuple[bool, str]:
    """Return whether a candidate replaces what it was compared with, and why.

    Args:
        judged: the masks that both judged, without having seen their images.
        before_N, after_N: probabilities by `against` and by the candidate.
    """
    found = gain(judged, before_N, after_N, CONFIDENCE)
    text = f"log loss lower by {found.mean:.3f} on {len(judged)} verdicts"
    if found.low is None:
        return False, f"one image is too few to compare on: {text}"
    text += f" ({100 * CONFIDENCE:g} %: {found.low:+.3f} to {found.high:+.3f})"
    if found.low > MIN_GAIN:
        return True, f"better: {text}"
    return False, f"not better than {against}: {text}"


def _store(workspace: Workspace, verifier: LearnedVerifier) -> None:
    with tempfile.TemporaryDirectory(prefix="dataengine-") as fresh:
        path = Path(fresh) / "model.safetensors"
        save_verifier(verifier, path)
        workspace.add_model(path, verifier.card.as_dict(), ModelKind.VERIFIER)


def _promote(workspace: Workspace, version: str, current: Model | None) -> None:
    before = None if current is None else current.version
    workspace.catalog.models.promote(version, expected_current=before)


class NoVerifierError(DataEngineError):
    """No verifier is current; the message says how to get one."""


def needed_verifier(workspace: Workspace, dataset: str) -> LearnedVerifier:
    """Return the current verifier.

    Raises:
        NoVerifierError: there is none.
        VerifierFileError: its file is of other code.
    """
    found = current_verifier(workspace)
    if found is not None:
        return found
    candidates = workspace.catalog.models.all(ModelKind.VERIFIER)
    why = f" ({candidates[0].version}: {candidates[0].card['note']})" if candidates else ""
    raise NoVerifierError(
        f"no verifier is current{why}; train one with `dataengine verifier train "
        f"--dataset {dataset}`"
    )
