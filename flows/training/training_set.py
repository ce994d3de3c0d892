"""The mask table as training data: which masks a retrain trains on, and how often.

`TrainingRule` is the only definition: command, button, triggers and loop use it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import cv2
import numpy as np

from engine.core import rle as rle_codec
from engine.core.batches import spread
from engine.core.records import PEOPLES, Source, Stage
from engine.core.rle import RLE
from engine.simulation.scenes import generate_scene
from engine.training.samples import Example, resize_mask
from engine.training.trainer import NoMasksError
from flows.training.recipe import TrainingData
from flows.workspace.workspace import Workspace
from storage.catalog import Dataset, Image, Split
from storage.formats.images import BadImageError

MAX_SIDE = 768
"""Maximum side in pixels of training images in memory; `lite` works at 384 pixels."""


@dataclass(frozen=True, slots=True)
class TrainingRule:
    """What a retrain of a dataset trains on, on images of the training split: masks that people
    made, fixed or kept, and automatic masks that reviewers accepted; unjudged automatic masks only
    with `[train] automatic`; never rejected masks."""

    images: frozenset[int]
    accepted: frozenset[str]
    rejected: frozenset[str]
    everything: bool

    @property
    def sources(self) -> tuple[Source, ...]:
        """Sources of the masks that the rule can take."""
        automatic = self.accepted or self.everything
        return (*PEOPLES, Source.AUTOMATIC) if automatic else PEOPLES

    def takes(self, mask_id: str, image_id: int, source: Source) -> bool:
        """Whether a retrain trains on this mask, which no other mask supersedes."""
        usable = self.everything or self.is_confirmed(mask_id, source)
        return usable and image_id in self.images and mask_id not in self.rejected

    def is_confirmed(self, mask_id: str, source: Source) -> bool:
        """Whether a person made it, kept it, or accepted it in review."""
        return source in PEOPLES or mask_id in self.accepted


def training_rule(workspace: Workspace, dataset: Dataset) -> TrainingRule:
    """Return the rule with the verdicts so far."""
    verdicts = workspace.catalog.verdicts
    return TrainingRule(
        images=frozenset(workspace.catalog.images.ids(dataset.id, split=Split.TRAIN)),
        accepted=frozenset(verdicts.accepted_mask_ids(dataset.id)),
        rejected=frozenset(verdicts.rejected_mask_ids(dataset.id)),
        everything=workspace.settings.train.automatic,
    )


def trained_on(workspace: Workspace, dataset: Dataset) -> str:
    """Return a sentence on how many masks a retrain would train on now."""
    rule = training_rule(workspace, dataset)
    images: set[int] = set()
    masks = confirmed = 0
    for source in rule.sources:
        for batch in workspace.masks.scan(
            dataset=dataset.name,
            source=source,
            current_only=True,
            columns=["mask_id", "image_id"],
        ):
            for row in batch.to_pylist():
                if rule.takes(row["mask_id"], row["image_id"], source):
                    images.add(row["image_id"])
                    masks += 1
                    confirmed += rule.is_confirmed(row["mask_id"], source)
    rest = f" and {masks - confirmed} unjudged automatic ones," if masks > confirmed else ""
    return (
        f"{confirmed} masks that people made or confirmed, accepted automatic ones among them,"
        f"{rest} on {len(images)} training images"
    )


CHECKED_SHARE, MOST_CHECKED = 0.1, 16
"""Share and largest number of training images for early stopping."""

LEAST_IMAGES = 20
"""With fewer training images, all are trained on."""


def _checked(image_ids: list[int]) -> list[int]:
    """Draw the training images for early stopping, the same at every call."""
    if len(image_ids) < LEAST_IMAGES:
        return []
    count = min(MOST_CHECKED, round(CHECKED_SHARE * len(image_ids)))
    drawn = np.random.default_rng(0).permutation(len(image_ids))[:count]
    return [image_ids[index] for index in sorted(drawn)]


class MaskSource:
    """Draws training examples from one version of the mask table by `TrainingRule`, images with
    confirmed masks and those of the newest run more often, mixed with generated scenes.

    An image counts as complete if people added what was missing, in stage 2, or if a calibrated
    judge says so and all its masks are trained on. Stage 1 leaves objects out.
    """

    def __init__(
        self,
        workspace: Workspace,
        dataset: Dataset,
        table_version: int | None,
        newest_run: str | None,
    ) -> None:
        self._workspace = workspace
        self._rles: dict[int, list[RLE]] = {}
        self._sources: Counter[str] = Counter()
        newest: set[int] = set()
        confirmed: set[int] = set()
        self._complete: set[int] = set()
        rule = training_rule(workspace, dataset)
        for source in rule.sources:
            for mask in workspace.masks.masks(
                dataset=dataset.name, source=source, version=table_version, current_only=True
            ):
                if not rule.takes(mask.mask_id, mask.image_id, source):
                    continue
                self._rles.setdefault(mask.image_id, []).append(mask.rle)
                self._sources[source] += 1
                if rule.is_confirmed(mask.mask_id, source):
                    confirmed.add(mask.image_id)
                if mask.run_id == newest_run and source in PEOPLES:
                    newest.add(mask.image_id)
                if mask.stage == Stage.SEMI_AUTOMATIC and source in PEOPLES:
                    self._complete.add(mask.image_id)
        self._complete |= self._judged_complete(dataset, table_version)
        rows = workspace.catalog.images.get_many(sorted(self._rles))
        self._images: dict[int, Image] = {row.id: row for row in rows}
        self._checked = _checked(sorted(self._images))
        self._all = sorted(self._images.keys() - set(self._checked))
        self._newest = [image_id for image_id in self._all if image_id in newest]
        weights = np.where(
            [image_id in confirmed for image_id in self._all],
            workspace.settings.train.oversampling,
            1.0,
        )
        self._chances = np.cumsum(weights / weights.sum())
        self._example = lru_cache(maxsize=256)(self._load)
        if not self._all:
            raise NoMasksError(
                f"dataset {dataset.name!r} has no masks on training images yet that people made or "
                "confirmed: annotate some, or accept automatic ones in a review"
            )

    def _judged_complete(self, dataset: Dataset, table_version: int | None) -> set[int]:
        """Return the images that a judge holds for complete, if no mask of theirs is left out."""
        judged = self._workspace.catalog.images.complete_ids(dataset.id) & self._rles.keys()
        if not judged:
            return set()
        masks = self._workspace.masks.counts(
            ("image_id",),
            dataset=dataset.name,
            image_ids=sorted(judged),
            version=table_version,
            current_only=True,
        )
        return {one for one in judged if masks[one,] == len(self._rles[one])}

    def counts(self) -> dict[str, Any]:
        """Return counts of images, and of masks per source, for the card."""
        return {
            "images": len(self._images),
            "early_stopping_images": len(self._checked),
            "newest_images": len(self._newest),
            "complete_images": len(self._complete),
            "masks": dict(self._sources),
            "replay": self._workspace.settings.train.replay,
        }

    @property
    def masks(self) -> Mapping[int, Sequence[RLE]]:
        """The masks by image id, those for early stopping among them."""
        return self._rles

    @property
    def data(self) -> TrainingData:
        """The numbers by which a training is configured."""
        return TrainingData(
            images=len(self._all), masks=self._sources.total(), checked=len(self._checked)
        )

    def checked(self) -> list[Example]:
        """Return the examples for early stopping, which `draw` leaves out."""
        return [self._load(image_id) for image_id in self._checked]

    def some(self, count: int) -> Iterator[Example]:
        """Load up to `count` of the images with masks, spread over their ids, without unreadable
        ones."""
        for image_id in spread(sorted(self._images), count):
            try:
                example = self._load(image_id)
            except BadImageError:  # the image is quarantined elsewhere
                continue
            yield example

    def draw(self, rng: np.random.Generator) -> Example:
        """Draw one example, as an `ExampleSource` does."""
        if rng.random() < self._workspace.settings.train.replay:
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
        is_complete = image_id in self._complete
        scale = MAX_SIDE / max(pixels.shape[:2])
        if scale >= 1:
            return Example(pixels, rles, row.file_name, is_complete)
        size = (round(pixels.shape[1] * scale), round(pixels.shape[0] * scale))
        small = [rle_codec.encode(resize_mask(rle_codec.decode(rle), size)) for rle in rles]
        shrunk = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
        return Example(shrunk, small, row.file_name, is_complete)
