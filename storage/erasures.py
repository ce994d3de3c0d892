"""Records of permanent erasures: images, datasets, and names of people.

An erasure is first recorded, in the catalog with all that it looks for, and in the store, under
`erasures/`, without a name. Its steps can each be repeated, so a killed erasure resumes; `finish`
ends it. The record in the store outlives the catalog: an older backup brings erased data back, and
`pending` finds it.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import or_, select, update

from engine.core.batches import batches
from storage import layout
from storage.catalog.annotators import Annotator
from storage.catalog.database import Catalog
from storage.catalog.datasets import Dataset
from storage.catalog.errors import CatalogError
from storage.catalog.sessions import new_id
from storage.catalog.states import ErasureKind
from storage.catalog.tables import (
    AnnotatorRow,
    DatasetRow,
    ErasureRow,
    ImageAliasRow,
    ImageRow,
    ReleaseRow,
    RunRow,
)
from storage.objects import ObjectStore

BATCH = 500


class BusyError(CatalogError):
    """The data to erase is in use. Nothing was changed: wait, or stop that work."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """What an erasure deletes or renames."""

    dataset_id: int | None = None
    annotator_id: int | None = None
    name: str = ""
    """Of the images' dataset, the erased dataset, or the person."""
    pseudonym: str = ""
    image_ids: list[int] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    """Keys of the images' objects."""
    words: list[str] = field(default_factory=list)
    """The images' file names."""
    runs: list[str] = field(default_factory=list)
    """Ids of the runs of an erased dataset."""
    releases: dict[str, str] = field(default_factory=dict)
    """Keys by name of the releases that contain the images."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Erasure:
    """One erasure. `target` identifies the erased data without names."""

    id: str
    kind: ErasureKind
    target: dict[str, Any]
    work: Work


def of_images(catalog: Catalog, dataset: Dataset, image_ids: Collection[int]) -> Erasure:
    """The erasure of some images of a dataset; ids of other images are ignored."""
    query = select(ImageRow).where(ImageRow.dataset_id == dataset.id)
    with catalog.reading() as session:
        rows: list[ImageRow] = []
        for some in batches(sorted(set(image_ids)), BATCH):
            rows += session.scalars(query.where(ImageRow.id.in_(some)))
        ids = [row.id for row in rows]
        words = {row.file_name for row in rows}
        for some in batches(ids, BATCH):
            names = select(ImageAliasRow.file_name).where(ImageAliasRow.image_id.in_(some))
            words.update(session.scalars(names))
        first = min((row.created_at for row in rows), default=None)
        releases = select(ReleaseRow).where(ReleaseRow.dataset_id == dataset.id)
        held = {
            row.name: row.key
            for row in session.scalars(releases)
            if first is not None and row.created_at >= first and not _lacks(row, ids)
        }
    return Erasure(
        id=new_id(),
        kind=ErasureKind.IMAGES,
        target={"dataset": dataset.id, "images": [[row.id, row.sha256] for row in rows]},
        work=Work(
            dataset_id=dataset.id,
            name=dataset.name,
            image_ids=ids,
            keys=[row.key for row in rows],
            words=sorted(words),
            releases=held,
        ),
    )


def _lacks(release: ReleaseRow, image_ids: Collection[int]) -> bool:
    """Whether a release was made without all of these images, by a takedown."""
    gone = {one["image_id"] for one in release.card.get("tombstones") or []}
    return gone >= set(image_ids)


def of_dataset(catalog: Catalog, dataset: Dataset) -> Erasure:
    """The erasure of a dataset with its images, masks, runs and releases."""
    runs = catalog.values(select(RunRow.id).where(RunRow.dataset_id == dataset.id))
    releases = {release.name: release.key for release in catalog.releases.all(dataset.id)}
    inner = of_images(catalog, dataset, list(catalog.images.ids(dataset.id))).work
    work = {**asdict(inner), "runs": runs, "releases": releases}
    target = {"dataset": dataset.id, "created_at": dataset.created_at.isoformat()}
    return Erasure(id=new_id(), kind=ErasureKind.DATASET, target=target, work=Work(**work))


def of_person(annotator: Annotator) -> Erasure:
    """The erasure of a person's name; their work stays, under a pseudonym."""
    erasure_id = new_id()
    return Erasure(
        id=erasure_id,
        kind=ErasureKind.PERSON,
        target={"annotator": annotator.id, "created_at": annotator.created_at.isoformat()},
        work=_of_person(annotator, erasure_id),
    )


def _of_person(annotator: Annotator, erasure_id: str) -> Work:
    pseudonym = f"erased-{erasure_id[:12]}"
    return Work(annotator_id=annotator.id, name=annotator.name, pseudonym=pseudonym)


