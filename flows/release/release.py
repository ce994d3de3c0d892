"""A release: a frozen version of a dataset, with exports, a report and a card.

It pins a version of the mask table. Under `releases/<name>/<id>/` it has `instances.json` (COCO),
`sa1b.tar` (SA-1B's JSON files, one an image, as SA-1B itself is shipped) and `report.html`.

Its masks are, image by image: what people made or confirmed; then automatic masks that were not
rejected and do not repeat one that is in already. Its images are those that people annotated or a
model was run on; of the others it tells how many there are.
"""

from __future__ import annotations

import json
import tarfile
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from prefect import flow

from engine.core.errors import DataEngineError
from engine.core.records import Mask, Source
from engine.core.rle import iou_matrix
from flows.operations.status import round_rows
from flows.release.image_names import ImageNames
from flows.release.image_status import Status, image_statuses
from flows.release.report_data import write_report
from flows.workspace import costs, progress
from flows.workspace.run_lock import guarded, reason_of, release_turn, turn
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
from storage.formats.coco import CocoWriter
from storage.formats.sa1b import write_sa1b
from storage.outputs import OutputFolder

REPEATED_IOU = 0.7
"""A mask that overlaps one already in by this much says nothing new."""

PAGE = 200
COCO_FILE, REPORT_FILE, CARD_FILE = "instances.json", "report.html", "release.json"
FILES = (COCO_FILE, "sa1b.tar", REPORT_FILE)
"""What a release has in the object store, beside its row in the catalog."""


class NothingToReleaseError(DataEngineError):
    """The dataset has no masks yet. Run the loop, or `dataengine generate`, first."""


@dataclass(frozen=True, slots=True)
class ReleasedImage:
    """An image and the masks of it that are in the release."""

    image: Image
    masks: list[Mask]
    status: Status


@flow(name="release")
def release(workspace: str, dataset: str, name: str) -> dict[str, Any]:
    """Freeze the dataset under `name`; finishing an unfinished one, repeating a finished one."""
    opened = open_workspace(workspace)
    with turn(opened, release_turn(name)):
        return _released(opened, dataset, name)


def _released(opened: Workspace, dataset: str, name: str) -> dict[str, Any]:
    row = opened.catalog.datasets.get(dataset)
    version = opened.masks.version()
    if version is None or not opened.masks.counts(("stage",), dataset=dataset):
        raise NothingToReleaseError(f"dataset {dataset!r} has no masks yet")
    begun = opened.catalog.releases.start(
        name,
        dataset_id=row.id,
        table_version=version,
        key=layout.RELEASE.folder(name=name),
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
        guarded(opened, run.id),
        costs.spending(opened, run.id),
        tempfile.TemporaryDirectory(prefix="dataengine-") as temporary,
    ):
        folder = Path(temporary)
        counts = export_release(opened, begun, folder, "coco")
        export_release(opened, begun, folder / "sa1b", "sa1b")
        _tar(folder / "sa1b", folder / "sa1b.tar")
        write_report(opened, dataset, _summary(opened, row, name), folder / REPORT_FILE)
        # A folder of this attempt: one that was cut short left other files.
        key = layout.inside(begun.key, new_id())
        for file in FILES:
            opened.objects.put_file(layout.inside(key, file), folder / file)
        card = _card(opened, row, begun, counts)
        card = opened.catalog.releases.finish(name, card, key=key).card
        opened.catalog.runs.finish(run.id, counts)
    return card


@contextmanager
def _failing(workspace: Workspace, name: str) -> Iterator[None]:
    """A release whose building ends with an error, or is stopped, has failed."""
    try:
        yield
    except BaseException as error:
        with suppress(CatalogError):  # then it goes on being built, and `sweep` closes it
            workspace.catalog.releases.fail(name, reason_of(error))
        raise


def is_released(workspace: Workspace, name: str) -> bool:
    """Whether a release of that name is done, so that making it again changes nothing."""
    try:
        return workspace.catalog.releases.get(name).state == ReleaseState.DONE
    except NotFoundError:
        return False


def _tar(folder: Path, path: Path) -> None:
    """The folder's SA-1B files as one tar, in order of name."""
    with tarfile.open(path, "w") as tar:
        for file in sorted(folder.glob("sa_*.json")):
            tar.add(file, file.name)


def _summary(workspace: Workspace, dataset: Dataset, name: str) -> dict[str, Any]:
    """What the report says of how the masks came to be: the rounds of the last loop, if there was
    one, and what reviewers said."""
    loop = workspace.catalog.loops.latest(dataset.id)
    verdicts = workspace.catalog.verdicts.counts(dataset.id)
    judged = sum(verdicts.values())
    accepted = verdicts.get(VerdictKind.ACCEPT, 0) / judged if judged else None
    return {
        "rounds": round_rows(workspace, loop.id) if loop else [],
        "review": {"accepted_share": accepted},
        "release": name,
    }


