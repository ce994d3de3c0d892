"""Learns a dataset's suggester again once enough labels have come since the last time."""

from __future__ import annotations

from typing import Any

from flows.prefect_api import events
from flows.workspace.workspace import Workspace
from storage.catalog import Dataset, LabelSource, RunKind

PEOPLES = (LabelSource.ANNOTATOR, LabelSource.IMPORTED)
"""Sources of labels that a suggester learns from."""
RUNS = 1_000
"""Latest runs that are searched."""


def labels_since(workspace: Workspace, dataset: Dataset) -> tuple[int, int]:
    """Return how many labels people gave since a suggester was last learned, or tried to be, and
    the highest label id of that time; (0, 0) for a dataset without categories."""
    catalog = workspace.catalog
    if not catalog.categories.current(dataset.id).categories.names:
        return 0, 0
    runs = catalog.runs.all(dataset_id=dataset.id, kind=RunKind.TRAIN_SUGGESTER, limit=RUNS)
    cards = [one.card for one in catalog.suggesters.all(dataset.id)]
    tried = [run.config.get("last_label", 0) for run in runs]
    last = max([*tried, *(card["last_label"] for card in cards)], default=0)
    return catalog.labels.count_after(dataset.id, last, PEOPLES), last


def is_due(workspace: Workspace, dataset: Dataset) -> bool:
    """Whether enough labels have come for another suggester, by the settings."""
    least = workspace.settings.production.suggest_after_labels
    return least > 0 and labels_since(workspace, dataset)[0] >= least


class LabelsGiven:
    """Emits the event that starts the job, once for the same suggester. Thread-safe."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._told: set[tuple[int, int]] = set()

    def look(self, dataset_id: int) -> None:
        """Emit the event if a suggester is due."""
        least = self._workspace.settings.production.suggest_after_labels
        dataset = self._workspace.catalog.datasets.get_by_id(dataset_id)
        count, last = labels_since(self._workspace, dataset) if least else (0, 0)
        if least and count >= least and (dataset_id, last) not in self._told:
            self._told.add((dataset_id, last))
            payload = {"dataset": dataset.name, "labels": count}
            events.emit(self._workspace, events.LABELS_GIVEN, payload)


def refit_if_due(workspace: Workspace, dataset: Dataset) -> dict[str, Any]:
    """Learn and suggest again, with encoder, precision and source of the suggester in use, if that
    is due; labels nothing.

    Returns:
        The result of `suggest_labels`, or `suggester` None and the `reason` why not.
    """
    from engine.semantics.encoders import EncoderError
    from engine.semantics.suggesting import SuggesterError, TooFewLabelsError
    from flows.semantics.suggesting import suggest_labels

    if not is_due(workspace, dataset):
        return {"suggester": None, "reason": "too few new labels"}
    present = workspace.catalog.suggesters.current(dataset.id)
    card: dict[str, Any] = present.card if present else {"by": "labels", "precision": 0.95}
    name = card.get("name") or (present.encoder.rpartition("-")[0] if present else "lite")
    root = str(workspace.settings.root)
    try:
        return suggest_labels(root, dataset.name, name, card["precision"], False, card["by"])
    except (TooFewLabelsError, SuggesterError, EncoderError) as error:
        return {"suggester": None, "reason": str(error)}
