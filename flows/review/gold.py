"""Gold images, and what their answers say about annotators (docs/quality.md)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from engine.core.errors import DataEngineError
from engine.evaluation.gold import standing
from flows.workspace.gold import known_masks, standing_row, standings
from flows.workspace.workspace import Workspace
from storage.catalog import Dataset, Image, StoredGoldScore


class NoGoldError(DataEngineError):
    """Images cannot be gold images; the message says which and why."""


def add_from_truth(workspace: Workspace, dataset: str, count: int, seed: int) -> list[int]:
    """Make random images with ingested true masks gold images; returns their ids.

    Raises:
        NoGoldError: fewer such images are left.
        DatasetNotFoundError: no such dataset.
    """
    row = workspace.catalog.datasets.get(dataset)
    known = workspace.images_with_truth(dataset) - set(workspace.catalog.gold.image_ids(row.id))
    if len(known) < count:
        raise NoGoldError(
            f"{dataset} has {len(known)} images with ingested true masks that are not gold yet, "
            f"{count} are asked for; ingest more with `dataengine ingest FOLDER --coco FILE "
            f"--dataset {dataset}`, or name reviewed images with --images"
        )
    order = np.random.default_rng(seed).permutation(sorted(known)).tolist()
    chosen = sorted(order[:count])
    workspace.catalog.gold.mark(row.id, chosen)
    return chosen


def add_images(workspace: Workspace, dataset: str, names: Sequence[str]) -> list[int]:
    """Make images gold images, by file name or id; returns their ids.

    Raises:
        NoGoldError: the dataset has no such image, or its true masks are not known.
        DatasetNotFoundError: no such dataset.
    """
    row = workspace.catalog.datasets.get(dataset)
    images = _named(workspace, row, names)
    known = known_masks(workspace, dataset, [image.id for image in images])
    unknown = [image.file_name for image in images if image.id not in known]
    if unknown:
        raise NoGoldError(
            f"the true masks of {unknown[0]} are not known ({len(unknown)} such images): ingest "
            "them with `dataengine ingest FOLDER --coco FILE`, or have masks of it accepted in "
            "a review"
        )
    workspace.catalog.gold.mark(row.id, [image.id for image in images])
    return [image.id for image in images]


def remove_images(workspace: Workspace, dataset: str, names: Sequence[str]) -> list[int]:
    """Make gold images ordinary ones, by file name or id; returns their ids. Their answers count no
    longer.

    Raises:
        NoGoldError: the dataset has no such image, or it is not gold; then nothing is removed.
        DatasetNotFoundError: no such dataset.
    """
    row = workspace.catalog.datasets.get(dataset)
    images = _named(workspace, row, names)
    gold = set(workspace.catalog.gold.image_ids(row.id))
    others = [image.file_name for image in images if image.id not in gold]
    if others:
        raise NoGoldError(
            f"{others[0]} is not a gold image ({len(others)} such images); "
            f"`dataengine gold list --dataset {dataset}` shows them"
        )
    workspace.catalog.gold.unmark(row.id, [image.id for image in images])
    return [image.id for image in images]


def _named(workspace: Workspace, dataset: Dataset, names: Sequence[str]) -> list[Image]:
    by_name: dict[str, list[Image]] = defaultdict(list)
    ids = list(workspace.catalog.images.ids(dataset.id))
    for image in workspace.catalog.images.get_many(ids):
        by_name[image.file_name].append(image)
        by_name[str(image.id)].append(image)
    found = []
    for name in dict.fromkeys(names):
        if len(by_name[name]) != 1:
            what = "no image" if not by_name[name] else f"{len(by_name[name])} images"
            raise NoGoldError(
                f"dataset {dataset.name!r} has {what} named {name!r}; "
                "give a file name as ingested, or an image's id"
            )
        found.append(by_name[name][0])
    return found


def gold_images(workspace: Workspace, dataset: str) -> list[dict[str, Any]]:
    """One row per gold image: its id, file name, number of true masks, answers and their score."""
    row = workspace.catalog.datasets.get(dataset)
    ids = workspace.catalog.gold.image_ids(row.id)
    known = known_masks(workspace, dataset, ids)
    answers: dict[int, list[StoredGoldScore]] = defaultdict(list)
    for score in workspace.catalog.gold.scores(dataset_id=row.id):
        answers[score.image_id].append(score)
    return [
        {
            "image": image.id,
            "file_name": image.file_name,
            "truths": len(known.get(image.id, [])),
            "answers": len(answers[image.id]),
            "score": _pooled(answers[image.id]),
        }
        for image in workspace.catalog.images.get_many(ids)
    ]


def gold_scores(workspace: Workspace, dataset: str | None = None) -> list[dict[str, Any]]:
    """One row per annotator with gold tasks: their standing, means over all answers, and each
    answer in order of time."""
    row = None if dataset is None else workspace.catalog.datasets.get(dataset)
    dataset_id = None if row is None else row.id
    by_person: dict[int, list[StoredGoldScore]] = defaultdict(list)
    for score in workspace.catalog.gold.scores(dataset_id=dataset_id):
        by_person[score.annotator_id].append(score)
    found = standings(workspace, dataset_id)
    threshold = workspace.settings.quality.gold_threshold
    return [
        {
            "annotator": workspace.catalog.annotators.get(person).name,
            **standing_row(found[person], threshold),
            "answers": len(scores),
            "iou": _mean([score.iou for score in scores]),
            "boundary_f": _mean([score.boundary_f for score in scores]),
            "recall_75": sum(s.found_75 for s in scores) / sum(s.truths for s in scores),
            "extra": sum(score.extra for score in scores),
            "history": [_history_row(scores, number) for number in range(len(scores))],
        }
        for person, scores in sorted(by_person.items())
    ]


def _history_row(scores: Sequence[StoredGoldScore], number: int) -> dict[str, Any]:
    """An answer, with the standing after it."""
    score = scores[number]
    stands = standing([(one.found_50, one.truths) for one in scores[: number + 1]])
    assert stands is not None
    own = {name: getattr(score, name) for name in ("truths", "found_50", "found_75", "extra")}
    return {
        "at": score.created_at,
        "image": score.image_id,
        **own,
        "iou": score.iou,
        "boundary_f": score.boundary_f,
        **{name: getattr(stands, name) for name in ("score", "low", "high")},
    }


def _pooled(scores: Sequence[StoredGoldScore]) -> float | None:
    truths = sum(score.truths for score in scores)
    return sum(score.found_50 for score in scores) / truths if truths else None


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
