"""The labels of a task's masks: what is shown with the task, and what is submitted with it.

In requests 0 stands for none of these; in the catalog it is a label without a category.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from engine.annotation.errors import invalid
from engine.annotation.schemas import (
    Judgement,
    LabelByPerson,
    LabelIn,
    NewMask,
    NewVerdict,
    Submission,
    Suggestion,
)
from engine.core.records import Mask
from storage.catalog import Catalog, Task, TaskLabel, VerdictKind

LABELS = "labels"
"""In the payload of a task, and in the config of a late version: the labels of masks that are not
in the mask table, category id by mask id."""
DISPUTED = "disputed"
"""In the payload of a review: what people who disagree say, pairs of annotator and category id by
mask id."""
LABELS_ASKED = "labels_asked"
"""In the payload of a review: ids of the masks whose label the reviewer has to give or confirm."""


LabelsOf = Callable[[int, Sequence[Mask]], Mapping[str, int]]
"""Returns the labels that masks of a dataset have: category id, 0 for none of these, by mask id."""
SuggestFor = Callable[[int, int, Sequence[Mask]], Mapping[str, tuple[int, float]]]
"""Returns the categories suggested for masks of a dataset and an image, both by id, with their
probabilities in [0, 1], by mask id. It can take seconds."""


class MaskLabels:
    """One per server. Thread-safe."""

    def __init__(self, catalog: Catalog, labels_of: LabelsOf, suggest_for: SuggestFor) -> None:
        self._catalog, self._labels_of, self._suggest_for = catalog, labels_of, suggest_for

    def shown(self, task: Task, masks: Sequence[Mask]) -> dict[str, dict[str, Any]]:
        """The fields of `MaskView` that are about labels, by mask id."""
        labels = {**self._labels_of(task.dataset_id, masks), **task.payload.get(LABELS, {})}
        disputed, found = task.payload.get(DISPUTED, {}), {}
        asked = set(task.payload.get(LABELS_ASKED, ()))
        for mask in masks:
            found[mask.mask_id] = {
                "category_id": labels.get(mask.mask_id),
                "is_label_asked": mask.mask_id in asked,
                "disputed": [
                    LabelByPerson(
                        name=self._catalog.annotators.get(person).name, category_id=category
                    )
                    for person, category in disputed.get(mask.mask_id, [])
                ],
            }
        return found

    def suggestions(self, task: Task, masks: Sequence[Mask]) -> list[Suggestion]:
        """What is suggested for the task's masks."""
        found = self._suggest_for(task.dataset_id, task.image_id, masks)
        return [
            Suggestion(mask_id=mask_id, category_id=category, probability=probability)
            for mask_id, (category, probability) in found.items()
        ]

    def of_submission(
        self, task: Task, given: Submission, made: Sequence[Mask], kept: Collection[str]
    ) -> tuple[TaskLabel, ...]:
        """The labels of a finished task.

        Args:
            task: the task.
            given: the submission.
            made: the record of each of its masks.
            kept: ids of pre-filled masks that are kept.

        Raises:
            RefusedError: the dataset has no such category, or a label is for no mask that is kept.
        """
        ids = [label.mask_id for label in given.labels]
        if len(set(ids)) != len(ids):
            raise invalid("a mask has two labels")
        if unknown := set(ids) - set(kept):
            raise invalid(f"not a pre-filled mask that is kept: {sorted(unknown)[0]!r}")
        pairs = [(label.mask_id, label.category_id) for label in given.labels]
        pairs += [
            (row.mask_id, mask.category_id)
            for row, mask in zip(made, given.masks, strict=True)
            if mask.category_id is not None
        ]
        found = self._checked(task.dataset_id, dict(pairs))
        return tuple(
            TaskLabel(mask_id=mask_id, category_id=category or None)
            for mask_id, category in found.items()
        )

    def of_judgement(
        self, task: Task, given: Judgement, fixes: Mapping[str, str], fresh: Sequence[Mask]
    ) -> tuple[TaskLabel, ...]:
        """The labels of a finished review: the reviewer's, and for masks that come into the table
        with it, those that they had.

        Args:
            task: the task.
            given: the judgement.
            fixes: ids of the new masks by those that they fix.
            fresh: masks to judge that are not in the table before.

        Raises:
            RefusedError: the dataset has no such category.
        """
        mine = {
            one.mask_id: one
            for one in given.verdicts
            if one.category_id is not None and one.verdict != VerdictKind.REJECT
        }
        found = [
            TaskLabel(
                mask_id=fixes.get(mask_id, mask_id),
                category_id=category or None,
                seconds=mine[mask_id].label_seconds,
            )
            for mask_id, category in self._checked(task.dataset_id, _categories(mine)).items()
        ]
        stays = {one.mask_id for one in given.verdicts if one.verdict != VerdictKind.REJECT}
        theirs, before = {mask.mask_id: mask for mask in fresh}, task.payload.get(LABELS, {})
        before = {name: before[name] for name in theirs if name in before and name in stays}
        for mask_id, category in self._checked(task.dataset_id, before).items():
            if mask_id not in mine:
                maker = self._catalog.annotators.find(theirs[mask_id].annotator or "")
                found.append(
                    TaskLabel(
                        mask_id=fixes.get(mask_id, mask_id),
                        category_id=category or None,
                        annotator_id=None if maker is None else maker.id,
                    )
                )
        return tuple(found)

    def _checked(self, dataset_id: int, labels: Mapping[str, int]) -> dict[str, int]:
        """The labels without those of categories that were removed meanwhile.

        Raises:
            RefusedError: the dataset never had such a category, or has none at all.
        """
        if not labels:
            return {}
        listed = self._catalog.categories.current(dataset_id).categories
        known, gone = {0, *listed.names}, {number for number, _ in listed.retired}
        if unknown := set(labels.values()) - known - gone:
            raise invalid(f"the dataset has no category with id {min(unknown)}")
        if not listed.categories and not gone:
            raise invalid("the dataset has no categories: submit its masks without labels")
        return {mask_id: number for mask_id, number in labels.items() if number in known}


def submitted_labels(task: Task) -> dict[str, int]:
    """The labels that were submitted with a task: category id, 0 for none of these, by mask id."""
    return {label.mask_id: label.category_id or 0 for label in task.result.labels}


def labels_to_keep(
    drawn: Sequence[tuple[Mask, NewMask]],
    kept: Sequence[tuple[Mask, str]],
    given: Sequence[LabelIn],
) -> dict[str, int]:
    """The labels of a version of a task whose masks wait for a review, by mask id.

    Args:
        drawn: masks that the annotator drew, with what was submitted.
        kept: pre-filled masks that they kept, with their ids in the task.
        given: labels of pre-filled masks.
    """
    found = {row.mask_id: one.category_id for row, one in drawn if one.category_id is not None}
    by_id = {label.mask_id: label.category_id for label in given}
    return found | {row.mask_id: by_id[old] for row, old in kept if old in by_id}


def _categories(verdicts: Mapping[str, NewVerdict]) -> dict[str, int]:
    return {name: one.category_id for name, one in verdicts.items() if one.category_id is not None}
