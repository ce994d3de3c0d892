"""Changes a dataset's category list, and shows it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.core.categories import Category, CategoryError, CategoryList
from flows.labels.category_file import merge_entries, read_category_file
from flows.labels.current import label_counts
from flows.workspace.workspace import Workspace
from storage.catalog import CategoryVersion, Dataset


@dataclass(frozen=True, kw_only=True, slots=True)
class CategoryChange:
    """What a category file would change.

    Attributes:
        dataset: whose list it is.
        present: the version in use.
        new: the list of the file, with the ids of `present`.
        removed: the categories that the file lacks.
        labelled: labels that count of each removed category that has some, by name.
    """

    dataset: Dataset
    present: CategoryVersion
    new: CategoryList
    removed: tuple[Category, ...]
    labelled: dict[str, int]


def differences(before: CategoryList, after: CategoryList) -> dict[str, Any]:
    """The names that one list `added`, `renamed` (pairs of old and new) and `removed`, against
    another."""
    old, new = before.names, after.names
    both = [(old[number], name) for number, name in new.items() if number in old]
    return {
        "added": [name for number, name in new.items() if number not in old],
        "renamed": [[was, name] for was, name in both if was != name],
        "removed": [name for number, name in old.items() if number not in new],
    }


def plan_categories(workspace: Workspace, dataset: str, path: Path) -> CategoryChange:
    """What a category file would change; nothing is written.

    Raises:
        CategoryError: the file is not allowed, or does not suit the dataset's list.
        DatasetNotFoundError: no such dataset.
        OSError: the file cannot be read.
    """
    row = workspace.catalog.datasets.get(dataset)
    present = workspace.catalog.categories.current(row.id)
    new = merge_entries(path, read_category_file(path), present.categories)
    kept = set(new.names)
    removed = tuple(one for one in present.categories.categories if one.id not in kept)
    counts = workspace.catalog.labels.counts(row.id) if removed else {}
    labelled = {one.name: counts[one.id] for one in removed if counts.get(one.id)}
    return CategoryChange(dataset=row, present=present, new=new, removed=removed, labelled=labelled)


def set_categories(
    workspace: Workspace,
    change: CategoryChange,
    *,
    removed_to: str | None = None,
    unlabel: bool = False,
    author: str | None = None,
) -> CategoryVersion:
    """Write the planned list as the next version, in one transaction with the labels of removed
    categories. A list that is equal to the one in use makes no version.

    Args:
        workspace: the workspace.
        change: of `plan_categories`.
        removed_to: name of the category that masks of removed categories get.
        unlabel: these masks get no category.
        author: name of the annotator who changes it.

    Raises:
        CategoryError: removed categories have labels, and neither `removed_to` nor `unlabel` says
            what becomes of them; or no category has the name `removed_to`.
        StaleStateError: the list or labels changed since the plan: plan again.
    """
    if removed_to is not None and unlabel:
        raise CategoryError("give either the name of a category or no category, not both")
    target = None
    if removed_to is not None:
        found = change.new.named(removed_to)
        if found is None:
            raise CategoryError(f"no category of the new list is named {removed_to!r}")
        target = found.id
    if change.labelled and target is None and not unlabel:
        raise CategoryError(_refusal(change))
    if change.new == change.present.categories:
        return change.present
    given = target is not None or unlabel
    return workspace.catalog.categories.set(
        change.dataset.id,
        change.new,
        expected_version=change.present.version,
        moved={one.id: target for one in change.removed} if given else {},
        author=author,
    )


def _refusal(change: CategoryChange) -> str:
    counts = ", ".join(f"{name} ({count})" for name, count in change.labelled.items())
    return (
        f"the file lacks categories that masks have: {counts}; say what these masks get: "
        "--removed-to CATEGORY, or --unlabel; to rename one, give its old name as `was`"
    )


def category_rows(workspace: Workspace, dataset: Dataset) -> list[dict[str, Any]]:
    """The categories in use, in order: `id`, `name`, `color`, `key`, `parent` (its name),
    `description`, and `masks`, the number of masks that have the label."""
    listed = workspace.catalog.categories.current(dataset.id).categories
    counts = label_counts(workspace, dataset) if listed else {}
    names = listed.names
    return [
        {
            "id": one.id,
            "name": one.name,
            "color": one.color,
            "key": one.key,
            "parent": names.get(one.parent) if one.parent else None,
            "description": one.description,
            "masks": counts.get(one.id, 0),
        }
        for one in listed.categories
    ]


def history_rows(workspace: Workspace, dataset: Dataset) -> list[dict[str, Any]]:
    """The versions of the category list, newest first: `version`, `created_at`, `author`, the
    number of `categories`, and what it `added`, `renamed` and `removed`."""
    versions = workspace.catalog.categories.history(dataset.id)
    rows = []
    first = workspace.catalog.categories.get(dataset.id, 0)
    for one, older in zip(versions, [*versions[1:], first], strict=True):
        rows.append(
            {
                "version": one.version,
                "created_at": one.created_at,
                "author": one.author,
                "categories": len(one.categories),
                **differences(older.categories, one.categories),
            }
        )
    return rows
