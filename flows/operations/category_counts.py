"""How many masks have each category, for a page that asks again and again."""

from __future__ import annotations

import threading
from typing import Any

from flows.labels.categories import category_rows
from flows.workspace.workspace import Workspace
from storage.catalog import Dataset

MOST_ROWS = 30
"""Categories of a dataset that are listed, the most frequent ones."""


class CategoryCounts:
    """The counts of a workspace, made anew where labels, categories or masks have changed.
    Thread-safe."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._lock = threading.Lock()
        self._kept: dict[int, tuple[Any, list[dict[str, Any]]]] = {}

    def rows(self) -> list[dict[str, Any]]:
        """One row per category: dataset, name, color, masks; the last row of a dataset with more
        than MOST_ROWS has the name None and the masks of all others."""
        datasets = self._workspace.catalog.datasets.all()
        return [row for dataset in datasets for row in self._of_dataset(dataset)]

    def _of_dataset(self, dataset: Dataset) -> list[dict[str, Any]]:
        workspace = self._workspace
        state = (
            workspace.catalog.labels.state(dataset.id),
            workspace.masks.version(),
            workspace.truths.version(),
        )
        with self._lock:
            kept = self._kept.get(dataset.id)
            if kept is None or kept[0] != state:
                kept = self._kept[dataset.id] = (state, _count(workspace, dataset))
            return kept[1]


def _count(workspace: Workspace, dataset: Dataset) -> list[dict[str, Any]]:
    found = sorted(category_rows(workspace, dataset), key=lambda row: -int(row["masks"]))
    rows = [
        {"dataset": dataset.name, "name": row["name"], "color": row["color"], "masks": row["masks"]}
        for row in found[:MOST_ROWS]
    ]
    if rest := found[MOST_ROWS:]:
        masks = sum(row["masks"] for row in rest)
        rows.append({"dataset": dataset.name, "name": None, "color": None, "masks": masks})
    return rows
