"""Stage 3: masks of everything, with nobody asked (SAM paper, section 4 and appendix B).

The run is cut into shards. A worker leases a shard, makes its masks, commits them to the mask table
in one commit and then marks the shard: killed in between, the next worker finds the commit and only
marks it.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
from prefect import flow, task

from engine.automatic import MaskGenerator, preset
from engine.core.records import Mask, Source
from flows.stages import ray_shards
from flows.stages.rounds import context_of
from flows.stages.run_context import RunContext, context_without_round
from flows.workspace import costs, logs, progress
from flows.workspace.retry import kept_alive, patiently
from flows.workspace.run_lock import guarded, owner
from flows.workspace.workspace import Workspace, code_version, open_workspace
from storage.catalog import (
    CatalogError,
    Dataset,
    Image,
    LeaseLostError,
    Round,
    Run,
    RunKind,
    RunState,
    Shard,
    ShardTotals,
)
from storage.formats.images import BadImageError

log = logging.getLogger(__name__)

RUNS = 1_000
"""Runs that are looked through for one to go on with, the latest ones."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerationFigures:
    """What came of a run of stage 3."""

    images: int
    masks: int
    machine_seconds: float

    def to_json(self) -> dict[str, Any]:
        """The stored form; nobody clicks in this stage."""
        return {
            "images": self.images,
            "masks": self.masks,
            "masks_per_image": self.masks / self.images if self.images else 0.0,
            "machine_seconds": self.machine_seconds,
            "clicks_per_mask": None,
            "seconds_per_mask": None,
        }


@flow(name="fully-automatic")
def fully_automatic(workspace: str, round_id: int) -> dict[str, Any]:
    """Stage 3 as a round of the loop."""
    opened = open_workspace(workspace)
    row: Round = opened.catalog.rounds.get(round_id)
    image_ids = opened.catalog.rounds.image_ids(row.id)
    return generate_run(opened, context_of(opened, row), image_ids).to_json()


@flow(name="generate")
def generate(
    workspace: str,
    run_id: str,
    dataset: str,
    image_ids: list[int] | None = None,
    limit: int | None = None,
    only_new: bool = False,
) -> dict[str, Any]:
    """Stage 3 by itself: a dataset-generation job. A run of this id that was planned before goes on
    as it was planned.

    Args:
        image_ids: some thousands at most, as Prefect keeps parameters; None: all of the dataset's
            images. limit: the first so many of these. only_new: of these, the ones that no such run
            has been over.
    """
    opened = open_workspace(workspace)
    run = start_generate(opened, run_id, dataset, limit=limit, only_new=only_new)
    with guarded(opened, run.id):
        chosen = planned_images(opened, run) if image_ids is None else image_ids[:limit]
        figures = generate_run(opened, _context_of_run(opened, run.id), chosen).to_json()
        opened.catalog.runs.finish(run.id, figures)
    return figures


def start_generate(
    workspace: Workspace, run_id: str, dataset: str, *, limit: int | None, only_new: bool
) -> Run:
    """The row of a run of `generate`, made or found; its config says which images it is for."""
    return workspace.catalog.runs.start(
        run_id,
        RunKind.FULLY_AUTOMATIC,
        dataset_id=workspace.catalog.datasets.get(dataset).id,
        model=workspace.current_model().version,
        config={**_config(workspace, limit, only_new), "settings": workspace.settings.shaping()},
        code_version=code_version(),
    )


def _config(workspace: Workspace, limit: int | None, only_new: bool) -> dict[str, Any]:
    settings = workspace.settings.generator.model_dump()
    return {**settings, "limit": limit, "only_new": only_new}


def unfinished_generate(
    workspace: Workspace, dataset: str, *, limit: int | None, only_new: bool
) -> Run | None:
    """The run that the same `generate` began last, with the same settings and the current model, if
    it is not finished: whatever stopped it, the rest of its shards can be worked on."""
    wanted = _config(workspace, limit, only_new), workspace.current_model().version
    for run in workspace.catalog.runs.all(
        dataset_id=workspace.catalog.datasets.get(dataset).id,
        kind=RunKind.FULLY_AUTOMATIC,
        limit=RUNS,
    ):
        config = {name: value for name, value in run.config.items() if name != "settings"}
        if run.round_id is None and (config, run.model) == wanted:
            return None if run.state == RunState.FINISHED else run
    return None


