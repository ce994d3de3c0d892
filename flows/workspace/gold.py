"""What gold images and gold tasks say: true masks, annotators' standings, and what to do."""

from __future__ import annotations

import shlex
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from engine.core.rle import RLE
from engine.evaluation.gold import Judgement, Standing, standing
from flows.workspace.workspace import Workspace
from storage.catalog import PEOPLE


def known_masks(
    workspace: Workspace, dataset: str, image_ids: Sequence[int]
) -> dict[int, list[RLE]]:
    """The true masks of images by id: ingested ones, else masks that reviewers accepted or made as
    fixes. Images without any are left out."""
    found = workspace.truths_of(list(image_ids))
    others = sorted(set(image_ids) - found.keys())
    if not others:
        return found
    row = workspace.catalog.datasets.get(dataset)
    verdicts = workspace.catalog.verdicts
    accepted = verdicts.accepted_mask_ids(row.id) | set(verdicts.fixes(row.id).values())
    for mask in workspace.masks.masks(dataset=dataset, image_ids=others, current_only=True):
        if mask.mask_id in accepted:
            found.setdefault(mask.image_id, []).append(mask.rle)
    return found


def gold_for_people(workspace: Workspace, dataset_id: int, annotator: str) -> list[int]:
    """Ids of the gold images that people may get in a round; none in rounds of the simulated
    annotator, or while gold tasks are off."""
    rules = workspace.settings.quality
    if annotator != PEOPLE or not (rules.gold_first or rules.gold_share):
        return []
    return workspace.catalog.gold.image_ids(dataset_id)


def standings(workspace: Workspace, dataset_id: int | None = None) -> dict[int, Standing]:
    """What the gold tasks of one dataset, or of all, say about annotators, by their ids."""
    answers: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for score in workspace.catalog.gold.scores(dataset_id=dataset_id):
        answers[score.annotator_id].append((score.found_50, score.truths))
    found = {person: standing(given) for person, given in answers.items()}
    return {person: stands for person, stands in found.items() if stands is not None}


def standing_row(stands: Standing, threshold: float) -> dict[str, Any]:
    """A standing for scripts and the dashboard, with what it says about the threshold."""
    return {**asdict(stands), "judgement": str(stands.judge(threshold))}


def advice(workspace: Workspace, dataset: str | None = None) -> list[str]:
    """What to do where gold tasks are on and a dataset lacks gold images, or where somebody is
    below the threshold; sentences."""
    rules = workspace.settings.quality
    found = []
    for row in workspace.catalog.datasets.all():
        if dataset not in (None, row.name) or not (rules.gold_first or rules.gold_share):
            continue
        count, wanted = len(workspace.catalog.gold.image_ids(row.id)), max(1, rules.gold_first)
        if count < wanted and workspace.catalog.images.count(row.id):
            found.append(
                f"{row.name} has {count} gold images, {wanted} or more are needed: "
                f"`dataengine gold add --dataset {shlex.quote(row.name)} "
                f"--from-truth {wanted - count}`"
            )
    blamed = [
        workspace.catalog.annotators.get(person).name
        for person, stands in standings(workspace).items()
        if stands.judge(rules.gold_threshold) == Judgement.BELOW
    ]
    if blamed:
        found.append(
            f"{', '.join(sorted(blamed))}: fewer objects found in gold tasks than "
            f"{rules.gold_threshold:g}; talk to them, and send their masks to review with "
            "`dataengine review --rules`"
        )
    return found