def ids_named(catalog: Catalog, dataset_id: int, file_name: str) -> list[int]:
    """Ids of the dataset's images that were ingested under this name."""
    mine = select(ImageRow.id).where(ImageRow.dataset_id == dataset_id)
    other = select(ImageAliasRow.image_id).where(ImageAliasRow.file_name == file_name)
    named = or_(ImageRow.file_name == file_name, ImageRow.id.in_(other))
    return catalog.values(mine.where(named).order_by(ImageRow.id))


def begin(catalog: Catalog, objects: ObjectStore, erasure: Erasure) -> Erasure:
    """Record an erasure. Returns it, or the unfinished one with the same target.

    Raises:
        StorageError, CatalogError: it may be recorded or not; call again.
    """
    for other in unfinished(catalog):
        if (other.kind, other.target) == (erasure.kind, erasure.target):
            erasure = other
    values = {"id": erasure.id, "kind": erasure.kind, "target": erasure.target}
    row = {**values, "work": asdict(erasure.work), "created_at": catalog.now()}
    catalog.insert(ErasureRow, [row])
    objects.put(layout.ERASURE.key(erasure=erasure.id), json.dumps(values, sort_keys=True).encode())
    return erasure


def unfinished(catalog: Catalog) -> list[Erasure]:
    """The unfinished erasures in the catalog, oldest first."""
    query = select(ErasureRow).where(ErasureRow.finished_at.is_(None))
    with catalog.reading() as session:
        return [
            Erasure(id=row.id, kind=row.kind, target=row.target, work=Work(**(row.work or {})))
            for row in session.scalars(query.order_by(ErasureRow.created_at, ErasureRow.id))
        ]


def pending(catalog: Catalog, objects: ObjectStore) -> list[str]:
    """Ids of erasures that this catalog does not have as finished.

    Raises:
        StorageError: the store cannot be listed.
    """
    listed = objects.list(layout.ERASURE.prefix)
    noted = [info.key.removeprefix(layout.ERASURE.prefix) for info in listed]
    done = select(ErasureRow.id).where(ErasureRow.finished_at.is_not(None))
    finished = set(catalog.values(done))
    known = [erasure.id for erasure in unfinished(catalog)]
    return known + [name for name in noted if name not in finished and name not in known]


def load(catalog: Catalog, objects: ObjectStore, erasure_id: str) -> Erasure:
    """The unfinished erasure of this id. If only the store has it, as after an older backup was
    restored, it covers the data that the backup brought back.

    Raises:
        ObjectNotFoundError: no such erasure.
    """
    for erasure in unfinished(catalog):
        if erasure.id == erasure_id:
            return erasure
    noted = json.loads(objects.get(layout.ERASURE.key(erasure=erasure_id)))
    kind, target = ErasureKind(noted["kind"]), noted["target"]
    found = _brought_back(catalog, erasure_id, kind, target)
    return Erasure(id=erasure_id, kind=kind, target=target, work=found)


def _brought_back(
    catalog: Catalog, erasure_id: str, kind: ErasureKind, target: dict[str, Any]
) -> Work:
    """The part of a target that is in the catalog; an id counts if it still means the same."""
    if kind == ErasureKind.PERSON:
        with catalog.reading() as session:
            person = session.get(AnnotatorRow, target["annotator"])
        if person is None or not _same(person.created_at, target):
            return Work()
        return _of_person(catalog.annotators.get(person.id), erasure_id)
    with catalog.reading() as session:
        dataset = session.get(DatasetRow, target["dataset"])
    if dataset is None:
        return Work()
    if kind == ErasureKind.DATASET:
        if not _same(dataset.created_at, target):
            return Work()
        return of_dataset(catalog, catalog.datasets.get_by_id(dataset.id)).work
    ids = []
    with catalog.reading() as session:
        for image_id, digest in target["images"]:
            row = session.get(ImageRow, image_id)
            if row is not None and row.sha256 == digest and row.dataset_id == dataset.id:
                ids.append(image_id)
    if not ids:
        return Work()
    return of_images(catalog, catalog.datasets.get_by_id(dataset.id), ids).work


def _same(created_at: datetime, target: dict[str, Any]) -> bool:
    return created_at == datetime.fromisoformat(target["created_at"])


def finish(catalog: Catalog, erasure_id: str) -> None:
    """Mark an erasure as finished, and delete its work list."""
    done = update(ErasureRow).where(ErasureRow.id == erasure_id)
    catalog.change(done.values(finished_at=catalog.now(), work=None))
