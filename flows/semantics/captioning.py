"""Runs that describe a dataset's masks or images, and what their captions are used for.

A run covers the masks, or images, without a caption of the model's version, and is cut into shards
(`flows.stages.shards`). Captions lie beside the mask table (`storage.shard_rows`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from prefect import flow

from engine.core.errors import DataEngineError
from engine.core.overlay import shrink
from engine.core.records import Mask
from engine.semantics.captions import Captioner, ChatCaptioner, match, thing_names
from engine.semantics.crops import cut_crops
from engine.semantics.mask_pictures import SCALE, outlined
from flows.stages.shard_files import rows_task
from flows.stages.shards import plan_shards, work_until_done
from flows.workspace import progress
from flows.workspace.endpoint import chat_of
from flows.workspace.run_lock import named_lock, tracked_run
from flows.workspace.workspace import Workspace, code_version, open_workspace
from storage import layout
from storage.catalog import Dataset, Run, RunKind, RunState, Shard, new_id
from storage.formats.images import BadImageError
from storage.shard_rows import ShardRows

STAGE = "captions"
"""In the quarantine: what an image could not be read for."""
LLM = "llm"
"""Name of the captioner that asks the settings' language model; others are `coca:NAME`."""
SIDE = 384
"""Of the pictures of masks and images that are described, in pixels."""
RUNS = 1_000

What = Literal["masks", "images"]


class CaptionError(DataEngineError):
    """There is nothing to describe, or there are no captions; the message says what to do."""


@lru_cache(maxsize=1)
def _captioner(root: str, model: str) -> Captioner:
    """The captioner, loaded once in a process."""
    workspace = open_workspace(root)
    if model == LLM:
        return ChatCaptioner(chat_of(workspace))
    if not model.startswith("coca:"):
        raise CaptionError(f"a captioner is {LLM} or coca:NAME (docs/words.md), got {model!r}")
    from engine.semantics.coca import load_coca

    return load_coca(model, device=workspace.device())


@flow(name="caption-dataset")
def caption_dataset(
    workspace: str, dataset: str, what: str = "masks", model: str = LLM, limit: int | None = None
) -> dict[str, Any]:
    """Prefect flow: describe the masks or images that lack a caption; a stopped run resumes.

    Args:
        workspace: the folder.
        dataset: its name.
        what: `masks` or `images`.
        model: `llm`, the language model of the settings, or `coca:NAME`.
        limit: the most images.

    Returns:
        `run` (None if nothing lacked a caption), `model`, its version, `images` and `captions`.
    """
    opened = open_workspace(workspace)
    row = opened.catalog.datasets.get(dataset)
    version = _captioner(str(opened.settings.root), model).version
    asked = {"what": what, "model": model, "limit": limit}
    with named_lock(opened, f"captions/{row.id}"):  # or two would plan the same images
        run = _unfinished(opened, row, version, asked) or _start(opened, row, version, asked)
    if run is None:
        return {"run": None, "model": version, "images": 0, "captions": 0}
    with tracked_run(opened, run.id):
        totals = work_until_done(opened, run.id, _one_shard, "captions")
        figures = {
            "run": run.id,
            "model": version,
            "images": totals.images,
            "captions": totals.masks,
        }
        opened.catalog.runs.finish(run.id, figures)
    return figures


def caption_runs(workspace: Workspace, dataset: Dataset) -> list[Run]:
    """Return the runs that made, or are making, captions of a dataset, the latest first."""
    return workspace.catalog.runs.all(dataset_id=dataset.id, kind=RunKind.CAPTIONS, limit=RUNS)


def _unfinished(
    workspace: Workspace, dataset: Dataset, version: str, asked: dict[str, Any]
) -> Run | None:
    for run in caption_runs(workspace, dataset):
        is_same = run.model == version and run.config["asked"] == asked
        if is_same and run.state != RunState.FINISHED:
            return run
    return None


def _start(
    workspace: Workspace, dataset: Dataset, version: str, asked: dict[str, Any]
) -> Run | None:
    if asked["what"] == "masks":
        counts = workspace.masks.counts(("image_id",), dataset=dataset.name, current_only=True)
        known = {int(str(key[0])) for key in counts}
    else:
        known = set(workspace.catalog.images.ids(dataset.id))
    if not known:
        raise CaptionError(f"dataset {dataset.name!r} has no {asked['what']} to describe")
    unread = workspace.catalog.quarantine.of_images(dataset.id, stage=STAGE)
    lacking = known - {one.image_id for one in unread}
    lacking -= _described(workspace, dataset, version, asked["what"])
    image_ids = sorted(lacking)[: asked["limit"]]
    if not image_ids:
        return None
    run = workspace.catalog.runs.start(
        new_id(),
        RunKind.CAPTIONS,
        dataset_id=dataset.id,
        model=version,
        config={"asked": asked, "settings": workspace.settings.shaping()},
        code_version=code_version(),
    )
    plan_shards(workspace, run.id, image_ids)
    return run


