"""Annotations in the files of other tools, read as CocoDatasets: matching of names, checks of sizes
and reports of problems are those of COCO.

A format's reader gives images and, for each on demand, its annotations in COCO's form. A fault of
one annotation becomes its FAULT, with which it is skipped and reported; only files that cannot be
parsed as a whole raise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import StrEnum
from pathlib import Path

from storage.formats import folder_annotations, tool_annotations
from storage.formats.coco import BadAnnotationsError, CocoDataset, read_coco
from storage.formats.coco_annotations import Conventions
from storage.formats.folder_annotations import Found, ImageFiles


class AnnotationFormat(StrEnum):
    """Formats of annotations. AUTO: by the file's name and content."""

    AUTO = "auto"
    COCO = "coco"
    SA1B = "sa1b"
    YOLO = "yolo"
    LABEL_PNG = "label-png"
    CVAT = "cvat"
    LABEL_STUDIO = "label-studio"
    LABELME = "labelme"


_READERS: dict[AnnotationFormat, Callable[[Path, ImageFiles], Found]] = {
    AnnotationFormat.SA1B: folder_annotations.read_sa1b_files,
    AnnotationFormat.YOLO: folder_annotations.read_yolo,
    AnnotationFormat.LABEL_PNG: folder_annotations.read_label_pngs,
    AnnotationFormat.CVAT: tool_annotations.read_cvat,
    AnnotationFormat.LABEL_STUDIO: tool_annotations.read_label_studio,
    AnnotationFormat.LABELME: tool_annotations.read_labelme,
}
_PEEK_BYTES = 1 << 20


def read_annotations(
    path: Path,
    form: AnnotationFormat = AnnotationFormat.AUTO,
    files_on_disk: Iterable[str] = (),
    *,
    folder: Path | None = None,
    conventions: Conventions | None = None,
) -> CocoDataset:
    """The annotations of a file or folder; arguments as of `read_coco`.

    Raises:
        BadAnnotationsError: of another format, or a file cannot be parsed as a whole.
        OSError: a file cannot be read.
    """
    names = list(files_on_disk)
    chosen = detect(path) if form == AnnotationFormat.AUTO else form
    if chosen == AnnotationFormat.COCO:
        return read_coco(path, names, folder=folder, conventions=conventions)
    found = _READERS[chosen](path, ImageFiles(folder, names))
    if not found.images:
        raise BadAnnotationsError(f"{path}: no annotations of format {chosen} in it")
    return CocoDataset(
        found.images,
        found.held,
        names,
        folder=folder,
        conventions=conventions,
        categories=found.categories,
        problems=found.problems,
    )


def detect(path: Path) -> AnnotationFormat:
    """The format of a file or folder.

    Raises:
        BadAnnotationsError: none that is known.
        OSError: it cannot be read.
    """
    found = _of_folder(path) if path.is_dir() else _of_file(path)
    if found is None:
        known = ", ".join(form for form in AnnotationFormat if form != AnnotationFormat.AUTO)
        raise BadAnnotationsError(
            f"{path}: its format is not recognised; name one with --format: {known}"
        )
    return found


def _of_file(path: Path) -> AnnotationFormat | None:
    suffix = path.suffix.lower()
    by_suffix = {
        ".xml": AnnotationFormat.CVAT,
        ".yaml": AnnotationFormat.YOLO,
        ".yml": AnnotationFormat.YOLO,
        ".tar": AnnotationFormat.SA1B,
    }
    if suffix in by_suffix:
        return by_suffix[suffix]
    with path.open("rb") as file:
        start = file.read(_PEEK_BYTES).decode("utf-8", "replace").lstrip("\ufeff \t\r\n")
    if start.startswith("["):
        return AnnotationFormat.LABEL_STUDIO
    if '"shapes"' in start and '"imagePath"' in start:
        return AnnotationFormat.LABELME
    if start.replace(" ", "").replace("\n", "").startswith(('{"image":{', '{"annotations":[{"seg')):
        return AnnotationFormat.SA1B
    return AnnotationFormat.COCO if start else None


def _of_folder(path: Path) -> AnnotationFormat | None:
    names = sorted(file.name for file in path.iterdir())
    if "data.yaml" in names or _has(path, names, ".txt"):
        return AnnotationFormat.YOLO
    if _has(path, names, ".tar"):
        return AnnotationFormat.SA1B
    if "objects.csv" in names:
        return AnnotationFormat.LABEL_PNG
    for name in names:
        if name.endswith(".json") and name not in folder_annotations.OWN_FILES:
            found = _of_file(path / name)
            return None if found == AnnotationFormat.COCO else found
    return AnnotationFormat.LABEL_PNG if _has(path, names, ".png") else None


def _has(path: Path, names: Iterable[str], suffix: str) -> bool:
    return any(name.lower().endswith(suffix) and (path / name).is_file() for name in names)
