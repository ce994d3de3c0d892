"""What the results of programs are used for: review, labels, edited pictures, a page to look at.

Rounds and releases take the selected images by `flows.workspace.selections`.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any

from engine.core.batches import batches
from engine.core.records import Mask
from engine.programs.rationale import page
from flows.programs.running import RunError, results
from flows.review.review import queue_review
from flows.stages.embeddings import make_embeddings
from flows.stages.run_context import context_without_round
from flows.workspace.run_lock import named_lock, review_lock, tracked_run
from flows.workspace.workspace import Workspace, code_version
from storage.catalog import Dataset, Image, LabelSource, NewLabel, Run, RunKind
from storage.outputs import OutputFolder

IMAGES_AT_ONCE = 256
MODEL_CHARACTERS = 200
"""Of a label's model."""


def send_to_review(workspace: Workspace, dataset: Dataset, run: Run) -> dict[str, int]:
    """Queue the masks that a run selected for people's verdicts: its objects, or all masks of the
    selected images. Masks that a review task contains are left out. Repeated, it changes nothing.

    Returns:
        `images` and `masks` that are queued.
    """
    review_id = uuid.uuid5(uuid.NAMESPACE_URL, f"program/{run.id}/review").hex
    with named_lock(workspace, review_lock(dataset.id)):
        sample = _selected_masks(workspace, dataset, run)
        if sample:
            started = workspace.catalog.runs.start(
                review_id,
                RunKind.REVIEW,
                dataset_id=dataset.id,
                model=workspace.current_model().version,
                config={"settings": workspace.settings.shaping(), "program": run.id},
                code_version=code_version(),
            )
            context = context_without_round(workspace, started)
            with tracked_run(workspace, review_id):
                make_embeddings(workspace, context, sorted(sample))  # people do not wait for it
                queue_review(workspace, context, sample)
    asked = workspace.catalog.verdicts.asked_in_run(review_id)
    return {"images": len(asked), "masks": sum(map(len, asked.values()))}


def _selected_masks(workspace: Workspace, dataset: Dataset, run: Run) -> dict[int, list[Mask]]:
    asked = workspace.catalog.verdicts.asked_mask_ids(dataset.id)
    found: dict[int, list[Mask]] = {}
    rows = (
        row
        for row in results(
            workspace, run.id, ["image_id", "right_id", "selected", "mask_ids", "answer"]
        )
        if row["selected"]
    )
    for part in batches(rows, IMAGES_AT_ONCE):
        only = {row["image_id"]: set(row["mask_ids"]) for row in part if row["mask_ids"]}
        whole = {one for row in part for one in (row["image_id"], row["right_id"])} - {None}
        for mask in workspace.masks.masks(
            dataset=dataset.name, image_ids=sorted(whole), current_only=True
        ):
            is_meant = mask.mask_id in only.get(mask.image_id, {mask.mask_id})
            if is_meant and mask.area and mask.mask_id not in asked:
                found.setdefault(mask.image_id, []).append(mask)
                asked.add(mask.mask_id)
    return dict(sorted(found.items()))


def write_labels(
    workspace: Workspace, dataset: Dataset, run: Run, category: str | None
) -> dict[str, Any]:
    """Label the objects that a run found, with the source `model`: by a category, or each by the
    name that the program gave it. Labels by people stay.

    Returns:
        `labelled`: new labels; `unknown`: names that are no categories, with their objects.

    Raises:
        RunError: the run has no objects, or no category has that name.
    """
    listed = workspace.catalog.categories.current(dataset.id).categories
    if category is not None and listed.named(category) is None:
        names = ", ".join(list(listed.names.values())[:20]) or "none"
        raise RunError(f"no category of {dataset.name} is named {category!r} (there are: {names})")
    asked = run.config["asked"]
    model = f"program-{asked['name'] or 'unsaved'}-v{asked['version'] or 0}-{run.id}"
    unknown: dict[str, int] = {}
    labels: list[NewLabel] = []
    objects = 0
    for row in results(workspace, run.id, ["image_id", "mask_ids", "names"]):
        for mask_id, name in zip(row["mask_ids"] or (), row["names"] or (), strict=True):
            objects += 1
            found = listed.named(category or name) if category or name else None
            if found is None:
                unknown[name] = unknown.get(name, 0) + 1
                continue
            labels.append(
                NewLabel(
                    mask_id=mask_id,
                    image_id=row["image_id"],
                    category_id=found.id,
                    source=LabelSource.MODEL,
                    model=model[:MODEL_CHARACTERS],
                )
            )
    if not objects:
        raise RunError("the run found no objects; a program that ends in objects labels masks")
    count = workspace.catalog.labels.add_many(dataset.id, labels)
    return {"labelled": count, "unknown": unknown}


def write_pictures(workspace: Workspace, run: Run, folder: Path) -> int:
    """Write the edited pictures of a run into a folder as PNG, named after their images; return
    how many. Files of an earlier run are replaced.

    Raises:
        OutputExistsError: a foreign file in the folder has a name that is needed; no file is
            replaced.
        RunError: the run made no pictures.
    """
    ids = [row["image_id"] for row in results(workspace, run.id, ["image_id", "selected"])]
    names = {one.id: _picture_name(one) for one in workspace.catalog.images.get_many(ids)}
    outputs = OutputFolder(folder)
    outputs.refuse_others(names.values())
    count = 0
    for row in results(workspace, run.id, ["image_id", "picture"]):
        if row["picture"] is not None and row["image_id"] in names:
            outputs.write(names[row["image_id"]], row["picture"])
            count += 1
    if not count:
        raise RunError("the run made no pictures; a program that ends in an image makes some")
    return count


def _picture_name(image: Image) -> str:
    stem = re.sub(r"[^\w.-]", "_", PurePosixPath(image.file_name).stem)[:100]
    return f"{stem}-{image.id}.png"


def write_rationale(workspace: Workspace, run: Run, path: Path) -> int:
    """Write the visual rationale of a run as one HTML file; return the number of its images.

    Raises:
        FileExistsError: the file exists.
    """
    found = [
        row["rationale"] for row in results(workspace, run.id, ["rationale"]) if row["rationale"]
    ]
    asked = run.config["asked"]
    title = f"{asked['name'] or 'program'}, run {run.id}"
    with path.open("x", encoding="utf-8") as file:
        file.write(page(title, asked["program"], found))
    return len(found)


def result_rows(workspace: Workspace, run: Run) -> Iterator[dict[str, Any]]:
    """Yield what a run found, by image: `file_name`, `image_id`, `selected`, `answer`, `masks` by
    name, `error`; of pairs also `right`, the file name of the second image."""
    columns = ["image_id", "right_id", "selected", "answer", "mask_ids", "names", "error"]
    for part in batches(results(workspace, run.id, columns), IMAGES_AT_ONCE):
        ids = {one for row in part for one in (row["image_id"], row["right_id"])} - {None}
        names = {one.id: one.file_name for one in workspace.catalog.images.get_many(sorted(ids))}
        for row in part:
            found = {
                "image_id": row["image_id"],
                "file_name": names.get(row["image_id"]),
                "selected": row["selected"],
                "answer": None if row["answer"] is None else json.loads(row["answer"]),
                "masks": dict(zip(row["mask_ids"] or (), row["names"] or (), strict=True)),
                "error": row["error"],
            }
            with suppress(KeyError):
                found["right"] = names[row["right_id"]]
            yield found
