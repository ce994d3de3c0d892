"""A release: a frozen version of a dataset, with exports, a report and a card.

It pins a version of the mask table. `releases/<name>/<id>/` holds `instances.json` (COCO),
`sa1b.tar` (one JSON file per image, as SA-1B is published) and `report.html`.

It contains for each image the masks that people made or confirmed, then automatic masks that are
not rejected and do not repeat an earlier mask. It contains the images that were annotated or
generated, and counts the others.
"""

from __future__ import annotations

import json
import tarfile
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from prefect import flow

from engine.core.batches import batches
from engine.core.categories import CategoryList
from engine.core.errors import DataEngineError
from engine.core.records import Mask, Source
from engine.core.rle import iou_matrix
from flows.operations.status import round_rows
from flows.release.image_names import ImageNames
from flows.release.image_status import Status, image_statuses
from flows.release.names import ReleasedNames, pinned_names
from flows.release.report_data import write_report
from flows.release.yolo import write_yolo, yolo_names
from flows.workspace import costs, progress
from flows.workspace.audits import latest_audit
from flows.workspace.run_lock import named_lock, reason_of, release_lock, tracked_run
from flows.workspace.selections import program_run, selected_images
from flows.workspace.workspace import Workspace, code_version, open_workspace
from storage import layout
from storage.catalog import (
    CatalogError,
    Dataset,
    Image,
    NotFoundError,
    Release,
    ReleaseState,
    RunKind,
    VerdictKind,
    new_id,
)
from storage.formats.coco_writer import CocoWriter, category_entries
from storage.formats.sa1b import write_sa1b
from storage.outputs import OutputFolder

IN_CARD = "program_run"
"""Where a release's card names the run of a program that selected its images."""

REPEATED_IOU = 0.7
"""IoU with an earlier mask from which an automatic mask is a repeat."""

PAGE = 200
COCO_FILE, REPORT_FILE, CARD_FILE = "instances.json", "report.html", "release.json"
CATEGORIES_FILE = "categories.json"
"""Beside SA-1B's files, in a dataset with categories."""
FILES = (COCO_FILE, "sa1b.tar", REPORT_FILE)
"""Files of a release in the object store."""


class NothingToReleaseError(DataEngineError):
    """The dataset has no masks. Run the loop or `dataengine generate` first."""


@dataclass(frozen=True, slots=True)
class ReleasedImage:
    """An image and its masks in the release."""

    image: Image
    masks: list[Mask]
    status: Status
    category_ids: dict[str, int] | None = None
    """By mask id; None in a class-agnostic release."""


@flow(name="release")
def release(workspace: str, dataset: str, name: str, program: str | None = None) -> dict[str, Any]:
    """Prefect flow: freeze the dataset under `name`; return the card. Resumes an unfinished
    release; returns the card of a finished one. `program`: a finished run of a program, by id or
    tag; only the images that it selected are released."""
    opened = open_workspace(workspace)
    with named_lock(opened, release_lock(name)):
        return _build_release(opened, dataset, name, program)


def _build_release(
    opened: Workspace, dataset: str, name: str, program: str | None
) -> dict[str, Any]:
    row = opened.catalog.datasets.get(dataset)
    selection = None if program is None else program_run(opened, row.id, program).id
    version = opened.masks.version()
    if version is None or not opened.masks.counts(("stage",), dataset=dataset):
        raise NothingToReleaseError(f"dataset {dataset!r} has no masks yet")
    begun = opened.catalog.releases.start(
        name,
        dataset_id=row.id,
        table_version=version,
        key=layout.RELEASE.folder(name=name),
        **opened.catalog.labels.state(row.id)._asdict(),
    )
    if begun.state == ReleaseState.DONE:
        return begun.card
    run = opened.catalog.runs.start(
        uuid.uuid5(uuid.NAMESPACE_URL, f"release/{row.id}/{name}").hex,
        RunKind.RELEASE,
        dataset_id=row.id,
        code_version=code_version(),
    )
    with (
        _failing(opened, name),
        tracked_run(opened, run.id),
        costs.spending(opened, run.id),
        tempfile.TemporaryDirectory(prefix="dataengine-") as temporary,
    ):
        folder = Path(temporary)
        pinned = {} if selection is None else {IN_CARD: selection}
        begun = replace(begun, card=pinned)
        counts = export_release(opened, begun, folder, "coco")
        export_release(opened, begun, folder / "sa1b", "sa1b")
        _tar(folder / "sa1b", folder / "sa1b.tar")
        summary = _summary(opened, row, name) | {"categories": counts.get("categories", {})}
        write_report(opened, dataset, summary, folder / REPORT_FILE)
        # A new folder per attempt: an interrupted one leaves other files.
        key = layout.inside(begun.key, new_id())
        for file in FILES:
            opened.objects.put_file(layout.inside(key, file), folder / file)
        card = _card(opened, row, begun, counts) | pinned
        card = opened.catalog.releases.finish(name, card, key=key).card
        opened.catalog.runs.finish(run.id, counts)
    return card


