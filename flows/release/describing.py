"""`dataengine stats`: reads a release's figures, as they were when it was made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from flows.release.freeze import needed_files
from flows.release.release import REPORT_FILE, NothingToReleaseError
from flows.workspace.workspace import Workspace
from storage.outputs import OutputFolder
from storage.release_files import STATS_FILE, ReleaseFileError


def latest_release(workspace: Workspace, dataset: str | None) -> str:
    """Return the name of a dataset's latest release that was not withdrawn; of the only dataset
    with releases if none is named.

    Raises:
        NothingToReleaseError: there is none, or several datasets have releases.
        DatasetNotFoundError: no such dataset.
    """
    datasets = workspace.catalog.datasets
    chosen = datasets.all() if dataset is None else [datasets.get(dataset)]
    found = {
        row.name: release.name
        for row in chosen
        if (release := workspace.catalog.releases.latest(row.id)) is not None
    }
    if len(found) != 1:
        raise NothingToReleaseError(
            f"name a dataset with --dataset; with releases: {', '.join(sorted(found)) or 'none'}"
        )
    return found.popitem()[1]


def release_stats(workspace: Workspace, name: str) -> dict[str, Any]:
    """Return a release's figures, as `description` made them.

    Raises:
        NotFoundError: no such release.
        ReleaseFileError: it is not done, was withdrawn, or its file is damaged.
    """
    files = needed_files(workspace, workspace.catalog.releases.get(name))
    try:
        found: dict[str, Any] = json.loads(files.path(STATS_FILE).read_bytes())
    except ValueError as error:
        raise ReleaseFileError(
            f"{files.key(STATS_FILE)} is not JSON: {error}; `dataengine release verify` checks all "
            "files"
        ) from error
    return found


def write_release_report(workspace: Workspace, name: str, path: Path) -> None:
    """Write a release's report, one self-contained HTML file.

    Raises:
        OutputExistsError: another file has the name; it is unchanged.
        OSError: it cannot be written.
    """
    files = needed_files(workspace, workspace.catalog.releases.get(name))
    content = files.path(REPORT_FILE).read_bytes()
    OutputFolder(path.parent).write(path.name, content, of=name)
