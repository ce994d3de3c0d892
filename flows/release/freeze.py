"""Writes the files that freeze a release: its masks and images as Parquet, and the manifest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from flows.release.image_names import ImageNames
from flows.release.names import ReleasedNames
from flows.release.privacy import BlurredImage
from flows.release.rules import Options
from flows.release.selection import Chosen
from flows.workspace import progress
from flows.workspace.workspace import Workspace, code_version
from storage import layout
from storage.catalog import Image, NotFoundError, Release
from storage.formats.coco_writer import category_entries
from storage.release_files import (
    CATEGORIES_FILE,
    IMAGES_FILE,
    IMAGES_SCHEMA,
    MANIFEST_FILE,
    Manifest,
    MaskFiles,
    MaskFilesWriter,
    ReleaseFileError,
    ReleaseFiles,
    RowsWriter,
    entry_of,
    tree_sum,
)

MANIFEST_KEY = "manifest_sha256"
"""Entry of the card of a release with a manifest: the manifest's SHA-256."""


def stored_files(
    workspace: Workspace, release: Release, cache: Path | None = None
) -> ReleaseFiles | None:
    """Return the files of a finished release; None for one of an older version, without a manifest.

    Args:
        workspace: the workspace.
        release: the release.
        cache: folder for files of an S3 store; None: the workspace's.

    Raises:
        ReleaseFileError: the manifest is missing or damaged.
    """
    if MANIFEST_KEY not in release.card:
        return None
    return ReleaseFiles(workspace.objects, release.key, cache or workspace.cache)


def needed_files(workspace: Workspace, release: Release, cache: Path | None = None) -> ReleaseFiles:
    """Return the files of a release; arguments as in `stored_files`.

    Raises:
        ReleaseFileError: it is not done, was withdrawn, or is of an older version.
    """
    if "erased" in release.card:
        raise ReleaseFileError(
            f"release {release.name!r} was withdrawn: images of it were erased, and its files with "
            "them"
        )
    found = stored_files(workspace, release, cache)
    if found is None:
        why = f"is {release.state}" if not release.card.get("name") else "was made before manifests"
        raise ReleaseFileError(
            f"release {release.name!r} {why}: make another one with `dataengine release create "
            "NAME`"
        )
    return found


class Pictures(Protocol):
    """Copies of images that a release has in place of the originals."""

    def blur(self, image: Image, folder: Path) -> BlurredImage | None:
        """Write an image's copy into the folder; None if it has none."""
        ...

    def result(self) -> dict[str, Any]:
        """How they were made, for the manifest."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Content:
    """What a release is made of."""

    names: ImageNames
    chosen: Iterable[Chosen]
    """Images and masks, in order of image id."""
    pictures: Pictures | None
    """None: the originals are the release's images."""
    supersedes: str | None = None
    """After a takedown: the release of which this is the rest, and what was removed."""
    tombstones: Sequence[dict[str, Any]] = ()

    @property
    def gone(self) -> set[int]:
        """Ids of the removed images."""
        return {int(one["image_id"]) for one in self.tombstones}


def write_frozen(
    content: Content, labels: ReleasedNames, folder: Path, key: str, advance: progress.Advance
) -> MaskFiles:
    """Write masks, images and categories of a release that is being built, and copies of images.

    Args:
        content: of the release.
        labels: its categories.
        folder: to write into.
        key: the folder's key once it is stored.
        advance: called once per image.

    Raises:
        OSError: the disk is full.
    """
    written = [IMAGES_FILE]
    with (
        MaskFilesWriter(folder) as masks,
        RowsWriter(folder / IMAGES_FILE, IMAGES_SCHEMA) as images,
    ):
        for part in content.chosen:
            masks.write(part.rows)
            rows = image_rows(part, content.names)
            if content.pictures is not None:
                for image, row in zip(part.images, rows, strict=True):
                    if found := content.pictures.blur(image, folder):
                        written.append(found.file)
                        row |= {"key": layout.inside(key, found.file), "sha256": found.sha256}
            images.write(pa.Table.from_pylist(rows, IMAGES_SCHEMA))
            advance(len(part.images))
    if labels.categories is not None:
        entries = category_entries(labels.categories, unlabelled=False)
        (folder / CATEGORIES_FILE).write_text(json.dumps({"categories": entries}, indent=1))
        written.append(CATEGORIES_FILE)
    return MaskFiles([*written, *masks.names], folder.joinpath)