def _described(workspace: Workspace, dataset: Dataset, version: str, what: str) -> set[int]:
    """Return the images that need no caption: described ones, or those whose current masks all
    are."""
    captions = [one for one in captions_of(workspace, dataset) if one.model == version]
    if what == "images":
        return {one.image_id for one in captions if one.mask_id is None}
    have = {one.mask_id for one in captions}
    lacking: set[int] = set()
    found: set[int] = set()
    columns = ("mask_id", "image_id", "area")
    for batch in workspace.masks.scan(dataset=dataset.name, columns=columns, current_only=True):
        for row in batch.to_pylist():
            found.add(row["image_id"])
            if row["area"] and row["mask_id"] not in have:
                lacking.add(row["image_id"])
    return found - lacking


def _rows(
    workspace: Workspace, run: Run, shard: Shard, advance: progress.Advance
) -> list[dict[str, Any]]:
    asked = run.config["asked"]
    captioner = _captioner(str(workspace.settings.root), asked["model"])
    dataset = workspace.catalog.datasets.get_by_id(run.dataset_id)
    have = _masks_of_earlier_runs(workspace, dataset, run)
    found: list[dict[str, Any]] = []
    for image in workspace.catalog.images.get_many(shard.image_ids):
        ids: list[str | None] = [None]
        masks: list[Mask] = []
        if asked["what"] == "masks":
            masks = [
                mask
                for mask in workspace.masks.masks(
                    dataset=dataset.name, image_ids=[image.id], current_only=True
                )
                if mask.area and mask.mask_id not in have
            ]
            ids = [mask.mask_id for mask in masks]
        try:
            pixels = workspace.pixels(image)
        except BadImageError as error:
            workspace.catalog.quarantine.add_image(image, error, stage=STAGE)
            continue
        said = captioner.caption(_shown(captioner, pixels, masks, asked["what"]), asked["what"])
        for mask_id, caption in zip(ids, said, strict=True):
            row = {"image_id": image.id, "mask_id": mask_id, "caption": caption}
            found.append(row | {"model": run.model})
        advance(1, f"{len(found):,} captions")
    return found


_one_shard = rows_task("caption-shard", layout.CAPTIONS, _rows)


def _masks_of_earlier_runs(workspace: Workspace, dataset: Dataset, run: Run) -> set[str | None]:
    files = ShardRows(workspace.objects, layout.CAPTIONS)
    runs = caption_runs(workspace, dataset)
    earlier = [one.id for one in runs if one.id != run.id and one.model == run.model]
    return {row["mask_id"] for one in earlier for row in files.read(one, ["mask_id"])}


def _shown(
    captioner: Captioner, pixels: np.ndarray, masks: Sequence[Mask], what: str
) -> list[np.ndarray]:
    """The pictures that are described, RGB uint8 (H, W, 3)."""
    if what == "images":
        return [shrink(pixels, SIDE)]
    rles = [mask.rle for mask in masks]
    if captioner.wants_outline:
        return list(outlined(pixels, rles, SIDE))
    return list(cut_crops(pixels, rles, SCALE, SIDE).pixels_NSSC)


@dataclass(frozen=True, kw_only=True, slots=True)
class Caption:
    """A caption of a mask, or of an image: then `mask_id` is None. `score`: of a search."""

    image_id: int
    mask_id: str | None
    caption: str
    model: str
    score: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


def captions_of(workspace: Workspace, dataset: Dataset) -> Iterator[Caption]:
    """Yield the captions of a dataset, of all models, those of the oldest run first."""
    files = ShardRows(workspace.objects, layout.CAPTIONS)
    for run in reversed(caption_runs(workspace, dataset)):
        for row in files.read(run.id):
            yield Caption(**row)


def latest_captions(workspace: Workspace, dataset: Dataset) -> list[Caption]:
    """Return the newest caption of each current mask and of each image.

    Raises:
        CaptionError: there are none.
    """
    newest: dict[tuple[int, str | None], Caption] = {}
    for one in captions_of(workspace, dataset):
        newest[one.image_id, one.mask_id] = one
    current = {
        mask_id
        for batch in workspace.masks.scan(
            dataset=dataset.name, columns=["mask_id"], current_only=True
        )
        for mask_id in batch["mask_id"].to_pylist()
    }
    found = [one for one in newest.values() if one.mask_id is None or one.mask_id in current]
    if not found:
        raise CaptionError(
            f"{dataset.name} has no captions; run `dataengine caption --dataset {dataset.name}`"
        )
    return found


def find_captions(workspace: Workspace, dataset: Dataset, words: str, count: int) -> list[Caption]:
    """Return the captions that fit words best (`engine.semantics.captions.match`), the best first.

    Raises:
        CaptionError: the dataset has no captions.
    """
    scored = (
        Caption(**{**one.to_json(), "score": score})
        for one in latest_captions(workspace, dataset)
        if (score := match(one.caption, words)) > 0
    )
    return sorted(scored, key=lambda one: (-one.score, one.image_id, one.mask_id or ""))[:count]


def names_in_captions(workspace: Workspace, dataset: Dataset) -> tuple[list[tuple[str, int]], int]:
    """Return the things that the newest captions name, with the number of captions that name each,
    the most frequent first; and the number of captions.

    Raises:
        CaptionError: the dataset has no captions.
    """
    found = latest_captions(workspace, dataset)
    return thing_names(one.caption for one in found), len(found)
