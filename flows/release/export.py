"""Writes a release into a user's folder or S3 prefix, in one of many formats (docs/formats.md).

A release is read page by page and its text is made column by column, so memory does not grow with
it. A stopped export leaves only whole files; repeated, it skips the shards and images' files that
it wrote.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from engine.core.categories import UNLABELLED
from engine.core.errors import DataEngineError
from flows.release.freeze import image_rows, stored_files
from flows.release.image_names import ImageNames
from flows.release.image_status import Status
from flows.release.json_styles import CocoStyle, LvisStyle, Sa1bStyle
from flows.release.names import ReleasedNames
from flows.release.release import CARD_FILE, REPORT_FILE
from flows.release.rules import Rules
from flows.release.selection import Chosen, chosen_masks
from flows.release.shard_styles import ParquetStyle, TarStyle, WebDatasetStyle
from flows.release.splits import SPLITS, SplitPlan, held_out_splits, kept_splits
from flows.release.styles import SHARD_IMAGES, Job, Style, Write
from flows.release.tool_styles import CvatStyle, LabelPngStyle, LabelStudioStyle, YoloStyle
from flows.workspace import progress
from flows.workspace.workspace import Workspace
from storage import layout
from storage.catalog import Release
from storage.formats.pages import Page, pages
from storage.formats.portable import portable_image
from storage.objects import named_by_catalog
from storage.outputs import OutputFolder, Outputs
from storage.release_files import IMAGES_SCHEMA
from storage.s3_outputs import S3Outputs
from storage.s3_store import S3Store
from storage.stores import open_store

FORMATS: dict[str, type[Style]] = {
    "coco": CocoStyle,
    "sa1b": Sa1bStyle,
    "yolo": YoloStyle,
    "lvis": LvisStyle,
    "label-png": LabelPngStyle,
    "webdataset": WebDatasetStyle,
    "parquet": ParquetStyle,
    "cvat": CvatStyle,
    "label-studio": LabelStudioStyle,
}
"""Formats by their names."""
PAGE_ROWS = 4_096
"""Masks of a page, about."""
FORMAT_VERSION = 1
"""Of what exports write; part of their mark, so that files of older code are written anew."""


class ExportError(DataEngineError, ValueError):
    """There is no such format or place, or the options do not fit the format."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportOptions:
    """How to write a release.

    Attributes:
        all_images: also images neither annotated nor generated, which a training would treat as
            images without objects.
        polygons: COCO and LVIS have polygons, which lose holes, instead of RLE.
        tars: SA-1B's files are in tars of `shard_images` images.
        splits: None: one set of images; formats for training have the held-out ones as `val`.
        image_root: written before images' names in Label Studio's tasks.
    """

    all_images: bool = False
    polygons: bool = False
    tars: bool = False
    splits: SplitPlan | None = None
    image_root: str = "/data/local-files/?d="
    shard_images: int = SHARD_IMAGES


class RowSource(Protocol):
    """A release's rows, as `storage.release_files.MaskFiles` has them."""

    def images(self) -> pa.Table:
        """All images of IMAGES_SCHEMA, by id."""

    def batches(self, *, batch_size: int) -> Iterator[pa.RecordBatch]:
        """The masks of MASKS_SCHEMA, in the images' order, about so many at once."""


def export_release(
    workspace: Workspace,
    begun: Release,
    target: Path | str,
    style: str,
    options: ExportOptions | None = None,
    *,
    source: RowSource | None = None,
) -> dict[str, Any]:
    """Write a release, its card and its report, if any, into a folder or below `s3://`.

    Args:
        workspace: the workspace.
        begun: the release.
        target: a folder, or `s3://bucket/prefix`.
        style: one of FORMATS.
        options: the defaults if None.
        source: the release's rows, while it is built.

    Returns:
        images, masks, masks per stage, source and category, models; `statuses`: the number of the
        dataset's images per `Status`; `splits`: images per split; and under the format's name what
        was written and what the format cannot show.

    Raises:
        ExportError, SplitsError: the format or place is unknown, or the options do not fit.
        OutputExistsError: a foreign file has a name that the export needs; no file is replaced.
    """
    if style not in FORMATS:
        raise ExportError(f"unknown format {style!r}; known formats: {', '.join(FORMATS)}")
    chosen = options or ExportOptions()
    _check_options(style, chosen)
    return _Export(workspace, begun, open_outputs(workspace, target), style, chosen, source).run()


