"""Runs that make the vectors of a dataset's masks with one encoder.

A run covers the images whose masks lack vectors of the encoder's version, and is cut into shards
(`flows.stages.shards`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from prefect import flow

from engine.core.records import Mask
from flows.encoders.load import mask_encoder
from flows.stages.shard_files import commit_file
from flows.stages.shards import plan_shards, shard_task, work_until_done
from flows.workspace import progress
from flows.workspace.run_lock import named_lock, tracked_run
from flows.workspace.workspace import Workspace, code_version, open_workspace
from storage.catalog import Dataset, Run, RunKind, RunState, Shard
from storage.catalog.sessions import new_id
from storage.formats.images import BadImageError
from storage.vectors import MaskVectors, VectorFiles

STAGE = "mask_vectors"
"""In the quarantine: what an image could not be read for."""

RUNS = 10_000
"""Latest runs of a dataset that are searched."""


@dataclass(frozen=True, kw_only=True, slots=True)
class VectorFigures:
    """Figures of a run: images, masks, and seconds of all machines."""

    run_id: str | None
    encoder: str
    images: int
    masks: int
    machine_seconds: float

    def to_json(self) -> dict[str, Any]:
        """The stored form."""
        return asdict(self)


def vector_files(workspace: Workspace) -> VectorFiles:
    """Return the vector files of the workspace."""
    return VectorFiles(workspace.objects, workspace.cache / "vectors")


@flow(name="mask-vectors")
def make_vectors(workspace: str, dataset: str, encoder: str = "lite") -> dict[str, Any]:
    """Prefect flow: make the vectors that a dataset's masks lack; a stopped run resumes.

    Args:
        encoder: `lite`, `imagenet` or `clip:NAME`.
    """
    opened = open_workspace(workspace)
    row = opened.catalog.datasets.get(dataset)
    version = mask_encoder(opened, encoder).version
    with named_lock(opened, f"vectors/{row.id}"):  # or two would plan the same images
        run = _unfinished(opened, row, version) or _start(opened, row, encoder, version)
    if run is None:
        nothing = VectorFigures(run_id=None, encoder=version, images=0, masks=0, machine_seconds=0)
        return nothing.to_json()
    with tracked_run(opened, run.id):
        totals = work_until_done(opened, run.id, _one_shard, "vectors")
        figures = VectorFigures(
            run_id=run.id,
            encoder=version,
            images=totals.images,
            masks=totals.masks,
            machine_seconds=totals.seconds,
        )
        opened.catalog.runs.finish(run.id, figures.to_json())
    return figures.to_json()


def vector_runs(workspace: Workspace, dataset: Dataset, version: str | None = None) -> list[Run]:
    """Return the runs that made, or are making, vectors of a dataset, the latest first: with one
    encoder version, or all."""
    runs = workspace.catalog.runs.all(dataset_id=dataset.id, kind=RunKind.VECTORS, limit=RUNS)
    return [run for run in runs if version is None or run.config["encoder"] == version]


def read_vectors(workspace: Workspace, dataset: Dataset, version: str) -> list[MaskVectors]:
    """Return the vectors that a dataset's masks have of an encoder version, mapped from files."""
    ids = [run.id for run in reversed(vector_runs(workspace, dataset, version))]
    return list(vector_files(workspace).read(ids))


def _unfinished(workspace: Workspace, dataset: Dataset, version: str) -> Run | None:
    for run in vector_runs(workspace, dataset, version):
        if run.state != RunState.FINISHED and workspace.catalog.shards.totals(run.id).shards:
            return run
    return None


def _start(workspace: Workspace, dataset: Dataset, name: str, version: str) -> Run | None:
    """Plan a run over the images with masks that lack vectors, without those that could not be
    read; None if there are none."""
    unread = workspace.catalog.quarantine.of_images(dataset.id, stage=STAGE)
    lacking = _images_without_vectors(workspace, dataset, version)
    image_ids = sorted(lacking - {one.image_id for one in unread})
    if not image_ids:
        return None
    run = workspace.catalog.runs.start(
        new_id(),
        RunKind.VECTORS,
        dataset_id=dataset.id,
        model=version,
        config={
            "name": name,
            "encoder": version,
            "settings": workspace.settings.shaping(),
        },
        code_version=code_version(),
    )
    plan_shards(workspace, run.id, image_ids)
    return run


def _images_without_vectors(workspace: Workspace, dataset: Dataset, version: str) -> set[int]:
    known = [block.mask_ids for block in read_vectors(workspace, dataset, version)]
    have = pa.chunked_array(known, pa.string())
    found: set[int] = set()
    columns = ("mask_id", "image_id", "area")
    for batch in workspace.masks.scan(dataset=dataset.name, columns=columns, current_only=True):
        lacks = pc.and_(pc.invert(pc.is_in(batch["mask_id"], have)), pc.greater(batch["area"], 0))
        found.update(pc.unique(batch["image_id"].filter(lacks)).to_pylist())
    return found


def _work(workspace: Workspace, run: Run, shard: Shard, advance: progress.Advance) -> None:
    files = vector_files(workspace)
    commit_file(workspace, shard, files, lambda: _encode_shard(workspace, run, shard, advance))


_one_shard = shard_task("vector-shard", _work)


def _encode_shard(
    workspace: Workspace, run: Run, shard: Shard, advance: progress.Advance
) -> MaskVectors:
    """Return the vectors of the masks on a shard's images that no earlier run made."""
    encoder = mask_encoder(workspace, run.config["name"])
    ids: list[str] = []
    images: list[int] = []
    vectors = [np.zeros((0, encoder.dimensions), np.float16)]
    for image_id, masks in _masks_by_image(workspace, run, shard.image_ids):
        try:
            image = workspace.catalog.images.get(image_id)
            vectors.append(encoder.encode(workspace.pixels(image), [mask.rle for mask in masks]))
        except BadImageError as error:
            workspace.catalog.quarantine.add_image(image, error, stage=STAGE)
        else:
            ids += [mask.mask_id for mask in masks]
            images += [image_id] * len(masks)
        advance(1, f"{len(ids):,} masks")
    return MaskVectors(
        pa.array(ids, pa.string()), np.array(images, np.int64), np.concatenate(vectors)
    )


def _masks_by_image(
    workspace: Workspace, run: Run, image_ids: Sequence[int]
) -> Iterator[tuple[int, list[Mask]]]:
    dataset = workspace.catalog.datasets.get_by_id(run.dataset_id)
    runs = vector_runs(workspace, dataset, run.config["encoder"])
    earlier = [one.id for one in runs if one.id != run.id]
    have: set[str] = set()
    for block in vector_files(workspace).read(earlier):
        mine = np.isin(block.image_ids, image_ids)
        have.update(block.mask_ids.filter(pa.array(mine)).to_pylist())
    by_image: dict[int, list[Mask]] = {image_id: [] for image_id in image_ids}
    for mask in workspace.masks.masks(image_ids=list(image_ids), current_only=True):
        if mask.area and mask.mask_id not in have and mask.dataset == dataset.name:
            by_image[mask.image_id].append(mask)
    yield from by_image.items()