def image_rows(part: Chosen, names: ImageNames) -> list[dict[str, Any]]:
    """Return the rows of IMAGES_SCHEMA of some images."""
    counts = part.counts()
    return [
        {
            "image_id": image.id,
            "file_name": names.of(image),
            "sha256": image.sha256,
            "key": image.key,
            "height": image.height,
            "width": image.width,
            "split": str(image.split),
            "status": str(status),
            "near_image_id": image.near_image_id,
            "masks": counts.get(image.id, 0),
        }
        for image, status in zip(part.images, part.statuses, strict=True)
    ]


def put_files(workspace: Workspace, key: str, folder: Path, names: Sequence[str]) -> None:
    """Store local files under a release's key, the manifest last.

    Raises:
        StorageError: the store does not answer or is full; what was stored is swept later.
    """
    ordered = sorted(names, key=lambda name: (name == MANIFEST_FILE, name))
    with progress.current().track("store release", len(ordered), "file") as advance:
        for name in ordered:
            workspace.objects.put_file(layout.inside(key, name), folder / name)
            advance()


def write_manifest(
    workspace: Workspace,
    begun: Release,
    options: Options,
    counts: dict[str, Any],
    content: Content,
    folder: Path,
    names: Iterable[str],
) -> Manifest:
    """Write the manifest of the files `names` of a folder; return it.

    Raises:
        OSError: the disk is full.
    """
    entry = partial(entry_of, folder)
    files = [entry(name) for name in sorted(names)]
    manifest = Manifest(
        name=begun.name,
        dataset=workspace.catalog.datasets.get_by_id(begun.dataset_id).name,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        table_version=begun.table_version,
        label_id=begun.label_id,
        categories_version=begun.categories_version,
        rules=options.rules.as_json(),
        counts=counts,
        models=known_models(workspace, counts["models"]),
        settings=workspace.settings.shaping(),
        code_version=code_version(),
        files=files,
        tree_sha256=tree_sum(files),
        privacy=None if content.pictures is None else content.pictures.result(),
        supersedes=content.supersedes,
        tombstones=list(content.tombstones),
    )
    (folder / MANIFEST_FILE).write_bytes(manifest.to_json())
    return manifest


def manifest_entries(manifest: Manifest) -> dict[str, Any]:
    """What a release's card says of its manifest."""
    return {
        MANIFEST_KEY: hashlib.sha256(manifest.to_json()).hexdigest(),
        "tree_sha256": manifest.tree_sha256,
        "files": len(manifest.files),
        "bytes": sum(one.bytes for one in manifest.files),
        "privacy": manifest.privacy,
        "supersedes": manifest.supersedes,
        "tombstones": manifest.tombstones,
    }


def known_models(workspace: Workspace, versions: Iterable[str]) -> dict[str, Any]:
    """What is known of the model versions that made masks, by version."""
    found: dict[str, Any] = {}
    for version in sorted(versions):
        try:
            model = workspace.catalog.models.get(version)
        except NotFoundError:  # it made masks in another workspace, or was deleted
            found[version] = None
            continue
        found[version] = {
            "kind": str(model.kind),
            "architecture": model.architecture,
            "parent": model.parent,
            "table_version": model.table_version,
            "checkpoint": model.key,
        }
    return found


class KeptNames(ImageNames):
    """The names of images that carry their unique name already, as those of `images_of` do."""

    def __init__(self) -> None:
        """Reads nothing."""

    def of(self, image: Image) -> str:
        return image.file_name