def open_outputs(workspace: Workspace, target: Path | str) -> Outputs:
    """The place that a path or `s3://bucket/prefix` names; with the workspace's endpoint and keys,
    if it has a store in S3.

    Raises:
        ExportError: a bad address.
    """
    if "://" not in str(target):
        return OutputFolder(Path(target))
    settings = workspace.settings.store
    key, secret = settings.access_key, settings.secret_key
    try:
        store = open_store(
            str(target),
            endpoint_url=settings.endpoint_url,
            region=settings.region,
            access_key=key.get_secret_value() if key else None,
            secret_key=secret.get_secret_value() if secret else None,
            timeout_seconds=settings.timeout_seconds,
        )
    except ValueError as error:
        raise ExportError(str(error)) from error
    if isinstance(store, S3Store):
        return S3Outputs(store)
    raise ExportError(f"bad address {target!r}; expected a folder or s3://bucket/prefix")


def _check_options(style: str, options: ExportOptions) -> None:
    if options.polygons and style not in ("coco", "lvis"):
        raise ExportError(f"--polygons is for coco and lvis, not {style}")
    if options.tars and style != "sa1b":
        raise ExportError(f"--tars is for sa1b, not {style}")
    if options.shard_images < 1:
        raise ExportError(f"a shard of {options.shard_images} images: expected 1 or more")