def planned_images(workspace: Workspace, run: Run) -> Iterator[int]:
    """Ids of the images that a run of `generate` is for, by its config; millions are no list."""
    limit = run.config.get("limit")
    if run.config.get("only_new"):
        dataset = workspace.catalog.datasets.get_by_id(run.dataset_id)
        return islice(images_without_masks(workspace, dataset), limit)
    return workspace.catalog.images.ids(run.dataset_id, limit=limit)


def images_since(workspace: Workspace, run: Run) -> int:
    """How many images came into the dataset after a run of all its images was cut into shards; 0
    for a run of some of them."""
    planned = workspace.catalog.shards.totals(run.id).images
    if not planned or run.config.get("limit") or run.config.get("only_new"):
        return 0
    return workspace.catalog.images.count(run.dataset_id) - planned


def images_without_masks(workspace: Workspace, dataset: Dataset) -> Iterator[int]:
    """Ids of the images that are in no shard of a fully automatic run."""
    done = workspace.catalog.shards.planned_images(dataset.id, RunKind.FULLY_AUTOMATIC)
    for image_id in workspace.catalog.images.ids(dataset.id):
        if image_id not in done:
            yield image_id


@task(name="generate-shard")
def generate_shard(workspace: str, run_id: str) -> int | None:
    """One task run is one shard: the next free one; None when none is free."""
    opened = open_workspace(workspace)
    return patiently(opened.settings.outage_seconds, lambda: next_shard(opened, run_id))


def next_shard(workspace: Workspace, run_id: str) -> int | None:
    """Lease the next free shard, and make and commit its masks. After a failure it is given back.

    Returns:
        How many images it had; 0 where another worker took it over meanwhile, None when none is
        free.
    """
    shards = workspace.catalog.shards
    workspace = workspace.as_started(workspace.catalog.runs.get(run_id))
    shard = shards.lease(run_id, owner(), workspace.settings.lease_seconds)
    if shard is None:
        return None
    images = len(shard.image_ids)
    try:
        with progress.current().track(f"shard {shard.shard}", images, "image") as step:
            work_shard(workspace, _context_of_run(workspace, run_id), shard, step)
    except LeaseLostError as error:
        log.warning("shard left to another worker", extra={"run_id": run_id, "shard": shard.shard})
        progress.current().say(f"[yellow]{error}[/yellow]")
        return 0
    except BaseException:
        with contextlib.suppress(CatalogError):  # then it is free once the lease has run out
            shards.release(run_id, shard.shard, str(shard.lease_id))
        raise
    return images


def generate_run(
    workspace: Workspace, context: RunContext, image_ids: Iterable[int] = ()
) -> GenerationFigures:
    """Cut the run into shards, if that is not done, and work until all are committed: here, or on
    Ray where the settings say so.

    Raises:
        ScaleOutError: Ray does not answer, or lost a shard's workers again and again.
        OutageError: the catalog or the store did not answer for long.
    """
    shards, before = workspace.catalog.shards, plan_shards(workspace, context.run_id, image_ids)
    root, patience = str(workspace.settings.root), workspace.settings.outage_seconds
    with progress.current().track("generate", before.images, "image") as advance:
        advance(before.committed_images)
        if workspace.settings.runner == "ray":
            ray_shards.work_on_ray(workspace, context.run_id, generate_shard)
        else:
            while patiently(patience, lambda: shards.remaining(context.run_id)):
                if generate_shard(root, context.run_id) is None:
                    time.sleep(min(1.0, workspace.settings.lease_seconds / 4))
    totals = patiently(patience, lambda: shards.totals(context.run_id))
    return GenerationFigures(
        images=totals.images, masks=totals.masks, machine_seconds=totals.seconds
    )


def plan_shards(workspace: Workspace, run_id: str, image_ids: Iterable[int]) -> ShardTotals:
    """Cut a run into shards, unless it has some; `image_ids` is read a part at a time."""
    shards = workspace.catalog.shards
    workspace = workspace.as_started(workspace.catalog.runs.get(run_id))
    shards.plan(run_id, _cut(image_ids, workspace.settings.shard_images))
    return shards.totals(run_id)


