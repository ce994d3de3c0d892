"""Reads a folder of images with optional annotations, and counts by kind, with examples, what
commands skip, so that nothing is skipped silently."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from storage.formats.annotation_files import AnnotationFormat, read_annotations
from storage.formats.coco import CocoDataset
from storage.formats.coco_annotations import Conventions, Problem
from storage.formats.folders import UNREADABLE, as_text, list_images

if TYPE_CHECKING:
    from flows.workspace.workspace import Workspace

NAMED = 5
"""Examples kept of each kind."""
INGESTS = 1_000
"""Latest ingests of a dataset that `status` reads."""

NO_FILE = "annotated images without a file"
NOT_NAMED = "images that the annotations do not name"


class PassedOver:
    """Skipped or suspicious parts of an input: counts by kind, and the first names of each."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._examples: dict[str, list[str]] = {}

    def add(self, kind: str, name: str) -> None:
        """Count one."""
        self._count(kind, 1, [name])

    def add_all(self, file_name: str, problems: Iterable[Problem]) -> None:
        """Count each problem of a file."""
        for problem in problems:
            self.add(problem.kind, f"{file_name}: {problem}")

    def add_rows(self, rows: Iterable[dict[str, Any]]) -> None:
        """Add rows that `rows` returned."""
        for row in rows:
            self._count(row["what"], row["count"], row["examples"])

    def rows(self) -> list[dict[str, Any]]:
        """One row per kind, most frequent first: `what`, `count`, `examples`."""
        ordered = sorted(self._counts, key=lambda kind: (-self._counts[kind], kind))
        return [
            {"what": kind, "count": self._counts[kind], "examples": self._examples[kind]}
            for kind in ordered
        ]

    def _count(self, kind: str, count: int, names: list[str]) -> None:
        self._counts[kind] = self._counts.get(kind, 0) + count
        examples = self._examples.setdefault(kind, [])
        examples += names[: NAMED - len(examples)]


@dataclass(slots=True)
class IngestReport:
    """Counts of an ingest. problems: quarantined files, suspicious images, and skipped or
    suspicious annotations, with reasons. passed_over: everything skipped, as `PassedOver.rows`."""

    files: int = 0
    added: int = 0
    known: int = 0
    quarantined: int = 0
    masks: int = 0
    labels: int = 0
    """Masks that got a label from the annotations."""
    new_categories: int = 0
    """Categories that the dataset's list gained."""
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


@dataclass(frozen=True, slots=True)
class Input:
    """A folder's image files, their relative names, and their annotations."""

    files: list[Path]
    names: list[str]
    truth: CocoDataset | None
    passed_over: PassedOver
    unreadable: list[str] = field(default_factory=list)
    """Names of subfolders that cannot be read."""

    def without_file(self) -> list[str]:
        """Count and return the names of annotated images that have no file."""
        missing = self.truth.missing() if self.truth else []
        for name in missing:
            self.passed_over.add(NO_FILE, name)
        return missing


def scan_folder(
    folder: Path,
    coco: Path | None = None,
    conventions: Conventions | None = None,
    form: AnnotationFormat = AnnotationFormat.COCO,
) -> Input:
    """List a folder's images and read their annotations, without opening an image.

    Raises:
        NotADirectoryError: the folder does not exist.
        OSError: the folder or the annotations cannot be read.
        BadAnnotationsError: the annotations are invalid.
    """
    passed_over, unreadable = PassedOver(), list[str]()

    def skip(path: Path, kind: str) -> None:
        name = as_text(path.relative_to(folder))
        if coco is not None and path.name == coco.name and path.samefile(coco):
            return
        passed_over.add(kind, name)
        if kind == UNREADABLE:
            unreadable.append(name)

    files = list(list_images(folder, skip))
    if coco is not None and coco.is_dir() and not coco.resolve().samefile(folder):
        inside = coco.resolve()  # label images are no images
        files = [path for path in files if not path.resolve().is_relative_to(inside)]
    names = [as_text(path.relative_to(folder)) for path in files]
    truth = None
    if coco is not None:
        truth = read_annotations(coco, form, names, folder=folder, conventions=conventions)
        passed_over.add_all(as_text(Path(coco.name)), truth.problems)
    return Input(files, names, truth, passed_over, unreadable)


def passed_over_in(workspace: Workspace, dataset_id: int) -> list[dict[str, Any]]:
    """What the latest ingest of each folder of a dataset skipped, as `PassedOver.rows`."""
    from storage.catalog import RunKind

    found, seen = PassedOver(), set[str]()
    runs = workspace.catalog.runs.all(dataset_id=dataset_id, kind=RunKind.INGEST, limit=INGESTS)
    for run in runs:
        folder = str(run.config.get("folder"))
        if run.finished_at is not None and folder not in seen:
            seen.add(folder)
            found.add_rows(run.metrics.get("passed_over", []))
    return found.rows()
