"""The mask table as training data: which masks a retrain learns from, and how often."""

from __future__ import annotations

from collections import Counter
from functools import lru_cache
from typing import Any

import cv2
import numpy as np

from engine.core import rle as rle_codec
from engine.core.records import PEOPLES, Source
from engine.core.rle import RLE
from engine.simulation.scenes import generate_scene
from engine.training.config import TrainConfig
from engine.training.samples import Example
from engine.training.trainer import NoMasksError
from flows.wiring import Workspace
from storage.catalog import Dataset, Split

MAX_SIDE = 768
"""Training images are kept in memory at most this large; `lite` sees 384 pixels."""


class MaskSource:
    """Draws training examples from the mask table at one version: people's masks on images of the
    training split, the newest run's more often, mixed with generated scenes."""

    def __init__(
        self,
        workspace: Workspace,
        dataset: Dataset,
        table_version: int | None,
        newest_run: str | None,
        config: TrainConfig,
    ) -> None:
        self._workspace, self._config = workspace, config
        self._rles: dict[int, list[RLE]] = {}
        counts: Counter[tuple[int, str]] = Counter()
        newest: set[int] = set()
        rejected = workspace.catalog.verdicts.rejected_mask_ids(dataset.id)
        automatic = workspace.settings.train.automatic
        for source in (*PEOPLES, Source.AUTOMATIC) if automatic else PEOPLES:
            for mask in workspace.masks.masks(
                dataset=dataset.name, source=source, version=table_version, current_only=True
            ):
                if mask.mask_id in rejected:
                    continue
                self._rles.setdefault(mask.image_id, []).append(mask.rle)
                counts[mask.image_id, source] += 1
                if mask.run_id == newest_run and source in PEOPLES:
                    newest.add(mask.image_id)
        rows = workspace.catalog.images.get_many(sorted(self._rles))
        self._images = {row.id: row for row in rows if row.split == Split.TRAIN}
        self._all = sorted(self._images)
        self._newest = [image_id for image_id in self._all if image_id in newest]
        self._sources: Counter[str] = Counter()
        for (image_id, drawn_by), count in counts.items():
            if image_id in self._images:
                self._sources[drawn_by] += count
        by_people = [any(counts[i, source] for source in PEOPLES) for i in self._all]
        weights = np.where(by_people, workspace.settings.train.oversampling, 1.0)
        self._chances = np.cumsum(weights / weights.sum())
        self._example = lru_cache(maxsize=256)(self._load)
        if not self._all:
            raise NoMasksError(
                f"dataset {dataset.name!r} has no masks on training images yet; annotate some first"
            )

    def counts(self) -> dict[str, Any]:
        """Images, and masks per source, for the card."""
        return {
            "images": len(self._all),
            "newest_images": len(self._newest),
            "masks": dict(self._sources),
            "replay": self._config.replay,
        }

    def draw(self, rng: np.random.Generator) -> Example:
        """An `ExampleSource`."""
        if rng.random() < self._config.replay:
            seed = int(rng.integers(1_000_000))
            scene = generate_scene(seed)
            rles = rle_codec.encode_batch(np.stack(scene.masks)) if scene.masks else []
            return Example(scene.image_HWC, rles, f"generated scene {seed}")
        new = self._newest and rng.random() < self._workspace.settings.train.new_share
        if new:
            return self._example(self._newest[rng.integers(len(self._newest))])
        index = int(np.searchsorted(self._chances, rng.random(), side="right"))
        return self._example(self._all[min(index, len(self._all) - 1)])

    def _load(self, image_id: int) -> Example:
        row = self._images[image_id]
        pixels, rles = self._workspace.pixels(row), self._rles[image_id]
        scale = MAX_SIDE / max(pixels.shape[:2])
        if scale >= 1:
            return Example(pixels, rles, row.file_name)
        size = (round(pixels.shape[1] * scale), round(pixels.shape[0] * scale))
        small = [
            cv2.resize(rle_codec.decode(r).view(np.uint8), size, interpolation=cv2.INTER_NEAREST)
            for r in rles
        ]
        shrunk = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
        return Example(shrunk, [rle_codec.encode(m.astype(bool)) for m in small], row.file_name)