@contextmanager
def _failing(workspace: Workspace, name: str) -> Iterator[None]:
    """Mark the release as failed if its building is stopped or raises an error."""
    try:
        yield
    except BaseException as error:
        with suppress(CatalogError):  # then its state stays unfinished until `sweep` closes it
            workspace.catalog.releases.fail(name, reason_of(error))
        raise


def is_released(workspace: Workspace, name: str) -> bool:
    """Whether a release of that name is done, so that repeating it changes nothing."""
    try:
        return workspace.catalog.releases.get(name).state == ReleaseState.DONE
    except NotFoundError:
        return False


def _tar(folder: Path, path: Path) -> None:
    """Write the folder's SA-1B files as one tar, in order of name."""
    with tarfile.open(path, "w") as tar:
        for file in sorted([*folder.glob("sa_*.json"), *folder.glob(CATEGORIES_FILE)]):
            tar.add(file, file.name)


def _summary(workspace: Workspace, dataset: Dataset, name: str) -> dict[str, Any]:
    """Return the report's summary: the rounds of the last loop, if any, the share of accepted
    masks in review, and the latest audit."""
    loop = workspace.catalog.loops.latest(dataset.id)
    verdicts = workspace.catalog.verdicts.counts(dataset.id)
    judged = sum(verdicts.values())
    accepted = verdicts.get(VerdictKind.ACCEPT, 0) / judged if judged else None
    return {
        "rounds": round_rows(workspace, loop.id) if loop else [],
        "review": {"accepted_share": accepted},
        "audit": _audit(workspace, dataset.id),
        "release": name,
    }


def _audit(workspace: Workspace, dataset_id: int) -> dict[str, Any] | None:
    """Return the result of the dataset's latest finished audit (docs/quality.md), or None."""
    run = latest_audit(workspace, dataset_id)
    return None if run is None else run.metrics


