"""A real workspace on a store and a database, with a fake clock, small images, and a fake model."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Protocol

import numpy as np
import pytest

from engine.annotation.embeddings import embedding_key
from engine.annotation.pictures import Pictures
from engine.annotation.service import AnnotationService
from engine.automatic import GeneratedMask
from engine.core import rle as rle_codec
from engine.core.rle import RLE
from flows.loop import advance, data_engine
from flows.loop.advance import run_drained
from flows.prefect_api import events
from flows.release import build
from flows.stages import embeddings, fully_automatic, semi_automatic
from flows.workspace import logs, retry, run_lock
from flows.workspace.setting_sections import OperationsSettings
from flows.workspace.settings import FILE_NAME
from flows.workspace.workspace import Workspace, open_workspace
from storage.annotation_queue import AnnotationQueue
from storage.catalog import Annotator, Catalog
from storage.formats.images import write_png

DATASET = "d"
SIZE = (24, 32)
"""(H, W) of all images."""

FOLDERS = ((0, 1, 2), (2, 3), (4, 5, 6))
"""Which images each folder has that is ingested."""

VARIANTS = ("a", "b")
"""Annotations that come with a folder."""

PEOPLE = {"ada": "annotator", "bob": "annotator", "cleo": "reviewer", "rita": "reviewer"}

STEADY = """
held_out = 0.3
lease_seconds = 60.0
outage_seconds = 60.0
people_lease_seconds = 30.0
people_draft_seconds = 600.0
[production]
retrain_after_accepted = 0
retrain_after_rejected = 0
rescore_images = 0
"""


def square(number: int) -> RLE:
    """One of many small disjoint masks."""
    mask = np.zeros(SIZE, bool)
    row, column = divmod(number % 192, 16)
    mask[2 * row : 2 * row + 2, 2 * column : 2 * column + 2] = True
    return rle_codec.encode(mask)


def truth_of(image: int, variant: str) -> frozenset[RLE]:
    """The masks of an image's annotations."""
    first = 2 * image + (100 if variant == "b" else 0)
    return frozenset(square(first + n) for n in range(2 if variant == "b" else 1))


def pixels_of(image: int) -> np.ndarray:
    """RGB uint8 (H, W, 3), different for each image."""
    return np.random.default_rng(image).integers(0, 255, (*SIZE, 3), np.uint8)


def write_folders(root: Path) -> None:
    """Files to ingest: one folder per image, with annotations beside it."""
    for number, images in enumerate(FOLDERS):
        folder = root / f"folder-{number}"
        folder.mkdir(parents=True)
        for image in images:
            (folder / f"{image}.png").write_bytes(write_png(pixels_of(image)))
        for variant in VARIANTS:
            (root / f"folder-{number}-{variant}.json").write_text(
                json.dumps(_coco(images, variant))
            )


def _coco(images: tuple[int, ...], variant: str) -> dict[str, Any]:
    masks = [(image, rle) for image in images for rle in truth_of(image, variant)]
    return {
        "images": [
            {"id": n, "file_name": f"{n}.png", "height": SIZE[0], "width": SIZE[1]} for n in images
        ],
        "annotations": [
            {"id": n, "image_id": image, "category_id": 1, "segmentation": rle.as_json()}
            for n, (image, rle) in enumerate(masks, 1)
        ],
        "categories": [{"id": 1, "name": "object"}],
    }


class FakeGenerator:
    """Three masks per image, one of which is not confident."""

    segmenter = SimpleNamespace(thresholds=SimpleNamespace(confident_iou=0.9))

    def generate(self, pixels_HWC: np.ndarray) -> list[GeneratedMask]:
        first = int(pixels_HWC[0, 0, 0])
        return [self._mask(square(first + n), score) for n, score in enumerate((0.95, 0.92, 0.6))]

    def _mask(self, rle: RLE, score: float) -> GeneratedMask:
        box = rle_codec.box_xyxy(rle)
        point = (float(box[0]), float(box[1]))
        area = rle_codec.area(rle)
        return GeneratedMask(rle, area, box, score, 0.9, point, (0, 0, SIZE[1], SIZE[0]))


@dataclass
class Clock:
    """The catalog's clock; sleeping advances it."""

    now: datetime = field(default_factory=lambda: datetime.now(UTC))

    def __call__(self) -> datetime:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


class Place(Protocol):
    """Storage of new workspaces: a folder and SQLite, or servers."""

    def lay(self, root: Path) -> str:
        """Create the store and database of a new workspace; returns the lines of its settings for
        them."""
        ...


