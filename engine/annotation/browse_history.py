"""The shapes of masks, and how the masks of an image came to be."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import suppress

import pyarrow.compute as pc

from engine.annotation.browse_schemas import (
    CaptionBy,
    ImageHistory,
    JudgedBy,
    LabelledBy,
    MaskHistory,
    Step,
)
from engine.annotation.captions import Captions
from engine.annotation.prompting import rle_view
from engine.annotation.schemas import Rle
from engine.annotation.task_views import image_view
from engine.core.categories import NONE_OF_THESE
from engine.core.records import Mask, Source
from storage import layout
from storage.catalog import Catalog, Dataset, Image
from storage.masks import MaskTable
from storage.objects import ObjectNotFoundError, ObjectStore
from storage.trajectories import read_trajectories

MAX_SHARDS = 50
"""Objects with steps that are read for one image; those of the oldest masks are left out."""


class MaskHistories:
    """One per server. Thread-safe."""

    def __init__(self, catalog: Catalog, masks: MaskTable, objects: ObjectStore) -> None:
        self._catalog, self._masks, self._objects = catalog, masks, objects
        self._captions = Captions(catalog, objects)

    def outlines(
        self, dataset: Dataset, image_ids: Sequence[int], mask_ids: Sequence[str]
    ) -> dict[str, Rle]:
        """The shapes of the dataset's masks with these ids on these images."""
        found = self._masks.masks(dataset=dataset.name, image_ids=image_ids, mask_ids=mask_ids)
        return {mask.mask_id: rle_view(mask.rle) for mask in found}

    def of_image(self, image_id: int) -> ImageHistory:
        """All masks of an image, oldest first.

        Raises:
            NotFoundError: no such image.
        """
        image = self._catalog.images.get(image_id)
        dataset = self._catalog.datasets.get_by_id(image.dataset_id)
        masks = list(self._masks.masks(dataset=dataset.name, image_ids=[image_id]))
        masks.sort(key=lambda mask: mask.created_at)
        steps, verdicts = self._steps(image_id, masks), self._verdicts(image_id)
        labels, captions = self._labels(image), self._captions.of_image(image)
        later = defaultdict[str, list[str]](list)
        for mask in masks:
            if mask.supersedes is not None:
                later[mask.supersedes].append(mask.mask_id)
        return ImageHistory(
            image=image_view(image),
            dataset=dataset.name,
            split=image.split,
            near_image_id=image.near_image_id,
            captions=captions[None],
            masks=[
                history_of(
                    mask,
                    later[mask.mask_id],
                    steps[mask.mask_id],
                    verdicts[mask.mask_id],
                    labels[mask.mask_id],
                    captions[mask.mask_id],
                )
                for mask in masks
            ],
        )

    def _verdicts(self, image_id: int) -> defaultdict[str, list[JudgedBy]]:
        names = {person.id: person.name for person in self._catalog.annotators.all()}
        found = defaultdict[str, list[JudgedBy]](list)
        for one in self._catalog.verdicts.on_image(image_id):
            found[one.mask_id].append(
                JudgedBy(
                    verdict=one.verdict,
                    annotator=names.get(one.annotator_id, ""),
                    created_at=one.created_at,
                    seconds=one.seconds,
                    reason=one.reason,
                    fixed_mask_id=one.fixed_mask_id,
                )
            )
        return found

    def _labels(self, image: Image) -> defaultdict[str, list[LabelledBy]]:
        listed = self._catalog.categories.current(image.dataset_id).categories
        names = listed.names | dict(listed.retired)
        people = {person.id: person.name for person in self._catalog.annotators.all()}
        found = defaultdict[str, list[LabelledBy]](list)
        for one in self._catalog.labels.history(image.id):
            known = one.category_id is not None
            found[one.mask_id].append(
                LabelledBy(
                    name=names.get(one.category_id or 0, "") if known else NONE_OF_THESE,
                    annotator=people.get(one.annotator_id or 0),
                    model=one.model,
                    created_at=one.created_at,
                )
            )
        return found

    def _steps(self, image_id: int, masks: Iterable[Mask]) -> defaultdict[str, list[Step]]:
        drawn = {(m.run_id, m.shard): m for m in masks if m.source == Source.ANNOTATOR}
        found = defaultdict[str, list[Step]](list)
        for run, shard in list(drawn)[-MAX_SHARDS:]:
            with suppress(ObjectNotFoundError):  # no mask of the shard has steps
                rows = read_trajectories(self._objects.get(layout.STEPS.key(run=run, shard=shard)))
                rows = rows.filter(pc.field("image_id") == image_id)
                for row in rows.select(["mask_id", *Step.model_fields]).to_pylist():
                    found[row.pop("mask_id")].append(Step(**row))
        return found


def history_of(
    mask: Mask,
    later: list[str],
    steps: list[Step],
    verdicts: list[JudgedBy],
    labels: list[LabelledBy],
    captions: list[CaptionBy],
) -> MaskHistory:
    """A mask, the ids of masks that supersede it, its steps, verdicts, labels and captions."""
    others = {"rle", "superseded_by", "steps", "verdicts", "labels", "captions"}
    same = MaskHistory.model_fields.keys() - others
    return MaskHistory(
        rle=rle_view(mask.rle),
        superseded_by=later,
        steps=steps,
        verdicts=verdicts,
        labels=labels,
        captions=captions,
        **{name: getattr(mask, name) for name in same},
    )
