"""Status of each image of a release: shows whether an image without masks has been worked on."""

from __future__ import annotations

from collections.abc import Callable, Collection
from enum import StrEnum
from functools import cache

from engine.core.records import Stage
from flows.workspace.workspace import Workspace
from storage.catalog import Release, RunKind


class Status(StrEnum):
    """Origin of an image's masks. Annotated and generated images can have no masks."""

    ANNOTATED = "annotated"
    """Annotators have completed it, in stage 1 or 2."""
    GENERATED = "generated"
    """Stage 3 has covered it; reviewers may have judged and fixed its masks."""
    NEITHER = "neither"


StatusOf = Callable[[int, Collection[str]], Status]
"""Returns the status from an image id and the stages of the image's masks that are not rejected."""


def image_statuses(workspace: Workspace, begun: Release) -> StatusOf:
    """Return the function for a release's images, with the statuses of its start."""
    catalog, dataset = workspace.catalog, begun.dataset_id
    annotated = cache(lambda: catalog.images.annotated_ids(dataset, before=begun.created_at))
    generated = cache(
        lambda: catalog.shards.committed_images(
            dataset, RunKind.FULLY_AUTOMATIC, table_version=begun.table_version
        )
    )

    def status_of(image_id: int, stages: Collection[str]) -> Status:
        if set(stages) - {Stage.FULLY_AUTOMATIC} or image_id in annotated():
            return Status.ANNOTATED
        if stages or image_id in generated():
            return Status.GENERATED
        return Status.NEITHER

    return status_of
