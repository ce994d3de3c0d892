"""Ingests a folder of images, with optional COCO annotations, into object store and catalog.

Files are stored byte for byte under their SHA-256, so equal files are stored once, with the
annotations of all their names. An unusable image is quarantined with the reason, and the ingest
continues. Whatever else is skipped is counted.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

import numpy as np
from prefect import flow

from engine.core import rle as rle_codec
from engine.core.batches import batches
from engine.core.records import Mask, Provenance, Source, Stage
from engine.core.rle import RLE
from flows.data.inputs import NAMED, NOT_NAMED, Input, scan_folder
from flows.data.near_duplicates import NearDuplicates
from flows.workspace import costs, progress
from flows.workspace.retry import retry_during_outage
from flows.workspace.run_lock import tracked_run
from flows.workspace.workspace import Workspace, code_version, open_workspace
from storage import layout
from storage.catalog import NewImage, RunKind, Split, new_id
from storage.formats.coco import CocoDataset
from storage.formats.coco_annotations import Conventions, Crowds, Picture
from storage.formats.folders import as_text
from storage.formats.frames import Frame
from storage.formats.images import FLAT, BadImageError, ImageInfo, inspect_image

PAGES = "files with further pages or frames (the first is used)"
KEPT = "images that have other annotations already (--replace-annotations takes the new ones)"
BATCH = 100
"""Images added to the catalog at once."""

MAX_FILE_BYTES = 1 << 30


@dataclass(slots=True)
class IngestReport:
    """Counts of an ingest. problems: quarantined files, suspicious images, and skipped or
    suspicious annotations, with reasons. passed_over: everything skipped, as `PassedOver.rows`."""

    files: int = 0
    added: int = 0
    known: int = 0
    quarantined: int = 0
    masks: int = 0
    replaced: int = 0
    """Images whose annotations of an earlier ingest were replaced."""
    bytes: int = 0
    """Bytes of the usable image files."""
    near_duplicates: int = 0
    """Images that nearly repeat another one of the dataset; found by this ingest."""
    near_pairs: list[dict[str, str]] = field(default_factory=list)
    """`name` and `other` of the first of them."""
    problems: list[str] = field(default_factory=list)
    passed_over: list[dict[str, Any]] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@flow(name="ingest")
def ingest(
    workspace: str,
    dataset: str,
    folder: str,
    coco: str | None = None,
    held_out: float | None = None,
    crowds: str = "auto",
    frame: str = "auto",
    replace_annotations: bool = False,
) -> dict[str, Any]:
    """Prefect flow around `ingest_folder`; takes paths as `path_as_parameter` returns them."""
    report = ingest_folder(
        open_workspace(workspace),
        dataset,
        _path_of(folder),
        _path_of(coco) if coco else None,
        held_out=held_out,
        conventions=Conventions(Crowds(crowds), Frame(frame)),
        replace_annotations=replace_annotations,
    )
    return report.as_dict()


def path_as_parameter(path: Path) -> str:
    """Return the path as text that Prefect can store: a `file://` URL if it is not UTF-8."""
    whole = path.resolve()
    return str(whole) if as_text(whole) == whole.as_posix() else whole.as_uri()


def _path_of(parameter: str) -> Path:
    if parameter.startswith("file://"):
        return Path(os.fsdecode(unquote_to_bytes(parameter.removeprefix("file://"))))
    return Path(parameter)


def ingest_folder(
    workspace: Workspace,
    dataset: str,
    folder: Path,
    coco: Path | None = None,
    *,
    held_out: float | None = None,
    conventions: Conventions | None = None,
    replace_annotations: bool = False,
) -> IngestReport:
    """Add a folder's images to a dataset; a repeated ingest adds only new ones.

    Args:
        workspace: the workspace.
        dataset: name of the dataset; created if missing.
        folder: searched recursively.
        coco: instance annotations, stored as the images' ground truth.
        held_out: share of the images that is never trained on; None: the workspace's setting.
        conventions: how to read what COCO leaves to the tool that wrote the annotations.
        replace_annotations: replace an image's annotations from an earlier ingest, which stay in
            the table's history.

    Raises:
        NotADirectoryError: the folder does not exist.
        BadAnnotationsError: the COCO file is invalid.
    """
    found = scan_folder(folder, coco, conventions)
    row = workspace.catalog.datasets.get_or_create(dataset)
    run = workspace.catalog.runs.start(
        new_id(),
        RunKind.INGEST,
        dataset_id=row.id,
        config={"folder": as_text(folder.resolve()), "coco": as_text(coco) if coco else None},
        code_version=code_version(),
    )
    share = workspace.settings.held_out if held_out is None else held_out
    work = _Ingest(workspace, dataset, row.id, run.id, share, found)
    report = work.report
    with tracked_run(workspace, run.id), costs.spending(workspace, run.id):
        work.images()
        if found.truth is not None:
            work.annotations(found.truth, replace=replace_annotations)
        report.passed_over = found.passed_over.rows()
        figures = {**report.as_dict(), "problems": len(report.problems)}
        workspace.catalog.runs.finish(run.id, figures)
    return report


@dataclass(frozen=True, slots=True)
class _Named:
    """An ingested image file under one of its names."""

    row: NewImage
    picture: Picture


class _Ingest:
    """One ingest: images first, then annotations, because an image can have several names."""

    def __init__(
        self,
        workspace: Workspace,
        dataset: str,
        dataset_id: int,
        run_id: str,
        held_out: float,
        found: Input,
    ) -> None:
        self.workspace, self.dataset, self.dataset_id = workspace, dataset, dataset_id
        self.run_id, self.held_out, self.found = run_id, held_out, found
        self.report = IngestReport(files=len(found.files))
        self.outage_seconds = workspace.settings.outage_seconds
        self.near = NearDuplicates(workspace, dataset_id)
        self.named: dict[int, list[_Named]] = {}
        """Image id -> its files; empty without annotations."""

    def images(self) -> None:
        """Add the images, and quarantine unreadable files."""
        for name in self.found.unreadable:
            self._quarantine(name, "the folder cannot be read: fix permissions and ingest again")
        files = zip(self.found.files, self.found.names, strict=True)
        with progress.current().track("ingest", len(self.found.files), "image") as advance:
            for group in batches(files, BATCH):
                self._add_images(group, advance)
        self.report.near_duplicates = len(self.near.found)
        self.report.near_pairs = [asdict(pair) for pair in self.near.found[:NAMED]]

    def annotations(self, truth: CocoDataset, *, replace: bool) -> None:
        """Add the annotations of these images."""
        for problem in truth.problems:
            self.report.problems.append(str(problem))
        for shard, ids in enumerate(batches(self.named, BATCH)):
            given = {i: rles for i in ids if (rles := self._find_masks(truth, i)) is not None}
            masks = self._new_truth(given, shard, replace=replace)
            if masks:
                commit = partial(self.workspace.truths.commit, masks, run_id=self.run_id)
                retry_during_outage(self.outage_seconds, partial(commit, shard=shard))
        for name in self.found.without_file():
            self.report.problems.append(f"{name}: annotated, but not on disk")

    def _add_images(self, group: Sequence[tuple[Path, str]], advance: Callable[..., None]) -> None:
        rows: list[NewImage] = []
        pictures: list[Picture] = []
        thumbnails: list[np.ndarray | None] = []
        for path, name in group:
            try:
                row, info = self._store(path, name)
            except (BadImageError, OSError) as error:
                self._quarantine(name, _reason(error))
            else:
                rows.append(row)
                pictures.append(Picture((info.height, info.width), info.orientation))
                thumbnails.append(info.thumbnail_HWC)
            advance()
        rows = self.near.place(rows, thumbnails)
        images = self.workspace.catalog.images
        added = retry_during_outage(
            self.outage_seconds, lambda: images.add_many(self.dataset_id, rows)
        )
        self.report.added += added.new
        self.report.known += len(rows) - added.new
        if self.found.truth is not None:
            for image_id, row, picture in zip(added.ids, rows, pictures, strict=True):
                self.named.setdefault(image_id, []).append(_Named(row, picture))

    def _quarantine(self, name: str, reason: str) -> None:
        self.workspace.catalog.quarantine.add(self.dataset_id, name, reason, stage="ingest")
        self.report.quarantined += 1
        self.report.problems.append(f"{name}: quarantined, {reason}")

    def _store(self, path: Path, name: str) -> tuple[NewImage, ImageInfo]:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise BadImageError(f"the file is larger than {MAX_FILE_BYTES >> 20} MiB")
        data = path.read_bytes()
        info = inspect_image(data, max_pixels=self.workspace.settings.max_pixels)
        if info.is_flat:
            self.report.problems.append(f"{name}: {FLAT}")
        digest = hashlib.sha256(data).hexdigest()
        key = layout.image_key(digest, info.extension)
        retry_during_outage(self.outage_seconds, lambda: self.workspace.objects.put(key, data))
        self.report.bytes += len(data)
        if info.pages > 1:
            self.found.passed_over.add(PAGES, f"{name} ({info.pages - 1} of {info.pages})")
        row = NewImage(
            sha256=digest,
            key=key,
            file_name=name,
            height=info.height,
            width=info.width,
            split=split_of(digest, self.held_out),
            run_id=self.run_id,
        )
        return row, info

    def _find_masks(self, truth: CocoDataset, image_id: int) -> list[RLE] | None:
        """Return the distinct masks that the COCO file has for an image under all its names; None
        if no name is listed with usable annotations."""
        masks: list[RLE] = []
        usable = False
        for item in self.named[image_id]:
            name = item.row.file_name
            found = truth.find(name, item.picture, item.row.sha256)
            self.report.problems += [f"{name}: {problem}" for problem in found.problems]
            self.found.passed_over.add_all(name, found.problems)
            if not found.named and not found.problems:
                self.found.passed_over.add(NOT_NAMED, name)
            usable = usable or bool(found.masks) or (found.named and not found.problems)
            known = set(masks)
            masks += [mask for mask in found.masks if mask not in known]
        return masks if usable else None

    def _new_truth(self, given: dict[int, list[RLE]], shard: int, *, replace: bool) -> list[Mask]:
        """Return the rows that give these images the given true masks. Images with other masks
        keep them unless `replace` is on."""
        existing: dict[int, list[Mask]] = {}
        if given:
            for mask in self.workspace.truths.masks(image_ids=list(given), current_only=True):
                if mask.area > 0:
                    existing.setdefault(mask.image_id, []).append(mask)
        masks: list[Mask] = []
        for image_id, rles in given.items():
            before = existing.get(image_id, [])
            old, new = {mask.rle for mask in before}, set(rles)
            if before and old != new and not replace:
                self._report_kept(image_id, before, rles)
            elif before and old != new:
                self.report.replaced += 1
                gone = [mask for mask in before if mask.rle not in new]
                fresh = [rle for rle in rles if rle not in old]
                masks += self._masks(image_id, shard, fresh, gone)
                self.report.masks += len(fresh)
            elif not before:
                masks += self._masks(image_id, shard, rles, [])
                self.report.masks += len(rles)
        return masks

    def _masks(
        self, image_id: int, shard: int, fresh: Sequence[RLE], gone: Sequence[Mask]
    ) -> list[Mask]:
        """New masks that supersede those of `gone` one by one; empty masks supersede the rest."""
        masks, origin = [], imported(self.dataset, self.run_id, shard)
        for number, (rle, old) in enumerate(zip_longest(fresh, gone)):
            if rle is None:
                rle = rle_codec.empty(old.rle.size)
            supersedes = old.mask_id if old else None
            masks.append(origin.mask(image_id, number, rle, supersedes=supersedes))
        return masks

    def _report_kept(self, image_id: int, before: Sequence[Mask], rles: Sequence[RLE]) -> None:
        name = self.named[image_id][0].row.file_name
        text = f"has {len(before)} annotations already; {len(rles)} other ones are skipped"
        self.report.problems.append(f"{name}: {text} (--replace-annotations takes the new ones)")
        self.found.passed_over.add(KEPT, name)


def _reason(error: Exception) -> str:
    """The message of an error, for an OSError without the path: the name is printed before it."""
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)


def imported(dataset: str, run_id: str, shard: int = 0) -> Provenance:
    """Provenance of masks that are ingested with their images."""
    return Provenance(
        dataset=dataset,
        stage=Stage.GROUND_TRUTH,
        run_id=run_id,
        shard=shard,
        source=Source.IMPORTED,
    )


def split_of(sha256: str, held_out: float) -> Split:
    """Return the split, from the content alone, so that it never changes. Only near-duplicates get
    that of the image they repeat."""
    return Split.HELD_OUT if int(sha256[:8], 16) / 0x1_0000_0000 < held_out else Split.TRAIN