def _card(
    workspace: Workspace, dataset: Dataset, begun: Release, counts: dict[str, Any]
) -> dict[str, Any]:
    verdicts = workspace.catalog.verdicts.counts(dataset.id)
    return {
        "name": begun.name,
        "dataset": dataset.name,
        "table_version": begun.table_version,
        **counts,
        **pinned_names(begun),
        "verdicts": {str(kind): count for kind, count in verdicts.items()},
        "audit": _audit(workspace, dataset.id),
        "models": sorted(counts["models"]),
        "rule": "people's masks, then automatic ones that were not rejected and overlap no mask "
        f"already in by {REPEATED_IOU} or more",
        "code_version": code_version(),
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def released_images(
    workspace: Workspace, begun: Release, names: ReleasedNames | None = None
) -> Iterator[ReleasedImage]:
    """Yield the images with their masks in the release, in order of id, and the masks' categories
    if `names` are given: those that a program's run selected, if the card names one, else all."""
    status_of = image_statuses(workspace, begun)
    only = None
    if (selection := begun.card.get(IN_CARD)) is not None:
        only = selected_images(workspace, begun.dataset_id, selection)
    dropped = workspace.catalog.verdicts.rejected_mask_ids(begun.dataset_id)
    images = workspace.catalog.images.each(begun.dataset_id)
    for page in batches(images, PAGE):
        by_image: dict[int, list[Mask]] = {image.id: [] for image in page}
        for mask in workspace.masks.masks(
            image_ids=list(by_image), version=begun.table_version, current_only=True
        ):
            if mask.mask_id not in dropped and mask.area > 0:
                by_image[mask.image_id].append(mask)
        released = {image.id: without_repeats(by_image[image.id]) for image in page}
        ids = names.of([mask for masks in released.values() for mask in masks]) if names else None
        for image in page:
            if only is not None and image.id not in only:
                continue
            status = status_of(image.id, by_image[image.id])
            yield ReleasedImage(image, released[image.id], status, ids)


def without_repeats(masks: list[Mask]) -> list[Mask]:
    """Return people's masks, then automatic ones by descending predicted IoU, without automatic
    masks that repeat an earlier mask."""
    ordered = sorted(
        masks, key=lambda m: (m.source == Source.AUTOMATIC, -(m.predicted_iou or 0.0), m.mask_id)
    )
    coded = [mask.rle for mask in ordered]
    overlap = np.triu(iou_matrix(coded, coded), k=1)
    kept: list[int] = []
    for index, mask in enumerate(ordered):
        automatic = mask.source == Source.AUTOMATIC
        if not automatic or not kept or overlap[kept, index].max() < REPEATED_IOU:
            kept.append(index)
    return [ordered[index] for index in kept]


def release_to_export(workspace: Workspace, name: str, dataset: str | None) -> Release:
    """Return the release for `dataengine export`: by its name, or a dataset's latest, which is
    created as `<dataset>-1` if the dataset has none.

    Raises:
        NothingToReleaseError: no dataset has masks, or several have and none is named; or images
            of the release were erased.
        CatalogError: the release or dataset does not exist.
    """
    if name != "latest":
        return _check_not_erased(workspace.catalog.releases.get(name))
    if dataset is None:
        named = [str(key[0]) for key in workspace.masks.counts(("dataset",))]
        if len(named) != 1:
            raise NothingToReleaseError(
                f"name a dataset with --dataset; with masks: {', '.join(sorted(named)) or 'none'}"
            )
        dataset = named[0]
    row = workspace.catalog.datasets.get(dataset)
    latest = workspace.catalog.releases.latest(row.id)
    if latest is None:
        release(str(workspace.settings.root), dataset, f"{dataset}-1")
        latest = workspace.catalog.releases.get(f"{dataset}-1")
    return _check_not_erased(latest)


def _check_not_erased(found: Release) -> Release:
    """Return the release unless images of it have been erased."""
    if "erased" in found.card:
        raise NothingToReleaseError(
            f"release {found.name!r} was withdrawn: {found.card['erased']['images']} of its images "
            "were erased; make another one with `dataengine release NAME`"
        )
    return found


def export_release(
    workspace: Workspace, begun: Release, folder: Path, style: str, *, all_images: bool = False
) -> dict[str, Any]:
    """Write a release into a folder: `instances.json` (coco), `sa_<id>.json` per image (sa1b), or
    images, polygons and `data.yaml` (yolo); and its report, if any. Images neither annotated nor
    generated are left out, unless `all_images` is on: a training would treat them as images without
    objects.

    Returns:
        images, masks, masks per stage and source, models; `statuses`: the number of the dataset's
        images per `Status`. With yolo also `yolo`, as `write_yolo`.

    Raises:
        ValueError: the format is unknown.
        OutputExistsError: a foreign file in the folder has a name that the export needs; no file
            is replaced.
    """
    if style not in STYLES:
        raise ValueError(f"unknown format {style!r}; known formats: {', '.join(STYLES)}")
    outputs = OutputFolder(folder)
    outputs.refuse_others(_export_names(workspace, begun, style))
    counts: dict[str, Any] = {"images": 0, "masks": 0, "stages": {}, "sources": {}, "models": []}
    counts["statuses"] = dict.fromkeys(map(str, Status), 0)
    total = workspace.catalog.images.count(begun.dataset_id)
    names = ImageNames(workspace, begun.dataset_id)
    labels = ReleasedNames(workspace, begun)
    if labels.categories is not None:
        counts["categories"] = dict.fromkeys(labels.categories.names.values(), 0)
    with progress.current().track(f"export {style}", total, "image") as advance:
        images = released_images(workspace, begun, labels)
        found = _exported(images, labels, counts, all_images, advance)
        if style == "yolo":
            lists = outputs, found, names, labels.categories
            counts["yolo"] = write_yolo(workspace.objects, *lists)
        else:
            _WRITERS[style](outputs, begun, found, names, labels.categories)
    outputs.write(CARD_FILE, json.dumps({**begun.card, **counts}, indent=2))
    # Missing while the release is built, and in the oldest releases.
    report = layout.inside(begun.key, REPORT_FILE)
    if workspace.objects.exists(report):
        with outputs.writing(REPORT_FILE) as fresh:
            workspace.objects.fetch(report, fresh)
    return counts


def _exported(
    found: Iterator[ReleasedImage],
    labels: ReleasedNames,
    counts: dict[str, Any],
    all_images: bool,
    advance: progress.Advance,
) -> Iterator[ReleasedImage]:
    """Yield the images of the export. Counts all images by status, and the yielded ones' masks."""
    for item in found:
        counts["statuses"][str(item.status)] += 1
        if all_images or item.status != Status.NEITHER:
            yield item
            _count(counts, item)
            if item.category_ids is not None:
                labels.count(counts["categories"], item.masks, item.category_ids)
        advance()


def _described(item: ReleasedImage, names: ImageNames) -> tuple[int, str, int, int, list[Mask]]:
    """Id, name, height, width and masks of an exported image."""
    image = item.image
    return image.id, names.of(image), image.height, image.width, item.masks


def _write_coco(
    outputs: OutputFolder,
    begun: Release,
    found: Iterator[ReleasedImage],
    names: ImageNames,
    categories: CategoryList | None,
) -> None:
    with (
        outputs.writing(COCO_FILE) as fresh,
        CocoWriter(fresh, description=begun.name, categories=categories) as writer,
    ):
        for item in found:
            writer.add_image(
                *_described(item, names),
                sha256=item.image.sha256,
                status=str(item.status),
                category_ids=item.category_ids,
            )


def _write_sa1b(
    outputs: OutputFolder,
    begun: Release,
    found: Iterator[ReleasedImage],
    names: ImageNames,
    categories: CategoryList | None,
) -> None:
    for item in found:
        with outputs.writing(f"sa_{item.image.id}.json") as fresh:
            status, ids = str(item.status), item.category_ids
            write_sa1b(fresh, *_described(item, names), status=status, category_ids=ids)
    if categories is not None:
        entries = category_entries(categories, unlabelled=False)
        outputs.write(CATEGORIES_FILE, json.dumps({"categories": entries}, indent=1))


_WRITERS = {"coco": _write_coco, "sa1b": _write_sa1b}
STYLES = (*_WRITERS, "yolo")
"""Formats of exports."""


def _export_names(workspace: Workspace, begun: Release, style: str) -> Iterator[str]:
    """Yield the names of the files that an export writes."""
    yield from (CARD_FILE, REPORT_FILE)
    if style == "coco":
        yield COCO_FILE
    elif style == "yolo":
        yield from yolo_names(workspace.catalog.images.each(begun.dataset_id))
    else:
        if begun.categories_version:
            yield CATEGORIES_FILE
        yield from (f"sa_{i}.json" for i in workspace.catalog.images.ids(begun.dataset_id))


def _count(counts: dict[str, Any], item: ReleasedImage) -> None:
    counts["images"] += 1
    counts["masks"] += len(item.masks)
    for mask in item.masks:
        for group, value in (("stages", str(mask.stage)), ("sources", str(mask.source))):
            counts[group][value] = counts[group].get(value, 0) + 1
        if mask.model and mask.model not in counts["models"]:
            counts["models"].append(mask.model)
