"""Automatic masks as a verifier sees them: with the picture and its embedding."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from engine.core.batches import batches
from engine.core.records import Mask, Source
from engine.verifier.features import Picture
from flows.workspace import progress
from flows.workspace.embeddings import embedding_of
from flows.workspace.workspace import Workspace
from storage.catalog import Dataset, Image
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
