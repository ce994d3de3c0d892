"""Masks as a verifier sees them: pictures with embeddings, and the features of judged masks."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import numpy as np

from engine.core.batches import batches
from engine.core.records import Mask, Source
from engine.verifier.features import Picture, features
from engine.verifier.learning import Judged
from flows.workspace import progress
from flows.workspace.embeddings import embedding_of
from flows.workspace.workspace import Workspace
from storage.catalog import Dataset, Image, Split, VerdictKind
from storage.formats.images import BadImageError

IMAGES_AT_ONCE = 64
"""Images whose masks are read at once."""


@dataclass(frozen=True, slots=True)
class SeenRun:
    """An image with all automatic masks that one run found in it, superseded ones included."""

    image: Image
    masks: list[Mask]
    picture: Picture


def seen_runs(
    workspace: Workspace, dataset: Dataset, segmenter: str, image_ids: Collection[int]
) -> Iterator[SeenRun]:
    """Yield the automatic masks of these images; images that cannot be read are left out.

    Args:
        segmenter: model version whose embeddings are used: stored ones, else computed ones.
    """
    with progress.current().track("judge masks", len(image_ids), "image") as advance:
        for part in batches(sorted(image_ids), IMAGES_AT_ONCE):
            by_image: dict[int, dict[str, list[Mask]]] = {}
            for mask in workspace.masks.masks(
                dataset=dataset.name, source=Source.AUTOMATIC, image_ids=part
            ):
                if mask.area:
                    runs = by_image.setdefault(mask.image_id, {})
                    runs.setdefault(mask.run_id, []).append(mask)
            for image in workspace.catalog.images.get_many(sorted(by_image)):
                yield from _pictures(workspace, segmenter, image, by_image[image.id])
            advance(len(part))


def _pictures(
    workspace: Workspace, segmenter: str, image: Image, runs: dict[str, list[Mask]]
) -> Iterator[SeenRun]:
    try:
        pixels = workspace.pixels(image)
    except BadImageError:  # the next stage that reads the image quarantines it
        return
    embedding = embedding_of(workspace, segmenter, image, pixels)
    for masks in runs.values():
        yield SeenRun(image, masks, Picture(pixels, embedding, masks))


def judged_by_people(workspace: Workspace, dataset: Dataset, segmenter: str) -> Judged:
    """Return the dataset's automatic masks with a verdict by another annotator than a model."""
    verdicts = {row.mask_id: row for row in workspace.catalog.verdicts.of_people(dataset.id)}
    rows, accepted, images, held_out = [], [], [], []
    for seen in seen_runs(workspace, dataset, segmenter, images_of_masks(verdicts)):
        places = [n for n, mask in enumerate(seen.masks) if mask.mask_id in verdicts]
        if places:
            rows.append(features(seen.picture)[places])
        for place in places:
            verdict = verdicts[seen.masks[place].mask_id].verdict
            accepted.append(verdict == VerdictKind.ACCEPT)
            images.append(seen.image.near_image_id or seen.image.id)
            held_out.append(seen.image.split == Split.HELD_OUT)
    return Judged(
        np.concatenate(rows) if rows else np.zeros((0, 0), np.float32),
        np.array(accepted, bool),
        np.array(images, np.int64),
        np.array(held_out, bool),
    )


def images_of_masks(mask_ids: Collection[str]) -> set[int]:
    """Return the images of judged masks; the id of an automatic mask is RUN/IMAGE/NAME."""
    parts = (mask_id.split("/") for mask_id in mask_ids)
    return {int(part[1]) for part in parts if len(part) > 2 and part[1].isdecimal()}
