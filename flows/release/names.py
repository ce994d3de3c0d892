"""The names that a release's masks have: those that counted when it was begun."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from engine.core.categories import UNLABELLED, CategoryList
from engine.core.records import Mask
from flows.labels.current import labels_of
from flows.workspace.workspace import Workspace
from storage.catalog import Release


class ReleasedNames:
    """Categories and labels that a release pins.

    Attributes:
        categories: the list; None: the release is class-agnostic.
    """

    def __init__(self, workspace: Workspace, begun: Release) -> None:
        self._workspace, self._begun = workspace, begun
        version = begun.categories_version
        self.categories: CategoryList | None = None
        if version:
            lists = workspace.catalog.categories
            self.categories = lists.get(begun.dataset_id, version).categories
            self._names = self.categories.names

    def of(self, masks: Sequence[Mask]) -> dict[str, int] | None:
        """The category ids of some masks by mask id, without masks that have none; None in a
        class-agnostic release."""
        if self.categories is None:
            return None
        pinned = self._begun.table_version
        found = labels_of(self._workspace, masks, as_of=self._begun.label_id, version=pinned)
        return {
            mask_id: label.category_id
            for mask_id, label in found.items()
            if label.category_id in self._names
        }

    def count(self, counts: dict[str, int], masks: Sequence[Mask], ids: dict[str, int]) -> None:
        """Add masks to the counts by name."""
        for mask in masks:
            name = self._names[ids[mask.mask_id]] if mask.mask_id in ids else UNLABELLED
            counts[name] = counts.get(name, 0) + 1


def pinned_names(begun: Release) -> dict[str, Any]:
    """What the release's card says of the pinned names; nothing in a class-agnostic release."""
    if not begun.categories_version:
        return {}
    return {"categories_version": begun.categories_version, "label_id": begun.label_id}
