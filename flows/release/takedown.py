"""Takes images out of everything: `dataengine release takedown`.

An erasure (`flows.operations.erase`) deletes the images with all that was made of them, and
withdraws the releases that hold them. Before it, each of these releases gets a successor: the same
files without the images, with a tombstone for each. Model versions that were trained on the images
are marked on their cards, and so are those trained further from them. A killed takedown is repeated
with the same command.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from flows.operations.erase import check_idle, concerned, erase
from flows.release.build import failing, write_release
from flows.release.freeze import MANIFEST_KEY, Content, KeptNames, needed_files
from flows.release.image_status import Status
from flows.release.privacy import BlurredImage
from flows.release.rules import Options
from flows.release.selection import PAGE, Chosen
from flows.workspace.run_lock import named_lock, release_lock
from flows.workspace.workspace import Workspace
from storage import layout
from storage.catalog import Dataset, Image, Model, Release, ReleaseState, RunKind, Split, new_id
from storage.erasures import Erasure
from storage.release_files import ReleaseFiles
from storage.rewriting import unreadable_versions

MARK = "taken_down"
"""Entry of a model's card."""
TRAININGS = (RunKind.RETRAIN, RunKind.TRAIN_DETECTOR, RunKind.TRAIN_VERIFIER)


def plan(workspace: Workspace, erasure: Erasure) -> dict[str, Any]:
    """Return what a takedown changes: as `concerned`, with `successors` by the names of the
    releases that hold the images, and `models`, only those trained on them."""
    successors = _successors(workspace, erasure)
    told = concerned(workspace, _sparing(erasure, successors))
    return {**told, "successors": successors, "models": sorted(trained_on(workspace, erasure))}


def take_down(workspace: Workspace, dataset: Dataset, erasure: Erasure) -> dict[str, Any]:
    """Replace the releases that hold the images, mark models, and erase the images.

    Returns:
        `successors` and `models` as `plan`, and `erased`, the result of `erase`.

    Raises:
        BusyError: the images are in use; nothing was changed.
        ReleaseFileError: a release to replace is damaged; no image was erased.
        StorageError, CatalogError: the store or the catalog does not answer; repeat it.
    """
    check_idle(workspace, erasure)
    successors, trained = _successors(workspace, erasure), trained_on(workspace, erasure)
    for old, new in successors.items():
        _succeed(workspace, dataset, workspace.catalog.releases.get(old), new, erasure)
    at = workspace.catalog.now().isoformat(timespec="seconds")
    for version, how in trained.items():
        marks = workspace.catalog.models.get(version).card.get(MARK, [])
        if all(one["erasure"] != erasure.id for one in marks):
            mark = {"erasure": erasure.id, "images": len(erasure.work.image_ids), "how": how}
            workspace.catalog.models.describe(version, {MARK: [*marks, {**mark, "at": at}]})
    done = erase(workspace, _sparing(erasure, successors))
    return {"successors": successors, "models": sorted(trained), "erased": done}


def trained_on(workspace: Workspace, erasure: Erasure) -> dict[str, str]:
    """Return the model versions that learned from the images: `trained`, or `parent` if only one
    that they were trained further from was. A version whose masks cannot be read counts."""
    catalog, work = workspace.catalog, erasure.work
    images = catalog.images.get_many(work.image_ids)
    used = [image.id for image in images if image.split == Split.TRAIN]
    if not used or work.dataset_id is None:
        return {}
    versions = {
        str(version)
        for kind in TRAININGS
        for run in catalog.runs.all(dataset_id=work.dataset_id, kind=kind, limit=10_000)
        for version in (run.metrics.get("version"), run.config.get("detector"))
        if version is not None
    }
    models = {model.version: model for model in catalog.models.all(None)}
    found = {
        version: "trained"
        for version in versions & models.keys()
        if _saw(workspace, models[version], used)
    }
    return found | {
        model.version: "parent"
        for model in models.values()
        if model.version not in found and _descends(model, models, found)
    }


def _saw(workspace: Workspace, model: Model, image_ids: list[int]) -> bool:
    """Whether the version of the mask table that a model was trained on has masks of the images."""
    if model.table_version is None:
        return False
    version = model.table_version
    if unreadable_versions(workspace.objects, layout.MASKS, [version]):
        return True  # an earlier erasure deleted files of it
    return bool(workspace.masks.counts(("image_id",), version=version, image_ids=image_ids))


def _descends(model: Model, models: dict[str, Model], trained: Collection[str]) -> bool:
    seen = set[str]()
    parent = model.parent
    while parent is not None and parent not in seen:
        if parent in trained:
            return True
        seen.add(parent)
        parent = models[parent].parent if parent in models else None
    return False


def _successors(workspace: Workspace, erasure: Erasure) -> dict[str, str]:
    """Return the names of the successors by those of the releases that hold the images."""
    held = [workspace.catalog.releases.get(name) for name in erasure.work.releases]
    return {  # in order of time, so that the latest release's successor is the latest
        release.name: _successor_name(workspace, release, erasure)
        for release in sorted(held, key=lambda one: (one.created_at, one.name))
        if _can_succeed(release)
    }


