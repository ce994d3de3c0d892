"""Stage 3: masks of everything, with nobody asked (SAM paper, section 4 and appendix B).

The run is cut into shards. A worker leases a shard, makes its masks, commits them to the mask table
in one commit and then marks the shard: killed in between, the next worker finds the commit and only
marks it.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
from prefect import flow, task

from engine.automatic import MaskGenerator, preset
from engine.core.records import Mask, Source, Stage
from flows import progress
from flows.collecting import Job, masks_of
from flows.rounds import job_of
from flows.wiring import Workspace, code_version, open_workspace
from storage.catalog import Image, Round, RunKind, Shard, ShardState
from storage.formats.images import BadImageError
from storage.objects import ObjectNotFoundError


@flow(name="fully-automatic")
def fully_automatic(workspace: str, round_id: int) -> dict[str, Any]:
    """Stage 3 as a round of the loop."""
    opened = open_workspace(workspace)
    row: Round = opened.catalog.rounds.get(round_id)
    image_ids = opened.catalog.rounds.image_ids(row.id)
    return generate_run(opened, job_of(opened, row), image_ids)


@flow(name="generate")
def generate(
    workspace: str, run_id: str, dataset: str, image_ids: list[int] | None = None
) -> dict[str, Any]:
    """Stage 3 by itself: a dataset-generation job over `image_ids`, or what a run of this id was
    planned for before."""
    opened = open_workspace(workspace)
    row = opened.catalog.datasets.get(dataset)
    model = opened.current_model().version
    run = opened.catalog.runs.start(
        run_id,
        RunKind.FULLY_AUTOMATIC,
        dataset_id=row.id,
        model=model,
        config=opened.settings.generator.model_dump(),
        code_version=code_version(),
    )
    figures = generate_run(opened, _job_of_run(opened, run.id), image_ids or [])
    opened.catalog.runs.finish(run.id, figures)
    return figures


@task(name="generate-shard")
def generate_shard(workspace: str, run_id: str) -> int | None:
    """One task run is one shard: the next free one; None when none is free."""
    opened = open_workspace(workspace)
    shard = opened.catalog.shards.lease(run_id, _owner(), opened.settings.lease_seconds)
    if shard is None:
        return None
    with progress.current().track(f"shard {shard.shard}", len(shard.image_ids), "image") as step:
        work_shard(opened, _job_of_run(opened, run_id), shard, step)
    return len(shard.image_ids)


def generate_run(workspace: Workspace, job: Job, image_ids: Sequence[int]) -> dict[str, Any]:
    """Cut the run into shards, if that is not done, and work until all are committed."""
    size = workspace.settings.shard_images
    workspace.catalog.shards.plan(
        job.run_id, [image_ids[i : i + size] for i in range(0, len(image_ids), size)]
    )
    root = str(workspace.settings.root)
    shards = workspace.catalog.shards.all(job.run_id)
    images = sum(len(shard.image_ids) for shard in shards)
    done = sum(len(s.image_ids) for s in shards if s.state == ShardState.COMMITTED)
    with progress.current().track("generate", images, "image") as advance:
        advance(done)
        while workspace.catalog.shards.remaining(job.run_id):
            if generate_shard(root, job.run_id) is None:
                time.sleep(min(1.0, workspace.settings.lease_seconds / 4))
    totals = workspace.catalog.shards.totals(job.run_id)
    return {
        "images": images,
        "masks": totals.masks,
        "masks_per_image": totals.masks / images if images else 0.0,
        "machine_seconds": totals.seconds,
        "clicks_per_mask": None,
        "seconds_per_mask": None,
    }


def work_shard(workspace: Workspace, job: Job, shard: Shard, advance: progress.Advance) -> None:
    """Make and commit the masks of a leased shard.

    Raises:
        LeaseLostError: another worker has taken it over; its commit stands.
    """
    began, lease_id = time.monotonic(), str(shard.lease_id)
    seconds = workspace.settings.lease_seconds
    shards = workspace.catalog.shards

    def renew() -> object:
        return shards.renew(job.run_id, shard.shard, lease_id, seconds)

    with progress.kept_alive(renew, seconds):
        if not workspace.masks.committed(job.run_id, shard.shard):
            masks = _shard_masks(workspace, job, shard, advance)
            renew()  # not ours any more: let the other one commit
            workspace.masks.commit(masks, run_id=job.run_id, shard=shard.shard)
    counts = workspace.masks.counts(("shard",), run_id=job.run_id)
    shards.commit(
        job.run_id,
        shard.shard,
        lease_id,
        masks=counts.get((shard.shard,), 0),
        table_version=workspace.masks.version(),
        seconds=time.monotonic() - began,
    )


def _shard_masks(
    workspace: Workspace, job: Job, shard: Shard, advance: progress.Advance
) -> list[Mask]:
    generator = mask_generator(workspace, job.model)
    masks: list[Mask] = []
    images = 0
    for image, pixels in _read_ahead(workspace, workspace.catalog.images.get_many(shard.image_ids)):
        try:
            found = generator.generate(pixels.result())
        except (BadImageError, ObjectNotFoundError) as error:
            workspace.catalog.quarantine.add(
                job.dataset_id, image.file_name, str(error), stage=job.stage, image_id=image.id
            )
        else:
            masks += masks_of(job, image.id, found, shard=shard.shard, source=Source.AUTOMATIC)
            images += 1
        advance(1, f"{len(masks) / max(images, 1):.1f} masks/image")
    return masks


def _read_ahead(
    workspace: Workspace, images: Sequence[Image]
) -> Iterator[tuple[Image, Future[np.ndarray]]]:
    """Each image with its pixels, the next one being fetched and decoded meanwhile."""
    with ThreadPoolExecutor(1, "read-ahead") as pool:
        waiting: list[tuple[Image, Future[np.ndarray]]] = []
        for image in images:
            waiting.append((image, pool.submit(workspace.pixels, image)))
            if len(waiting) == 2:
                yield waiting.pop(0)
        yield from waiting


def mask_generator(workspace: Workspace, model: str) -> MaskGenerator:
    """The generator with the workspace's settings and one model version."""
    chosen = workspace.settings.generator.model_dump(exclude_none=True)
    config = preset(chosen.pop("preset"), **chosen)
    return MaskGenerator(workspace.segmenter(model), config)


def _job_of_run(workspace: Workspace, run_id: str) -> Job:
    run = workspace.catalog.runs.get(run_id)
    if run.round_id is not None:
        return job_of(workspace, workspace.catalog.rounds.get(run.round_id))
    return Job(
        run_id=run.id,
        dataset=workspace.catalog.datasets.get_by_id(run.dataset_id).name,
        dataset_id=run.dataset_id,
        round_id=None,
        stage=Stage.FULLY_AUTOMATIC,
        round=0,
        model=str(run.model),
    )


def _owner() -> str:
    return f"{socket.gethostname()}:{os.getpid()}"
