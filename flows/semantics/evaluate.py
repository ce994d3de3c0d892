"""Scores of the suggester in use, and how far a dataset's masks are labelled."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from engine.core import categories
from engine.core.errors import DataEngineError
from engine.semantics.suggesting import NONE_OF_THESE
from flows.encoders.trained import trained_status
from flows.semantics.known_labels import known_labels, labelled_vectors
from flows.semantics.learning import load_suggester
from flows.semantics.vectors import read_vectors, vector_runs
from flows.workspace.workspace import Workspace
from storage.catalog import Dataset, LabelSource


class NothingToEvaluateError(DataEngineError):
    """There is no suggester, or no labelled mask to score it on; the message says what to do."""


def evaluate_suggester(workspace: Workspace, dataset: Dataset) -> dict[str, Any]:
    """Score the suggester in use on the masks of held-out images that people labelled.

    Returns:
        `suggester`, `masks`, `images`, `accuracy`, `confident_share` and `confident_precision` (of
        the suggestions that need no person), and `categories`: by name `masks`, `precision` and
        `recall`, None where there is nothing to divide by.

    Raises:
        NothingToEvaluateError: no suggester, or no such mask.
    """
    stored = workspace.catalog.suggesters.current(dataset.id)
    if stored is None:
        raise NothingToEvaluateError(
            f"{dataset.name} has no suggester: label some masks, then run "
            f"`dataengine labels suggest --dataset {dataset.name}`"
        )
    suggester = load_suggester(workspace, stored)
    blocks = read_vectors(workspace, dataset, stored.encoder)
    labels = known_labels(workspace, dataset).by_people()
    _, asked = labelled_vectors(workspace, dataset, blocks, labels)
    if not len(asked.category_N):
        raise NothingToEvaluateError(
            f"no mask of a held-out image of {dataset.name} is labelled: label some, or ingest "
            "images with --held-out"
        )
    said = suggester.suggest(asked.vectors_ND)
    right = said.category_N == asked.category_N
    is_confident = said.probability_N >= suggester.card.confident
    names = workspace.catalog.categories.current(dataset.id).categories.names
    by_name = {
        names.get(category, categories.NONE_OF_THESE): {
            "masks": int((asked.category_N == category).sum()),
            "precision": _share(right[said.category_N == category]),
            "recall": _share(right[asked.category_N == category]),
        }
        for category in np.unique(np.concatenate([asked.category_N, said.category_N])).tolist()
    }
    return {
        "dataset": dataset.name,
        "suggester": stored.version,
        "masks": len(right),
        "images": len(np.unique(asked.image_N)),
        "accuracy": float(right.mean()),
        "confident_share": float(is_confident.mean()),
        "confident_precision": _share(right[is_confident]),
        "categories": by_name,
    }


def _share(right: np.ndarray) -> float | None:
    return float(right.mean()) if len(right) else None


def label_status(workspace: Workspace, dataset: Dataset) -> dict[str, Any]:
    """Return how many masks a dataset has, how many of them have vectors of each encoder version
    and a label of each source, and the suggester in use with its scores."""
    masks = workspace.masks.counts(("dataset",), dataset=dataset.name, current_only=True)
    known = known_labels(workspace, dataset)
    vectors: Counter[str] = Counter()
    for run in vector_runs(workspace, dataset):
        vectors[run.config["encoder"]] += workspace.catalog.shards.totals(run.id).masks
    stored = workspace.catalog.suggesters.current(dataset.id)
    by_source = Counter(known.source.values())
    return {
        "dataset": dataset.name,
        "masks": masks.get((dataset.name,), 0),
        "labels": {str(source): by_source.get(source, 0) for source in LabelSource},
        "none_of_these": sum(one == NONE_OF_THESE for one in known.category.values()),
        "vectors": dict(vectors),
        "trained_clip": trained_status(workspace, dataset),
        "suggester": None
        if stored is None
        else {
            "version": stored.version,
            "encoder": stored.encoder,
            "new_labels": known.last > stored.card["last_label"],
            **{name: stored.card["data"][name] for name in ("labels", "categories", "images")},
            **stored.card["scores"],
        },
    }
