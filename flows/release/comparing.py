"""`dataengine release diff`: two releases of a dataset, compared."""

from __future__ import annotations

from typing import Any

from engine.core.errors import DataEngineError
from flows.release.freeze import needed_files
from flows.workspace import progress
from flows.workspace.workspace import Workspace
from storage.release_diff import compare


class NotComparableError(DataEngineError):
    """The releases are of different datasets, whose image ids have nothing in common."""


def compared(workspace: Workspace, first: str, second: str) -> dict[str, Any]:
    """Compare two releases of a dataset; memory does not grow with their size.

    Returns:
        `first`, `second`, `dataset`, and the result of `Diff.as_json`.

    Raises:
        NotFoundError: no such release.
        NotComparableError: they are of different datasets.
        ReleaseFileError: one has no files to compare, or damaged ones.
    """
    both = [workspace.catalog.releases.get(name) for name in (first, second)]
    if both[0].dataset_id != both[1].dataset_id:
        raise NotComparableError(
            f"{first!r} and {second!r} are of different datasets; compare releases of one"
        )
    files = [needed_files(workspace, release) for release in both]
    total = max(one.images().num_rows for one in files)
    with progress.current().track("compare", total, "image") as advance:
        found = compare(*files, on_images=advance)
    dataset = workspace.catalog.datasets.get_by_id(both[0].dataset_id).name
    return {"first": first, "second": second, "dataset": dataset, **found.as_json()}