class _Export:
    """One export."""

    def __init__(
        self,
        workspace: Workspace,
        begun: Release,
        outputs: Outputs,
        style: str,
        options: ExportOptions,
        source: RowSource | None,
    ) -> None:
        self._workspace, self._begun, self._outputs = workspace, begun, outputs
        self._style_name, self._options = style, options
        self._names = ReleasedNames(workspace, begun)
        self._source = (
            source or stored_files(workspace, begun) or _ChosenRows(workspace, begun, self._names)
        )
        kind = TarStyle if options.tars else FORMATS[style]
        self._style = kind(self._job())
        self._counts: dict[str, Counter[str]] = {
            name: Counter() for name in ("stages", "sources", "models", "categories", "splits")
        }
        self._statuses = Counter(dict.fromkeys(map(str, Status), 0))
        if self._names.categories is not None:
            names = self._names.categories.names.values()
            self._counts["categories"].update(dict.fromkeys(names, 0))

    def _job(self) -> Job:
        options, begun = self._options, self._begun
        described = {
            "release": begun.name,
            "version": [begun.table_version, begun.label_id, begun.categories_version],
            "made": begun.created_at.isoformat(),
            "style": self._style_name,
            "options": asdict(options),
            "format": FORMAT_VERSION,
        }
        mark = hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()
        return Job(
            outputs=self._outputs,
            name=begun.name,
            mark=mark,
            categories=self._names.categories,
            load=self._load,
            polygons=options.polygons,
            tars=options.tars,
            image_root=options.image_root,
            shard_images=options.shard_images,
        )

    def run(self) -> dict[str, Any]:
        images = self._source.images()
        statuses = np.array(images.column("status").to_pylist(), dtype=object)
        self._statuses.update(statuses.tolist())
        keep = np.ones(len(statuses), bool)
        if not self._options.all_images:
            keep = statuses != Status.NEITHER
        split_of, splits = self._splits(images, keep)
        wanted = self._style.names(images.column("image_id").to_pylist(), splits)
        self._outputs.refuse_others([CARD_FILE, REPORT_FILE, *wanted])
        what = f"export {self._style_name}"
        with progress.current().track(what, int(keep.sum()), "image") as advance:
            self._write(images, keep, split_of, splits, advance)
        self._style.finish(splits)
        result = self._result()
        self._outputs.write(CARD_FILE, json.dumps({**self._begun.card, **result}, indent=2))
        self._write_report()
        return result

    def _splits(self, images: pa.Table, keep_I: np.ndarray) -> tuple[np.ndarray, list[str]]:
        """The split of each image, and the splits that have any, in order."""
        options, by_default = self._options, self._style.splits_by_default
        found = None
        if options.splits is not None or by_default:
            found = kept_splits(self._workspace, self._begun, images, options.splits)
            if found is None:
                found = held_out_splits(images)
        if found is None:
            return np.full(images.num_rows, ""), [""]
        present = set(found[keep_I].tolist())
        return found, [split for split in SPLITS if split in present] or [SPLITS[0]]

    def _write(
        self,
        images: pa.Table,
        keep_I: np.ndarray,
        split_of: np.ndarray,
        splits: list[str],
        advance: progress.Advance,
    ) -> None:
        """Write all pages, each image's into its split's files."""
        done = 0
        with contextlib.ExitStack() as stack:
            writers: dict[str, Write] = {
                split: stack.enter_context(self._style.writing(split)) for split in splits
            }
            for page in pages(images, self._source.batches(batch_size=PAGE_ROWS)):
                kept = keep_I[done : done + len(page)]
                mine = split_of[done : done + len(page)]
                done += len(page)
                for split, write in writers.items():
                    part = page.where(kept & (mine == split))
                    if len(part):
                        write(part)
                        self._count(part, split)
                advance(int(kept.sum()))

    def _count(self, page: Page, split: str) -> None:
        self._counts["splits"][split] += len(page)
        for group, column in (("stages", "stage"), ("sources", "source"), ("models", "model")):
            self._counts[group].update(_values(page.column(column)))
        if (given := self._names.categories) is not None:
            for number, count in _values(page.column("category_id")).items():
                self._counts["categories"][given.names.get(number, UNLABELLED)] += count

    def _result(self) -> dict[str, Any]:
        counts = {name: dict(found) for name, found in self._counts.items()}
        counts["models"].pop(None, None)  # type: ignore[call-overload]
        result: dict[str, Any] = {
            "images": sum(self._counts["splits"].values()),
            "masks": sum(self._counts["stages"].values()),
            "stages": counts["stages"],
            "sources": counts["sources"],
            "models": list(counts["models"]),
            "statuses": dict(self._statuses),
        }
        if self._names.categories is not None:
            result["categories"] = counts["categories"]
        if set(counts["splits"]) - {""}:
            result["splits"] = counts["splits"]
        return result | {self._style_name: dict(self._style.counts)}

    def _write_report(self) -> None:
        # Missing while the release is built, and in the oldest releases.
        report = layout.inside(self._begun.key, REPORT_FILE)
        if self._workspace.objects.exists(report):
            with self._outputs.writing(REPORT_FILE) as fresh:
                self._workspace.objects.fetch(report, fresh)

    def _load(self, key: str) -> tuple[bytes, str]:
        with named_by_catalog("If its object is lost, ingest the image's file again"):
            data = self._workspace.objects.get(key)
        return portable_image(data, max_pixels=self._workspace.settings.max_pixels)


def _values(column: pa.Array) -> Counter[Any]:
    """How often each value occurs."""
    found = column.value_counts()
    values, counts = (found.field(n).to_pylist() for n in range(2))
    return Counter(dict(zip(values, counts, strict=True)))


class _ChosenRows:
    """The rows of a release without files of its own, of an older version: as its rule chooses
    them."""

    def __init__(self, workspace: Workspace, begun: Release, labels: ReleasedNames) -> None:
        self._workspace, self._begun, self._labels = workspace, begun, labels

    def images(self) -> pa.Table:
        names = ImageNames(self._workspace, self._begun.dataset_id)
        rows = [row for chosen in self._chosen() for row in image_rows(chosen, names)]
        return pa.Table.from_pylist(rows, schema=IMAGES_SCHEMA)

    def batches(self, *, batch_size: int) -> Iterator[pa.RecordBatch]:
        for chosen in self._chosen():
            yield from chosen.rows.to_batches(max_chunksize=batch_size)

    def _chosen(self) -> Iterator[Chosen]:
        return chosen_masks(self._workspace, self._begun, Rules(), self._labels)
