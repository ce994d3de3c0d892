"""A release: a frozen version of a dataset, with exports, a report and a card.

It pins a version of the mask table and the masks that its rules accept (`flows.release.rules`).
`releases/<name>/<id>/` holds them as Parquet (`storage.release_files`), `instances.json` (COCO),
`sa1b.tar` (one JSON file per image, as SA-1B is published), `report.html`, the dataset card
`README.md` and `manifest.json`, which lists all files with their sums.

It contains for each image the masks that people made or confirmed, then automatic masks that are
not rejected and do not repeat an earlier mask. Exports contain the images that were annotated or
generated, and count the others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
from prefect import flow

from engine.core.errors import DataEngineError
from engine.core.records import Mask
from flows.release.freeze import (
    stored_files,
)
from flows.release.image_status import Status
from flows.release.names import ReleasedNames
from flows.release.rules import Rules
from flows.release.selection import (
    PAGE,
    chosen_masks,
)
from flows.workspace.workspace import Workspace, open_workspace
from storage.catalog import (
    Image,
    NotFoundError,
    Release,
    ReleaseState,
)
from storage.layout import RELEASE_FILES
from storage.masks import from_batch
from storage.release_files import MaskFiles

COCO_FILE, REPORT_FILE, CARD_FILE = "instances.json", "report.html", "release.json"
FILES = RELEASE_FILES


class NothingToReleaseError(DataEngineError):
    """The dataset has no masks. Run the loop or `dataengine generate` first."""


@dataclass(frozen=True, slots=True)
class ReleasedImage:
    """An image and its masks in the release."""

    image: Image
    masks: list[Mask]
    status: Status
    category_ids: dict[str, int] | None = None
    """By mask id; None in a class-agnostic release."""


@flow(name="release")
def release(
    workspace: str, dataset: str, name: str, options: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Prefect flow: freeze the dataset under `name`; return the card. Resumes an unfinished
    release; returns the card of a finished one.

    Args:
        workspace: its folder.
        dataset: name of the dataset.
        name: of the release.
        options: of `Options.as_json`; None: the defaults, or those that it was begun with.

    Raises:
        NothingToReleaseError: the dataset has no masks, or none that the rules accept.
        RulesError: the rules do not fit the dataset, or the release was begun with others.
    """
    from flows.release.build import build_release  # which exports, too

    return build_release(open_workspace(workspace), dataset, name, options)


def is_released(workspace: Workspace, name: str) -> bool:
    """Whether a release of that name is done, so that repeating it changes nothing."""
    try:
        return workspace.catalog.releases.get(name).state == ReleaseState.DONE
    except NotFoundError:
        return False


def released_images(
    workspace: Workspace,
    begun: Release,
    names: ReleasedNames | None = None,
    source: MaskFiles | None = None,
) -> Iterator[ReleasedImage]:
    """Yield the dataset's images with their masks in the release, in order of id, and the masks'
    categories if `names` are given.

    Args:
        workspace: the workspace.
        begun: the release.
        names: its categories.
        source: its files, while it is built. None: those in the store; without a manifest, as in
            releases of older versions, the masks are chosen from the mask table.

    Raises:
        ReleaseFileError: a file is damaged.
    """
    source = source or stored_files(workspace, begun)
    if source is not None:
        yield from _stored_images(workspace, source, names)
        return
    for part in chosen_masks(workspace, begun, Rules(), names or ReleasedNames(workspace, begun)):
        yield from _grouped(part.images, part.statuses, part.rows, names)


def _stored_images(
    workspace: Workspace, source: MaskFiles, names: ReleasedNames | None
) -> Iterator[ReleasedImage]:
    images = source.images()
    for start in range(0, images.num_rows, PAGE):
        rows = images.slice(start, PAGE).to_pylist()
        first, last = rows[0]["image_id"], rows[-1]["image_id"]
        known = workspace.catalog.images.get_many([row["image_id"] for row in rows])
        released = [
            replace(image, **{name: row[name] for name in ("key", "sha256", "file_name")})
            for image, row in zip(known, rows, strict=True)
        ]
        statuses = [Status(row["status"]) for row in rows]
        yield from _grouped(released, statuses, source.masks(first=first, last=last), names)


def _grouped(
    images: Sequence[Image], statuses: Sequence[Status], rows: pa.Table, names: ReleasedNames | None
) -> Iterator[ReleasedImage]:
    """Yield images with their rows of MASKS_SCHEMA as masks."""
    by_image: dict[int, list[Mask]] = {}
    for mask in from_batch(rows):
        by_image.setdefault(mask.image_id, []).append(mask)
    ids: dict[str, int] | None = None
    if names is not None and names.categories is not None:
        columns = (rows.column(name).to_pylist() for name in ("mask_id", "category_id"))
        ids = {mask: number for mask, number in zip(*columns, strict=True) if number is not None}
    for image, status in zip(images, statuses, strict=True):
        yield ReleasedImage(image, by_image.get(image.id, []), status, ids)


def release_to_export(workspace: Workspace, name: str, dataset: str | None) -> Release:
    """Return the release for `dataengine export`: by its name, or a dataset's latest, which is
    created as `<dataset>-1` if the dataset has none.

    Raises:
        NothingToReleaseError: no dataset has masks, or several have and none is named; or images
            of the release were erased.
        CatalogError: the release or dataset does not exist.
    """
    if name != "latest":
        return _check_not_erased(workspace.catalog.releases.get(name))
    if dataset is None:
        named = [str(key[0]) for key in workspace.masks.counts(("dataset",))]
        if len(named) != 1:
            raise NothingToReleaseError(
                f"name a dataset with --dataset; with masks: {', '.join(sorted(named)) or 'none'}"
            )
        dataset = named[0]
    row = workspace.catalog.datasets.get(dataset)
    latest = workspace.catalog.releases.latest(row.id)
    if latest is None:
        release(str(workspace.settings.root), dataset, f"{dataset}-1")
        latest = workspace.catalog.releases.get(f"{dataset}-1")
    return _check_not_erased(latest)


def _check_not_erased(found: Release) -> Release:
    """Return the release unless images of it have been erased."""
    if "erased" in found.card:
        raise NothingToReleaseError(
            f"release {found.name!r} was withdrawn: {found.card['erased']['images']} of its images "
            "were erased; make another one with `dataengine release NAME`"
        )
    return found
