"""What the annotation service asks about the names of masks. Imports wait for the first question:
they take seconds, which a class-agnostic workspace need not spend."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from engine.core.records import Mask
from flows.semantics.refit import LabelsGiven
from flows.workspace.workspace import Workspace


class MaskNames:
    """Labels, suggestions, search and what programs selected, as the annotation service takes them.

    `given` looks whether enough labels came to learn the suggestions again.
    """

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self.given = LabelsGiven(workspace)

    def suggestions_of(self, dataset_id: int, key: str | None) -> Any:
        """Suggestions of a dataset's masks that are newer than `key`."""
        from flows.semantics.suggesting import newer_suggestions

        self.given.look(dataset_id)  # the page asks every few seconds while people label
        return newer_suggestions(self._workspace, dataset_id, key)

    def suggest_for(self, dataset_id: int, image_id: int, masks: Sequence[Mask]) -> Any:
        """Suggestions of a task's masks."""
        from flows.semantics.task_suggestions import suggest_for_task

        return suggest_for_task(self._workspace, dataset_id, image_id, masks)

    def labels_of(self, dataset_id: int, masks: Sequence[Mask]) -> dict[str, int]:
        """Category ids of a task's masks by mask id, 0 for none of the list."""
        from flows.labels.current import labels_of

        if not self._workspace.catalog.categories.current(dataset_id).categories:
            return {}
        found = labels_of(self._workspace, masks)
        return {name: one.category_id or 0 for name, one in found.items()}

    def selected_by(self, dataset_id: int, run: str) -> Any:
        """What a run of a program selected.

        Raises:
            RefusedError: there is no such run.
        """
        from engine.annotation.errors import invalid
        from flows.workspace.selections import SelectionError, selection

        try:
            return selection(self._workspace, dataset_id, run)
        except SelectionError as error:
            raise invalid(str(error)) from error

    def find(self, dataset_id: int, words: str | None, like: str | None, count: int) -> Any:
        """Masks that words describe, or like one.

        Raises:
            RefusedError: nothing can be searched for; the message says why.
        """
        from engine.annotation.errors import invalid
        from engine.semantics.encoders import EncoderError
        from flows.semantics.find import FindError, find_on_page

        dataset = self._workspace.catalog.datasets.get_by_id(dataset_id)
        try:
            return find_on_page(self._workspace, dataset, words, like, count)
        except (FindError, EncoderError) as error:
            raise invalid(str(error)) from error
