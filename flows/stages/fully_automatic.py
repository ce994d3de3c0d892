"""Stage 3: masks of everything, without annotators (SAM paper, section 4 and appendix B).

The run is cut into shards (`flows.stages.shards`); a shard's masks are one commit of the mask
table.
"""

from __future__ import annotations

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
from flows.encoders.names import PUBLISHED_CLIP
from flows.stages.asked_words import AskedWords, WordFilter, label_words, word_figures
from flows.stages.rounds import context_of
from flows.stages.run_context import RunContext, context_without_round
from flows.stages.shards import leased, plan_shards, renew, take_shard, work_until_done
from flows.workspace import progress
from flows.workspace.retry import retry_during_outage
from flows.workspace.run_lock import tracked_run
from flows.workspace.workspace import Workspace, code_version, open_workspace
from storage.catalog import (
    Dataset,
    Image,
    Round,
    Run,
    RunKind,
    RunState,
    Shard,
)
from storage.formats.images import BadImageError

log = logging.getLogger(__name__)

RUNS = 1_000
"""Latest runs searched for one to resume."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerationFigures:
    """Figures of a run of stage 3."""

    images: int
    masks: int
    machine_seconds: float

    def to_json(self) -> dict[str, Any]:
        """The stored form; this stage has no clicks."""
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
    """Prefect flow of stage 3 as a round of the loop; returns the figures in stored form."""
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
    text: str | None = None,
    encoder: str = PUBLISHED_CLIP,
    least: float = 0.5,
) -> dict[str, Any]:
    """Prefect flow of stage 3 outside the loop. A run of this id that is already planned resumes
    with its plan.

    Args:
        image_ids: a few thousand at most, as Prefect stores parameters; None: all images of the
            dataset. limit: maximum number of these, the first ones. only_new: only images that no
            such run has covered. text: words with commas between, to keep only their masks,
            with at least the probability `least` by `encoder`.

    Raises:
        EncoderError: the encoder reads no words, or is not installed.
        WordError: ImageNet lacks a word.
    """
    opened = open_workspace(workspace)
    asked = AskedWords.parse(text, encoder, least) if text else None
    run = start_generate(opened, run_id, dataset, limit=limit, only_new=only_new, asked=asked)
    with tracked_run(opened, run.id):
        chosen = planned_images(opened, run) if image_ids is None else image_ids[:limit]
        figures = generate_run(opened, _context_of_run(opened, run.id), chosen).to_json()
        figures |= word_figures(opened, run)
        opened.catalog.runs.finish(run.id, figures)
    return figures


def start_generate(
    workspace: Workspace,
    run_id: str,
    dataset: str,
    *,
    limit: int | None,
    only_new: bool,
    asked: AskedWords | None = None,
) -> Run:
    """Create or find the row of a run of `generate`; its config defines the run's images, and the
    words that masks are kept for."""
    config = _config(workspace, limit, only_new, asked)
    return workspace.catalog.runs.start(
        run_id,
        RunKind.WORDS if asked else RunKind.FULLY_AUTOMATIC,
        dataset_id=workspace.catalog.datasets.get(dataset).id,
        model=workspace.current_model().version,
        config={**config, "settings": workspace.settings.shaping()},
        code_version=code_version(),
    )


def _config(
    workspace: Workspace, limit: int | None, only_new: bool, asked: AskedWords | None
) -> dict[str, Any]:
    settings = workspace.settings.generator.model_dump()
    words = asked.to_config() if asked else {}
    return {**settings, "limit": limit, "only_new": only_new, **words}


def unfinished_generate(
    workspace: Workspace,
    dataset: str,
    *,
    limit: int | None,
    only_new: bool,
    asked: AskedWords | None = None,
) -> Run | None:
    """Return the latest run of the same `generate`, with the same settings and the current model,
    if it is unfinished: it can resume, whatever stopped it."""
    same = _config(workspace, limit, only_new, asked), workspace.current_model().version
    for run in workspace.catalog.runs.all(
        dataset_id=workspace.catalog.datasets.get(dataset).id,
        kind=RunKind.WORDS if asked else RunKind.FULLY_AUTOMATIC,
        limit=RUNS,
    ):
        config = {name: value for name, value in run.config.items() if name != "settings"}
        if run.round_id is None and (config, run.model) == same:
            return None if run.state == RunState.FINISHED else run
    return None


def planned_images(workspace: Workspace, run: Run) -> Iterator[int]:
    """Yield the ids of the images of a run of `generate`, by its config."""
    limit = run.config.get("limit")
    if run.config.get("only_new"):
        dataset = workspace.catalog.datasets.get_by_id(run.dataset_id)
        return islice(images_without_masks(workspace, dataset), limit)
    return workspace.catalog.images.ids(run.dataset_id, limit=limit)


def images_since(workspace: Workspace, run: Run) -> int:
    """Return how many images were ingested after a run over the whole dataset was planned; 0 for a
    run over a part."""
    planned = workspace.catalog.shards.totals(run.id).images
    if not planned or run.config.get("limit") or run.config.get("only_new"):
        return 0
    return workspace.catalog.images.count(run.dataset_id) - planned


def images_without_masks(workspace: Workspace, dataset: Dataset) -> Iterator[int]:
    """Yield the ids of the images that are in no shard of a fully automatic run."""
    done = workspace.catalog.shards.planned_images(dataset.id, RunKind.FULLY_AUTOMATIC)
    for image_id in workspace.catalog.images.ids(dataset.id):
        if image_id not in done:
            yield image_id


@task(name="generate-shard")
def generate_shard(workspace: str, run_id: str) -> int | None:
    """Prefect task around `next_shard`: one task run works on one shard."""
    opened = open_workspace(workspace)
    return retry_during_outage(opened.settings.outage_seconds, lambda: next_shard(opened, run_id))


def next_shard(workspace: Workspace, run_id: str) -> int | None:
    """Lease the next free shard, make and commit its masks, as `take_shard`."""
    return take_shard(
        workspace,
        run_id,
        lambda opened, run, shard, advance: work_shard(
            opened, _context_of_run(opened, run.id), shard, advance
        ),
    )


def generate_run(
    workspace: Workspace, context: RunContext, image_ids: Iterable[int] = ()
) -> GenerationFigures:
    """Cut the run into shards, unless it has some, and work until all are committed; errors as in
    `work_until_done`."""
    plan_shards(workspace, context.run_id, image_ids)
    totals = work_until_done(workspace, context.run_id, generate_shard, "generate")
    return GenerationFigures(
        images=totals.images, masks=totals.masks, machine_seconds=totals.seconds
    )


def work_shard(
    workspace: Workspace, context: RunContext, shard: Shard, advance: progress.Advance
) -> None:
    """Make and commit the masks of a leased shard.

    Raises:
        LeaseLostError: another worker took it over; that worker commits.
    """
    began = time.monotonic()
    with leased(workspace, shard):
        masks: list[Mask] = []
        if not workspace.masks.committed(context.run_id, shard.shard):
            masks = _shard_masks(workspace, context, shard, advance)
        retry_during_outage(
            workspace.settings.outage_seconds,
            lambda: _commit_shard(workspace, context, shard, masks, began),
        )
    log.info(
        "shard committed",
        extra={"run_id": shard.run_id, "shard": shard.shard, "images": len(shard.image_ids)},
    )


def _commit_shard(
    workspace: Workspace, context: RunContext, shard: Shard, masks: list[Mask], began: float
) -> None:
    """Commit the masks to the table, then mark the shard. Safe to repeat after any step."""
    renew(workspace, shard)  # raises if the lease is lost: its new owner commits
    version = workspace.masks.commit(masks, run_id=context.run_id, shard=shard.shard)
    # Counts come from the table, as another worker may have committed; by image: reads one file.
    counts = workspace.masks.counts(("shard",), run_id=context.run_id, image_ids=shard.image_ids)
    label_words(workspace, context, shard)
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
    asked = AskedWords.of_run(workspace.catalog.runs.get(context.run_id))
    words = WordFilter(workspace, context, asked) if asked else None
    masks: list[Mask] = []
    images = 0
    for image, pixels in _read_ahead(workspace, workspace.catalog.images.get_many(shard.image_ids)):
        try:
            found = generator.generate(pixels.result())
        except BadImageError as error:
            workspace.catalog.quarantine.add_image(image, error, stage=context.stage)
        else:
            made = [mask.as_mask(origin, image.id, n) for n, mask in enumerate(found)]
            masks += words.kept(pixels.result(), found, made) if words else made
            images += 1
        advance(1, f"{len(masks) / max(images, 1):.1f} masks/image")
    if words:
        words.store(context.run_id, shard.shard)
    return masks


def _read_ahead(
    workspace: Workspace, images: Sequence[Image]
) -> Iterator[tuple[Image, Future[np.ndarray]]]:
    """Yield each image with its pixels, while the next one is fetched and decoded."""
    outage_seconds = workspace.settings.outage_seconds
    with ThreadPoolExecutor(1, "read-ahead") as pool:
        waiting: list[tuple[Image, Future[np.ndarray]]] = []
        for image in images:
            read = partial(workspace.pixels, image)
            waiting.append((image, pool.submit(retry_during_outage, outage_seconds, read)))
            if len(waiting) == 2:
                yield waiting.pop(0)
        yield from waiting


def mask_generator(workspace: Workspace, model: str) -> MaskGenerator:
    """Return the generator with the workspace's settings and one model version."""
    chosen = workspace.settings.generator.model_dump(exclude_none=True, exclude={"precision"})
    config = preset(chosen.pop("preset"), **chosen)
    return MaskGenerator(workspace.segmenter(model), config)


def _context_of_run(workspace: Workspace, run_id: str) -> RunContext:
    run = workspace.catalog.runs.get(run_id)
    if run.round_id is not None:
        return context_of(workspace, workspace.catalog.rounds.get(run.round_id))
    return context_without_round(workspace, run)
