"""Ingests a folder of images, with optional COCO annotations, into object store and catalog.

Files are stored byte for byte under their SHA-256, so equal files are stored once, with the
annotations of all their names. An unusable image is quarantined with the reason, and the ingest
continues. Whatever else is skipped is counted.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

import numpy as np
from prefect import flow

from engine.core.batches import batches
from engine.core.categories import CategoryList
from flows.data.annotations import AnnotationIngest, AnnotationsAs, Named, usable_names
from flows.data.inputs import NAMED, IngestReport, Input, scan_folder
from flows.data.near_duplicates import NearDuplicates
from flows.workspace import costs, progress
from flows.workspace.retry import retry_during_outage
from flows.workspace.run_lock import tracked_run
from flows.workspace.workspace import Workspace, code_version, open_workspace
from storage import layout
from storage.catalog import NewImage, RunKind, Split, new_id
from storage.formats.annotation_files import AnnotationFormat
from storage.formats.coco_annotations import Conventions, Crowds, Picture
from storage.formats.folders import as_text
from storage.formats.frames import Frame
from storage.formats.images import FLAT, BadImageError, ImageInfo, inspect_image

PAGES = "files with further pages or frames (the first is used)"
BATCH = 100
"""Images added to the catalog at once."""

MAX_FILE_BYTES = 1 << 30


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
    annotations_as: str = "truth",
    annotation_format: str = "coco",
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
        annotations_as=AnnotationsAs(annotations_as),
        form=AnnotationFormat(annotation_format),
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
    annotations_as: AnnotationsAs = AnnotationsAs.TRUTH,
    form: AnnotationFormat = AnnotationFormat.COCO,
) -> IngestReport:
    """Add a folder's images to a dataset; a repeated ingest adds only new ones.

    Args:
        workspace: the workspace.
        dataset: name of the dataset; created if missing.
        folder: searched recursively.
        coco: annotations, of the format `form`; their categories join those of the dataset.
        held_out: share of the images that is never trained on; None: the workspace's setting.
        conventions: how to read what COCO leaves to the tool that wrote the annotations.
        replace_annotations: replace an image's annotations from an earlier ingest, which stay in
            the table's history.
        annotations_as: what the annotations are; the ground truth of the images by default.
        form: the format of the annotations.

    Raises:
        NotADirectoryError: the folder does not exist.
        BadAnnotationsError: the annotations are invalid.
    """
    found = scan_folder(folder, coco, conventions, form)
    if found.truth is not None:
        usable_names(found.truth, _categories(workspace, dataset))
    row = workspace.catalog.datasets.get_or_create(dataset)
    run = workspace.catalog.runs.start(
        new_id(),
        RunKind.INGEST,
        dataset_id=row.id,
        config={
            "folder": as_text(folder.resolve()),
            "coco": as_text(coco) if coco else None,
            "annotations_as": str(annotations_as),
            "annotation_format": str(form),
        },
        code_version=code_version(),
    )
    share = workspace.settings.held_out if held_out is None else held_out
    work = _Ingest(workspace, row.id, run.id, share, found)
    report = work.report
    with tracked_run(workspace, run.id), costs.spending(workspace, run.id):
        work.images()
        if found.truth is not None:
            of_run = (workspace, row, found, found.truth, report)
            annotations = AnnotationIngest(
                *of_run, kind=annotations_as, replace=replace_annotations
            )
            annotations.commit(run.id, work.named)
        report.passed_over = found.passed_over.rows()
        figures = {**report.as_dict(), "problems": len(report.problems)}
        workspace.catalog.runs.finish(run.id, figures)
    return report


def _categories(workspace: Workspace, dataset: str) -> CategoryList:
    """Return the categories of a dataset that may not exist yet."""
    ids = {row.name: row.id for row in workspace.catalog.datasets.all()}
    if dataset not in ids:
        return CategoryList()
    return workspace.catalog.categories.current(ids[dataset]).categories


class _Ingest:
    """The images of one ingest."""

    def __init__(
        self,
        workspace: Workspace,
        dataset_id: int,
        run_id: str,
        held_out: float,
        found: Input,
    ) -> None:
        self.workspace, self.dataset_id = workspace, dataset_id
        self.run_id, self.held_out, self.found = run_id, held_out, found
        self.report = IngestReport(files=len(found.files))
        self.outage_seconds = workspace.settings.outage_seconds
        self.near = NearDuplicates(workspace, dataset_id)
        self.named: dict[int, list[Named]] = {}
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
                self.named.setdefault(image_id, []).append(Named(row, picture))

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


def _reason(error: Exception) -> str:
    """The message of an error, for an OSError without the path: the name is printed before it."""
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)


def split_of(sha256: str, held_out: float) -> Split:
    """Return the split, from the content alone, so that it never changes. Only near-duplicates get
    that of the image they repeat."""
    return Split.HELD_OUT if int(sha256[:8], 16) / 0x1_0000_0000 < held_out else Split.TRAIN