def _cut(image_ids: Iterable[int], size: int) -> Iterator[list[int]]:
    rest = iter(image_ids)
    while part := list(islice(rest, size)):
        yield part


def work_shard(
    workspace: Workspace, context: RunContext, shard: Shard, advance: progress.Advance
) -> None:
    """Make and commit the masks of a leased shard.

    Raises:
        LeaseLostError: another worker has taken it over; its commit stands.
    """
    began, seconds = time.monotonic(), workspace.settings.lease_seconds
    patience = workspace.settings.outage_seconds
    ids = {"run_id": context.run_id, "shard": shard.shard}
    with (
        logs.bound(**ids),
        costs.spending(workspace, context.run_id),
        kept_alive(partial(_renew, workspace, shard), seconds),
    ):
        masks: list[Mask] = []
        if not workspace.masks.committed(context.run_id, shard.shard):
            masks = _shard_masks(workspace, context, shard, advance)
        patiently(patience, lambda: _hand_in(workspace, context, shard, masks, began))
    log.info("shard committed", extra={**ids, "images": len(shard.image_ids)})


def _renew(workspace: Workspace, shard: Shard) -> None:
    seconds, lease = workspace.settings.lease_seconds, str(shard.lease_id)
    workspace.catalog.shards.renew(shard.run_id, shard.shard, lease, seconds)


def _hand_in(
    workspace: Workspace, context: RunContext, shard: Shard, masks: list[Mask], began: float
) -> None:
    """Put the masks in the table, then mark the shard. May be done again, also half-done."""
    _renew(workspace, shard)  # not ours any more: let the other one commit
    version = workspace.masks.commit(masks, run_id=context.run_id, shard=shard.shard)
    # Counted from the table, as they may be another worker's; by image, as that reads one file.
    counts = workspace.masks.counts(("shard",), run_id=context.run_id, image_ids=shard.image_ids)
    workspace.catalog.shards.commit(
        context.run_id,
        shard.shard,
        str(shard.lease_id),
        masks=counts.get((shard.shard,), 0),
        table_version=version,
        seconds=time.monotonic() - began,
    )


def _shard_masks(
    workspace: Workspace, context: RunContext, shard: Shard, advance: progress.Advance
) -> list[Mask]:
    generator = mask_generator(workspace, context.model)
    origin = context.provenance(Source.AUTOMATIC, shard=shard.shard)
    masks: list[Mask] = []
    images = 0
    for image, pixels in _read_ahead(workspace, workspace.catalog.images.get_many(shard.image_ids)):
        try:
            found = generator.generate(pixels.result())
        except BadImageError as error:
            workspace.catalog.quarantine.add(
                context.dataset_id,
                image.file_name,
                str(error),
                stage=context.stage,
                image_id=image.id,
            )
        else:
            masks += [mask.as_mask(origin, image.id, n) for n, mask in enumerate(found)]
            images += 1
        advance(1, f"{len(masks) / max(images, 1):.1f} masks/image")
    return masks


def _read_ahead(
    workspace: Workspace, images: Sequence[Image]
) -> Iterator[tuple[Image, Future[np.ndarray]]]:
    """Each image with its pixels, the next one being fetched and decoded meanwhile."""
    patience = workspace.settings.outage_seconds
    with ThreadPoolExecutor(1, "read-ahead") as pool:
        waiting: list[tuple[Image, Future[np.ndarray]]] = []
        for image in images:
            read = partial(workspace.pixels, image)
            waiting.append((image, pool.submit(patiently, patience, read)))
            if len(waiting) == 2:
                yield waiting.pop(0)
        yield from waiting


def mask_generator(workspace: Workspace, model: str) -> MaskGenerator:
    """The generator with the workspace's settings and one model version."""
    chosen = workspace.settings.generator.model_dump(exclude_none=True, exclude={"precision"})
    config = preset(chosen.pop("preset"), **chosen)
    return MaskGenerator(workspace.segmenter(model), config)


def _context_of_run(workspace: Workspace, run_id: str) -> RunContext:
    run = workspace.catalog.runs.get(run_id)
    if run.round_id is not None:
        return context_of(workspace, workspace.catalog.rounds.get(run.round_id))
    return context_without_round(workspace, run)
