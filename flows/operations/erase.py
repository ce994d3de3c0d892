"""Erases images, a dataset or a person's name, everywhere and permanently."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flows.workspace.workspace import Workspace
    from storage.erasures import Erasure


def concerned(workspace: Workspace, erasure: Erasure) -> dict[str, Any]:
    """What an erasure affects: `kind`, `name`, `images`, `masks`, `runs`, `releases` (withdrawn, or
    deleted with their dataset), and `models`, which were trained on versions of the mask table that
    lose rows, and are kept."""
    from storage.catalog.states import ModelKind
    from storage.erasing import count_rows

    work = erasure.work
    trained = [
        model.version
        for kind in ModelKind
        for model in workspace.catalog.models.all(kind)
        if model.table_version is not None
    ]
    return {
        "kind": str(erasure.kind),
        "name": work.name,
        "images": len(work.image_ids),
        "masks": count_rows(workspace.objects, erasure),
        "runs": len(work.runs),
        "releases": sorted(work.releases),
        "models": trained,
    }


def check_idle(workspace: Workspace, erasure: Erasure) -> None:
    """Check that nobody works on the images, who would submit masks of them afterwards.

    Raises:
        BusyError: a process or an annotator holds a lease on them.
    """
    from storage.catalog.erasing import busy_with
    from storage.catalog.states import ErasureKind
    from storage.erasures import BusyError

    work = erasure.work
    if work.dataset_id is None:
        return
    ids = None if erasure.kind == ErasureKind.DATASET else work.image_ids
    held = busy_with(workspace.catalog, dataset_id=work.dataset_id, image_ids=ids)
    if held:
        raise BusyError(
            f"in use by {', '.join(held[:5])}; wait, or stop the page and the workers until their "
            "leases expire"
        )


def erase(workspace: Workspace, erasure: Erasure) -> dict[str, Any]:
    """Carry out an erasure; an interrupted one resumes.

    Returns:
        `id`, `kind`, `files_rewritten` and `files_deleted` (of the mask tables), `objects`
        (deleted), `loose` (rewritten files outside the tables), `unreadable_versions` of the
        mask table that releases or models pin, and `backups` (deleted backups of this workspace).

    Raises:
        BusyError: the images are in use; nothing was changed.
        StorageError, CatalogError: the store or the catalog does not answer; repeat it.
    """
    from flows.workspace import progress
    from storage import erasing, erasures, layout
    from storage.catalog.erasing import rename_results, shrink
    from storage.rewriting import unreadable_versions
    from storage.sweep import pinned_versions

    check_idle(workspace, erasure)
    catalog, store = workspace.catalog, workspace.objects
    pinned = pinned_versions(catalog)
    erasure = erasures.begin(catalog, store, erasure)
    with progress.current().track("erase", 6, "step") as advance:
        shared = _shared_keys(workspace, erasure)
        _forget(workspace, erasure)
        advance()
        files = erasing.erase_rows(store, erasure)
        advance()
        renamed = erasing.erase_loose(store, erasure)
        rename_results(catalog, renamed)
        erasing.drop(store, list(renamed))
        advance()
        keys = list(erasing.objects_of(store, erasure, shared))
        erasing.drop(store, keys)
        advance()
        backups = _drop_local(workspace)
        advance()
        erasures.finish(catalog, erasure.id)
        shrink(catalog.engine)
        advance()
    catalog.audit.add("erased", str(erasure.kind), erasure=erasure.id)
    return {
        "id": erasure.id,
        "kind": str(erasure.kind),
        **files,
        "loose": len(renamed),
        "objects": len(keys),
        "unreadable_versions": unreadable_versions(store, layout.MASKS, pinned),
        "backups": backups,
    }


def erase_pending(workspace: Workspace) -> list[dict[str, Any]]:
    """Finish interrupted erasures, and repeat those that a restored backup has undone."""
    from storage import erasures

    catalog, store = workspace.catalog, workspace.objects
    return [
        erase(workspace, erasures.load(catalog, store, erasure_id))
        for erasure_id in erasures.pending(catalog, store)
    ]


def _forget(workspace: Workspace, erasure: Erasure) -> None:
    """Delete the rows in the catalog, or replace the name in them."""
    from storage.catalog import erasing
    from storage.catalog.states import ErasureKind

    work, catalog = erasure.work, workspace.catalog
    if work.annotator_id is not None:
        erasing.forget_person(catalog, work.annotator_id, work.name, work.pseudonym)
    elif work.dataset_id is not None and erasure.kind == ErasureKind.DATASET:
        erasing.forget_dataset(catalog, work.dataset_id, work.name)
    elif work.image_ids:
        erasing.forget_images(catalog, work.image_ids, list(work.releases), work.words)


def _shared_keys(workspace: Workspace, erasure: Erasure) -> set[str]:
    """Keys of objects that images of other datasets use too."""
    from sqlalchemy import select

    from storage.catalog.tables import ImageRow

    shared = set[str]()
    mine = set(erasure.work.image_ids)
    with workspace.catalog.reading() as session:
        for key in erasure.work.keys:
            ids = session.scalars(select(ImageRow.id).where(ImageRow.key == key))
            if set(ids) - mine:
                shared.add(key)
    return shared


def _drop_local(workspace: Workspace) -> int:
    """Delete copies of earlier states on this machine: backups made before upgrades, logs of
    finished commands, vectors, suggesters, trained CLIPs and releases. Returns the number of
    backups."""
    backups = list(workspace.backups.glob("before-upgrade-*.backup"))
    for path in backups:
        path.unlink(missing_ok=True)
    for folder in ("vectors", "suggesters", "clips", "releases"):
        shutil.rmtree(workspace.cache / folder, ignore_errors=True)
    for ended in (workspace.cache / "jobs").glob("*/ended.json"):
        shutil.rmtree(ended.parent)
    return len(backups)
