"""`dataengine release list`, `show` and `verify`."""

from __future__ import annotations

import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from flows.release.freeze import MANIFEST_KEY, needed_files
from flows.workspace import progress
from flows.workspace.workspace import Workspace
from storage.catalog import Dataset, Release
from storage.release_check import SAMPLE, check_files
from storage.release_files import MANIFEST_FILE, ReleaseFileError


def release_rows(workspace: Workspace, dataset: str | None = None) -> list[dict[str, Any]]:
    """Return a row per release, newest first: `name`, `dataset`, `state`, `created_at`, `images`,
    `masks`, `bytes`, `table_version`; `superseded_by` and `withdrawn` after a takedown or an
    erasure.

    Raises:
        DatasetNotFoundError: no such dataset.
    """
    datasets = workspace.catalog.datasets
    chosen = datasets.all() if dataset is None else [datasets.get(dataset)]
    found = [(one, row) for one in chosen for row in workspace.catalog.releases.all(one.id)]
    followers = {row.card.get("supersedes"): row.name for _, row in found}
    rows = [_row(one, row, followers.get(row.name)) for one, row in found]
    return sorted(rows, key=lambda row: str(row["created_at"]), reverse=True)


def _row(dataset: Dataset, release: Release, follower: str | None) -> dict[str, Any]:
    card = release.card
    return {
        "name": release.name,
        "dataset": dataset.name,
        "state": "withdrawn" if "erased" in card else str(release.state),
        "created_at": release.created_at.isoformat(timespec="seconds"),
        "images": card.get("images"),
        "masks": card.get("masks"),
        "bytes": card.get("bytes"),
        "table_version": release.table_version,
        "superseded_by": follower,
    }


def described(workspace: Workspace, name: str) -> dict[str, Any]:
    """Return a release's row of `release_rows` with its card, and its manifest if it has one.

    Raises:
        NotFoundError: no such release.
    """
    release = workspace.catalog.releases.get(name)
    dataset = workspace.catalog.datasets.get_by_id(release.dataset_id)
    (row,) = [one for one in release_rows(workspace, dataset.name) if one["name"] == name]
    manifest = None
    if "erased" not in release.card and MANIFEST_KEY in release.card:
        manifest = asdict(needed_files(workspace, release).manifest)
    return {**row, "card": release.card, "manifest": manifest}


def verified(workspace: Workspace, name: str, sample: int = SAMPLE) -> dict[str, Any]:
    """Check a release's files: sums, schemas, counts, masks by sample, pixels by sample.

    Returns:
        `release`, `ok`, `files` and `masks` checked, and `problems`: `file` and `problem` of each.

    Raises:
        NotFoundError: no such release.
        ReleaseFileError: it is not done, was withdrawn, or is of an older version.
        StorageUnavailableError: the store does not answer.
    """
    release = workspace.catalog.releases.get(name)
    with tempfile.TemporaryDirectory(prefix="dataengine-") as fresh:  # a copy may be older
        try:
            files = needed_files(workspace, release, Path(fresh))
        except ReleaseFileError as error:
            if MANIFEST_KEY not in release.card or "erased" in release.card:
                raise
            bad = {"file": MANIFEST_FILE, "problem": str(error)}
            return {"release": name, "ok": False, "files": 0, "masks": 0, "problems": [bad]}
        total = len(files.manifest.files)
        with progress.current().track("verify", total, "file") as advance:
            problems = check_files(
                files,
                workspace.objects,
                manifest_sha256=release.card[MANIFEST_KEY],
                sample=sample,
                advance=advance,
            )
            found = [asdict(one) for one in problems]
    return {
        "release": name,
        "ok": not found,
        "files": total,
        "masks": files.manifest.counts["masks"],
        "problems": found,
    }
