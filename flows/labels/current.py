"""The labels that masks have, their own or inherited, and how many masks have which.

A fixed mask without a label of its own has that of the nearest mask that it supersedes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from functools import cache

from engine.core.records import Mask
from flows.workspace.workspace import Workspace
from storage.catalog import Dataset, Label
from storage.masks import MaskTable

MOST_FIXES = 1_000
"""Of one mask, so that a damaged table cannot lead in a circle."""
Origins = Callable[[], dict[str, str]]
"""Returns, by mask id, the mask that it supersedes."""


def labels_of(
    workspace: Workspace,
    masks: Iterable[Mask],
    *,
    as_of: int | None = None,
    version: int | None = None,
    table: MaskTable | None = None,
) -> dict[str, Label]:
    """The labels of some masks by mask id; masks without one are left out.

    Args:
        workspace: the workspace.
        masks: of one table.
        as_of: the labels that counted when this was the highest id.
        version: of the table, in which the superseded masks are looked up; None: the newest.
        table: None: the mask table; for ground truth, `workspace.truths`.
    """
    chosen = workspace.masks if table is None else table
    wanted = list(masks)
    ids = sorted({mask.image_id for mask in wanted if mask.supersedes})

    @cache
    def origins() -> dict[str, str]:
        rows = chosen.superseding(version=version, image_ids=ids)
        return {row["mask_id"]: row["supersedes"] for row in rows}

    supersedes = {mask.mask_id: mask.supersedes for mask in wanted}
    return _resolved(workspace, supersedes, origins, as_of)


def label_counts(workspace: Workspace, dataset: Dataset) -> dict[int | None, int]:
    """The number of labelled masks by category id; None: masks of no category. Ground truth counts
    too, superseded masks do not."""
    counts = Counter(workspace.catalog.labels.counts(dataset.id))
    if not counts:
        return {}
    rows = [
        row
        for table in (workspace.masks, workspace.truths)
        for row in table.superseding(dataset=dataset.name)
    ]
    origins = {row["mask_id"]: row["supersedes"] for row in rows}
    superseded = set(origins.values())
    for label in workspace.catalog.labels.current(superseded).values():
        counts[label.category_id] -= 1
    last = {
        row["mask_id"]: row["supersedes"]
        for row in rows
        if row["area"] > 0 and row["mask_id"] not in superseded
    }
    own = workspace.catalog.labels.current(last)
    inherited = _resolved(
        workspace, {m: o for m, o in last.items() if m not in own}, lambda: origins
    )
    counts.update(label.category_id for label in inherited.values())
    return {number: count for number, count in counts.items() if count > 0}


def _resolved(
    workspace: Workspace,
    supersedes: dict[str, str | None],
    origins: Origins,
    as_of: int | None = None,
) -> dict[str, Label]:
    """Walk from masks to those that they supersede until a label is found."""
    found: dict[str, Label] = {}
    at = {mask_id: mask_id for mask_id in supersedes}
    for number in range(MOST_FIXES):
        labels = workspace.catalog.labels.current(set(at.values()), as_of=as_of)
        found |= {mask: labels[place] for mask, place in at.items() if place in labels}
        steps = supersedes if number == 0 else origins()
        left = ((mask, steps.get(place)) for mask, place in at.items() if place not in labels)
        at = {mask: place for mask, place in left if place}
        if not at:
            break
    return found
