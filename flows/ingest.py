"""Images in: a folder, with COCO annotations or without, to object store and catalog.

The file's own bytes are kept. Its SHA-256 is its name, so the same bytes are stored once however
often and under whatever names they come. A file that is no usable image is quarantined with its
reason and stops nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

from prefect import flow

from engine.core import rle as rle_codec
from engine.core.records import Mask, Source, Stage
from engine.core.rle import RLE
from flows import costs, progress
from flows.patience import patiently
from flows.wiring import Workspace, code_version, open_workspace
from storage.catalog import NewImage, RunKind, Split, new_id
from storage.formats.coco import CocoDataset, read_coco
from storage.formats.images import FLAT, BadImageError, inspect_image, list_images

BATCH = 100
"""Images entered into the catalog at once."""

MAX_FILE_BYTES = 1 << 30


@dataclass(slots=True)
class IngestReport:
    """What became of the files. problems: files that were quarantined, images to look at, and
    annotations that were dropped, and why."""

    files: int = 0
    added: int = 0
    known: int = 0
    quarantined: int = 0
    masks: int = 0
    bytes: int = 0
    """Of the files that are usable images."""
    problems: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@flow(name="ingest")
def ingest(
    workspace: str,
    dataset: str,
    folder: str,
    coco: str | None = None,
    held_out: float | None = None,
) -> dict[str, Any]:
    """Prefect's door to `ingest_folder`."""
    annotations = Path(coco) if coco else None
    report = ingest_folder(
        open_workspace(workspace), dataset, Path(folder), annotations, held_out=held_out
    )
    return report.as_dict()


def ingest_folder(
    workspace: Workspace,
    dataset: str,
    folder: Path,
    coco: Path | None = None,
    *,
    held_out: float | None = None,
) -> IngestReport:
    """Bring a folder's images into a dataset; doing it again adds only what is new.

    Args:
        workspace: where to.
        dataset: its name; made if there is none.
        folder: searched recursively.
        coco: instance annotations; they become the images' ground truth.
        held_out: share of the images that is never trained on; None: as the settings say.

    Raises:
        NotADirectoryError: there is no such folder.
        BadAnnotationsError: the COCO file is unreadable.
    """
    files = list(list_images(folder))
    names = [path.relative_to(folder).as_posix() for path in files]
    truth = read_coco(coco, names) if coco else None
    row = workspace.catalog.datasets.get_or_create(dataset)
    run = workspace.catalog.runs.start(
        new_id(),
        RunKind.INGEST,
        dataset_id=row.id,
        config={"folder": str(folder), "coco": str(coco) if coco else None},
        code_version=code_version(),
    )
    share = workspace.settings.held_out if held_out is None else held_out
    report = IngestReport(files=len(files))
    if truth is not None:
        report.problems += truth.problems
        report.problems += [f"{name}: annotated, but not on disk" for name in truth.missing(names)]
    batch = _Batch(workspace, dataset, row.id, run.id, truth, share, report)
    with (
        costs.spending(workspace, run.id),
        progress.current().track("ingest", len(files), "image") as advance,
    ):
        pairs = iter(zip(files, names, strict=True))
        for shard, group in enumerate(_groups(pairs, BATCH)):
            batch.take(shard, group, advance)
    workspace.catalog.runs.finish(run.id, {**report.as_dict(), "problems": len(report.problems)})
    return report


def _groups(items: Iterator[tuple[Path, str]], size: int) -> Iterator[list[tuple[Path, str]]]:
    while group := list(islice(items, size)):
        yield group


class _Batch:
    """What every batch of one ingest needs."""

    def __init__(
        self,
        workspace: Workspace,
        dataset: str,
        dataset_id: int,
        run_id: str,
        truth: CocoDataset | None,
        held_out: float,
        report: IngestReport,
    ) -> None:
        self.workspace, self.dataset, self.dataset_id = workspace, dataset, dataset_id
        self.run_id, self.truth, self.held_out, self.report = run_id, truth, held_out, report
        self.patience = workspace.settings.outage_seconds

    def take(
        self, shard: int, group: Sequence[tuple[Path, str]], advance: Callable[..., None]
    ) -> None:
        rows: list[NewImage] = []
        for path, name in group:
            try:
                rows.append(self._store(path, name))
            except (BadImageError, OSError) as error:
                self.workspace.catalog.quarantine.add(
                    self.dataset_id, name, str(error), stage="ingest"
                )
                self.report.quarantined += 1
                self.report.problems.append(f"{name}: quarantined, {error}")
            advance()
        images = self.workspace.catalog.images
        added = patiently(self.patience, lambda: images.add_many(self.dataset_id, rows))
        self.report.added += added.new
        self.report.known += len(rows) - added.new
        if self.truth is not None:
            self._keep_truth(shard, self.truth, rows, added.ids)

    def _store(self, path: Path, name: str) -> NewImage:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise BadImageError(f"the file is larger than {MAX_FILE_BYTES >> 20} MiB")
        data = path.read_bytes()
        info = inspect_image(data, max_pixels=self.workspace.settings.max_pixels)
        if info.is_flat:
            self.report.problems.append(f"{name}: {FLAT}")
        digest = hashlib.sha256(data).hexdigest()
        key = f"images/{digest[:2]}/{digest}{info.extension}"
        patiently(self.patience, lambda: self.workspace.objects.put(key, data))
        self.report.bytes += len(data)
        return NewImage(
            sha256=digest,
            key=key,
            file_name=name,
            height=info.height,
            width=info.width,
            split=split_of(digest, self.held_out),
        )

    def _keep_truth(
        self, shard: int, truth: CocoDataset, rows: Sequence[NewImage], ids: Sequence[int]
    ) -> None:
        """Ground truth of the batch's images, in one commit; images that have some keep it."""
        known = self.workspace.truths.counts(("image_id",), image_ids=list(ids)) if ids else {}
        done = {int(str(key[0])) for key in known}
        masks: list[Mask] = []
        for row, image_id in zip(rows, ids, strict=True):
            rles, problems = truth.masks_for(row.file_name, (row.height, row.width))
            self.report.problems += [f"{row.file_name}: {problem}" for problem in problems]
            if image_id in done:
                continue
            done.add(image_id)
            masks += [
                imported_mask(
                    rle,
                    mask_id=f"{self.run_id}/{image_id}/{number}",
                    image_id=image_id,
                    dataset=self.dataset,
                    run_id=self.run_id,
                    shard=shard,
                )
                for number, rle in enumerate(rles)
            ]
        if masks:
            truths = self.workspace.truths
            patiently(self.patience, lambda: truths.commit(masks, run_id=self.run_id, shard=shard))
        self.report.masks += len(masks)


def imported_mask(
    rle: RLE, *, mask_id: str, image_id: int, dataset: str, run_id: str, shard: int = 0
) -> Mask:
    """A mask that came with its image."""
    return Mask(
        mask_id=mask_id,
        image_id=image_id,
        dataset=dataset,
        stage=Stage.GROUND_TRUTH,
        round=0,
        run_id=run_id,
        shard=shard,
        model=None,
        source=Source.IMPORTED,
        rle=rle,
        area=rle_codec.area(rle),
        box_xyxy=rle_codec.box_xyxy(rle),
        created_at=datetime.now(UTC),
    )


def split_of(sha256: str, held_out: float) -> Split:
    """Held out or not, decided by the content alone, so that it never changes."""
    return Split.HELD_OUT if int(sha256[:8], 16) / 0x1_0000_0000 < held_out else Split.TRAIN