def _sparing(erasure: Erasure, successors: dict[str, str]) -> Erasure:
    """Return the erasure without the successors, which an interrupted takedown may have begun."""
    held = erasure.work.releases.items()
    left = {name: key for name, key in held if name not in successors.values()}
    return replace(erasure, work=replace(erasure.work, releases=left))


def _can_succeed(release: Release) -> bool:
    """Whether a release has files to make a successor of."""
    has_files = release.state == ReleaseState.DONE and "erased" not in release.card
    return has_files and MANIFEST_KEY in release.card


def _successor_name(workspace: Workspace, release: Release, erasure: Erasure) -> str:
    """Return the name of the successor: the one of an interrupted takedown, else a new one."""
    known = {row.name: row for row in workspace.catalog.releases.all(release.dataset_id)}
    for row in known.values():
        began = row.card.get("takedown", {})
        if began.get("supersedes") == release.name and began.get("images") == _ids(erasure):
            return row.name
        told = {one["image_id"] for one in row.card.get("tombstones") or []}
        if row.card.get("supersedes") == release.name and told >= set(_ids(erasure)):
            return row.name
    stem = re.sub(r"-r\d+$", "", release.name)
    number = 2
    while f"{stem}-r{number}" in known:
        number += 1
    return f"{stem}-r{number}"


def _ids(erasure: Erasure) -> list[int]:
    return sorted(erasure.work.image_ids)


def _succeed(
    workspace: Workspace, dataset: Dataset, old: Release, name: str, erasure: Erasure
) -> None:
    """Make the successor of a release, unless it is made."""
    files, releases = needed_files(workspace, old), workspace.catalog.releases
    takedown = {"supersedes": old.name, "images": _ids(erasure)}
    options = Options.from_json(old.card.get("options", {}))
    with named_lock(workspace, release_lock(name)):
        begun = releases.start(
            name,
            dataset_id=dataset.id,
            table_version=old.table_version,
            key=layout.RELEASE.folder(name=name),
            label_id=old.label_id,
            categories_version=old.categories_version,
            options={"options": options.as_json(), "takedown": takedown},
        )
        if begun.state == ReleaseState.DONE:
            return
        with failing(workspace, name), tempfile.TemporaryDirectory(prefix="dataengine-") as folder:
            content = _rest(workspace, old, files, set(erasure.work.image_ids))
            key = layout.inside(begun.key, new_id())
            card = write_release(workspace, dataset, begun, options, content, key, Path(folder))
            releases.finish(name, card, key=key)


def _rest(workspace: Workspace, old: Release, files: ReleaseFiles, gone: set[int]) -> Content:
    """Return what is left of a release without some images."""
    at = workspace.catalog.now().isoformat(timespec="seconds")
    tombstones = list(files.manifest.tombstones)
    for row in files.images().select(["image_id", "masks"]).to_pylist():
        if row["image_id"] in gone:
            tombstones.append({"image_id": row["image_id"], "masks": row["masks"], "at": at})
    copies = None
    if files.manifest.privacy is not None:
        copies = _KeptCopies(files, files.manifest.privacy)
    return Content(
        names=KeptNames(),
        chosen=_without(workspace, files, gone),
        pictures=copies,
        supersedes=old.name,
        tombstones=tombstones,
    )


def _without(workspace: Workspace, files: ReleaseFiles, gone: set[int]) -> Iterator[Chosen]:
    images = files.images()
    images = images.filter(
        pc.invert(pc.is_in(images.column("image_id"), pa.array(gone, pa.int64())))
    )
    for start in range(0, images.num_rows, PAGE):
        rows = images.slice(start, PAGE).to_pylist()
        ids = [row["image_id"] for row in rows]
        known = workspace.catalog.images.get_many(ids)
        named = [
            replace(image, file_name=row["file_name"])
            for image, row in zip(known, rows, strict=True)
        ]
        masks = files.masks(first=ids[0], last=ids[-1])
        masks = masks.filter(pc.is_in(masks.column("image_id"), pa.array(ids, pa.int64())))
        yield Chosen(named, [Status(row["status"]) for row in rows], masks)


class _KeptCopies:
    """The blurred images of a release, for its successor."""

    def __init__(self, files: ReleaseFiles, privacy: dict[str, Any]) -> None:
        self._files, self._privacy = files, privacy
        self._sums = {one.name: one.sha256 for one in files.manifest.files}

    def blur(self, image: Image, folder: Path) -> BlurredImage | None:
        """Copy an image's blurred file, if it has one."""
        name = f"blurred-{image.id}.jpg"
        if name not in self._sums:
            return None
        shutil.copyfile(self._files.path(name), folder / name)
        return BlurredImage(name, self._sums[name])

    def result(self) -> dict[str, Any]:
        """What was done for the first release."""
        return self._privacy