def _card(
    workspace: Workspace, dataset: Dataset, begun: Release, counts: dict[str, Any]
) -> dict[str, Any]:
    verdicts = workspace.catalog.verdicts.counts(dataset.id)
    return {
        "name": begun.name,
        "dataset": dataset.name,
        "table_version": begun.table_version,
        **counts,
        "verdicts": {str(kind): count for kind, count in verdicts.items()},
        "models": sorted(counts["models"]),
        "rule": "people's masks, then automatic ones that were not rejected and overlap no mask "
        f"already in by {REPEATED_IOU} or more",
        "code_version": code_version(),
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def released_images(workspace: Workspace, begun: Release) -> Iterator[ReleasedImage]:
    """The release's images and masks, image by image, in order of id; images without masks too."""
    status_of = image_statuses(workspace, begun)
    dropped = workspace.catalog.verdicts.rejected_mask_ids(begun.dataset_id)
    images = workspace.catalog.images.each(begun.dataset_id)
    while page := list(islice(images, PAGE)):
        by_image: dict[int, list[Mask]] = {image.id: [] for image in page}
        for mask in workspace.masks.masks(
            image_ids=list(by_image), version=begun.table_version, current_only=True
        ):
            if mask.mask_id not in dropped and mask.area > 0:
                by_image[mask.image_id].append(mask)
        for image in page:
            masks = without_repeats(by_image[image.id])
            yield ReleasedImage(image, masks, status_of(image.id, by_image[image.id]))


def without_repeats(masks: list[Mask]) -> list[Mask]:
    """People's masks first, then automatic ones by predicted IoU; an automatic mask goes where it
    repeats one before it."""
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
    """The release that `dataengine export` means: by its name, or a dataset's latest, which is
    made (named `<dataset>-1`) where there is none yet.

    Raises:
        NothingToReleaseError: no dataset has masks, or several have and none is named.
        CatalogError: no such release or dataset.
    """
    if name != "latest":
        return _whole(workspace.catalog.releases.get(name))
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
    return _whole(latest)


def _whole(found: Release) -> Release:
    """The release, unless something that was in it has been erased."""
    if "erased" in found.card:
        raise NothingToReleaseError(
            f"release {found.name!r} was withdrawn: {found.card['erased']['images']} of its images "
            "were erased; make another one with `dataengine release NAME`"
        )
    return found


def export_release(
    workspace: Workspace, begun: Release, folder: Path, style: str, *, all_images: bool = False
) -> dict[str, Any]:
    """Write a release into a folder: `instances.json` (coco), or `<name>.json` an image (sa1b); and
    its report, where it has one. Images that nobody annotated and no model was run on are left out,
    unless `all_images` is on: a training would take them for images without objects.

    Returns:
        images, masks, masks per stage and source, models; `statuses`: how many of the dataset's
        images have each `Status`.

    Raises:
        ValueError: the format is unknown.
        OutputExistsError: a file in the folder has a name that is needed, and is not ours; none was
            replaced.
    """
    if style not in _WRITERS:
        raise ValueError(f"unknown format {style!r}; there are {', '.join(_WRITERS)}")
    outputs = OutputFolder(folder)
    outputs.refuse_others(_export_names(workspace, begun, style))
    counts: dict[str, Any] = {"images": 0, "masks": 0, "stages": {}, "sources": {}, "models": []}
    counts["statuses"] = dict.fromkeys(map(str, Status), 0)
    total = workspace.catalog.images.count(begun.dataset_id)
    names, write = ImageNames(workspace, begun.dataset_id), _WRITERS[style]
    with progress.current().track(f"export {style}", total, "image") as advance:
        found = _exported(released_images(workspace, begun), counts, all_images, advance)
        write(outputs, begun, found, names)
    outputs.write(CARD_FILE, json.dumps({**begun.card, **counts}, indent=2))
    # Missing while it is built, and in the oldest releases.
    report = layout.inside(begun.key, REPORT_FILE)
    if workspace.objects.exists(report):
        with outputs.writing(REPORT_FILE) as fresh:
            workspace.objects.fetch(report, fresh)
    return counts


def _exported(
    found: Iterator[ReleasedImage],
    counts: dict[str, Any],
    all_images: bool,
    advance: progress.Advance,
) -> Iterator[ReleasedImage]:
    """Those that an export has; all are counted by status, and these by what they have."""
    for item in found:
        counts["statuses"][str(item.status)] += 1
        if all_images or item.status != Status.NEITHER:
            yield item
            _count(counts, item)
        advance()


def _write_coco(
    outputs: OutputFolder, begun: Release, found: Iterator[ReleasedImage], names: ImageNames
) -> None:
    with outputs.writing(COCO_FILE) as fresh, CocoWriter(fresh, description=begun.name) as writer:
        for item in found:
            image = item.image
            writer.add_image(
                image.id,
                names.of(image),
                image.height,
                image.width,
                item.masks,
                sha256=image.sha256,
                status=str(item.status),
            )


def _write_sa1b(
    outputs: OutputFolder, begun: Release, found: Iterator[ReleasedImage], names: ImageNames
) -> None:
    for item in found:
        image = item.image
        with outputs.writing(f"sa_{image.id}.json") as fresh:
            write_sa1b(
                fresh,
                image.id,
                names.of(image),
                image.height,
                image.width,
                item.masks,
                status=str(item.status),
            )


_WRITERS = {"coco": _write_coco, "sa1b": _write_sa1b}


def _export_names(workspace: Workspace, begun: Release, style: str) -> Iterator[str]:
    """Of the files that an export writes."""
    yield from (CARD_FILE, REPORT_FILE)
    if style == "coco":
        yield COCO_FILE
    else:
        yield from (f"sa_{i}.json" for i in workspace.catalog.images.ids(begun.dataset_id))


def _count(counts: dict[str, Any], item: ReleasedImage) -> None:
    counts["images"] += 1
    counts["masks"] += len(item.masks)
    for mask in item.masks:
        for group, value in (("stages", str(mask.stage)), ("sources", str(mask.source))):
            counts[group][value] = counts[group].get(value, 0) + 1
        if mask.model and mask.model not in counts["models"]:
            counts["models"].append(mask.model)