class World:
    """One workspace. `open` stands for a new process."""

    def __init__(self, place: Place, root: Path, folders: Path) -> None:
        self.root, self.folders, self.clock = root, folders, Clock()
        root.mkdir(parents=True)
        self._lines = place.lay(root)
        self.workspace: Workspace
        self.service: AnnotationService
        self.set_shard_images(2)
        people = self.workspace.catalog.annotators
        self.people: dict[str, Annotator] = {
            name: people.get_or_create(name, role=role) for name, role in PEOPLE.items()
        }
        self.dataset_id = self.workspace.catalog.datasets.get_or_create(DATASET).id

    @property
    def catalog(self) -> Catalog:
        return self.workspace.catalog

    def set_shard_images(self, size: int) -> None:
        """Change a setting that affects results; processes that start later use it."""
        (self.root / FILE_NAME).write_text(f"shard_images = {size}\n{STEADY}{self._lines}")
        self.open()

    def open(self) -> None:
        """Open the workspace as a new process, which knows only store and catalog."""
        self.close()
        open_workspace.cache_clear()
        opened = self.workspace = open_workspace(str(self.root))
        opened.catalog.now = self.clock
        opened.queue = AnnotationQueue(opened.catalog)
        # No other process writes now, so unreferenced objects can be deleted at once.
        at_once = OperationsSettings.model_construct(orphan_days=-0.01, vacuum_days=0.0)
        opened.settings = opened.settings.model_copy(update={"operations": at_once})
        self.service = AnnotationService(
            catalog=opened.catalog,
            queue=opened.queue,
            objects=opened.objects,
            masks=opened.masks,
            embeddings=_Embeddings(opened),  # type: ignore[arg-type]
            pictures=Pictures(lambda image_id: opened.pixels(opened.catalog.images.get(image_id))),
            lease_seconds=opened.settings.people_lease_seconds,
            draft_seconds=opened.settings.people_draft_seconds,
            on_drained=lambda run_id: run_drained(opened, run_id),
        )

    def close(self) -> None:
        if hasattr(self, "workspace"):
            self.workspace.catalog.close()


class _Embeddings:
    """Replaces `EmbeddingCache`: reads the image and stores an embedding."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace

    def get(self, model: str, image_id: int) -> None:
        workspace, key = self._workspace, embedding_key(model, image_id)
        if not workspace.objects.exists(key):
            workspace.pixels(workspace.catalog.images.get(image_id))
            workspace.objects.put(key, b"embedding")

    def prefetch(self, model: str, image_ids: list[int], then: object = None) -> None:
        return


def make_quick(patch: pytest.MonkeyPatch) -> Callable[[World], None]:
    """Replace slow parts that are not under test: models, Prefect, reports, waiting.

    Returns:
        What says whose clock those who wait move.
    """
    clocks: list[Clock] = []

    def wait(seconds: float) -> None:
        clocks[-1].advance(seconds)

    def embed(objects: Any, segmenter: Any, key: str, pixels_HWC: np.ndarray) -> None:
        objects.put(key, b"embedding")

    def report(workspace: Workspace, dataset: str, summary: Any, path: Path) -> None:
        path.write_text("report")

    waiting = SimpleNamespace(sleep=wait, monotonic=time.monotonic)
    stages = {stage: flow.fn for stage, flow in data_engine.STAGES.items()}
    for owner, name, instead in (
        (run_lock, "time", waiting),
        (fully_automatic, "time", waiting),
        (retry, "FIRST_PAUSE", 0.0),
        (retry, "LONGEST_PAUSE", 0.0),
        (Workspace, "segmenter", lambda self, version=None: None),
        (embeddings, "make_embedding", embed),
        (semi_automatic, "mask_generator", lambda workspace, model: FakeGenerator()),
        (fully_automatic, "mask_generator", lambda workspace, model: FakeGenerator()),
        (fully_automatic, "generate_shard", fully_automatic.generate_shard.fn),
        (data_engine, "STAGES", stages),
        (data_engine, "fully_automatic", fully_automatic.fully_automatic.fn),
        (data_engine, "held_out_scores", lambda *given: {}),
        (advance, "data_engine", data_engine.data_engine.fn),
        (build, "write_report", report),
        (logs, "configure", lambda settings: None),
        (events, "emit", lambda *given, **more: False),
    ):
        patch.setattr(owner, name, instead)
    return lambda world: clocks.append(world.clock)


@cache
def digest_of(image: int) -> str:
    """The SHA-256 of an image's file."""
    return sha256(write_png(pixels_of(image))).hexdigest()
