"""The labels of a dataset, and the vectors of the masks that people labelled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from engine.semantics.suggesting import NONE_OF_THESE, Labelled
from flows.semantics.refit import PEOPLES
from flows.workspace.workspace import Workspace
from storage.catalog import Dataset, LabelSource, Split
from storage.vectors import MaskVectors

PAGE = 10_000
"""Labels read at once."""


@dataclass(frozen=True, slots=True)
class KnownLabels:
    """The labels of a dataset that count, of all sources.

    Attributes:
        category: category id by mask id, NONE_OF_THESE for masks of no category.
        source: source by mask id.
        last: the highest id of a label by people; 0 without any.
    """

    category: dict[str, int]
    source: dict[str, LabelSource]
    last: int

    def by_people(self) -> dict[str, int]:
        """Return the categories that people gave."""
        return {mask: self.category[mask] for mask, who in self.source.items() if who in PEOPLES}


def known_labels(workspace: Workspace, dataset: Dataset) -> KnownLabels:
    """Read all labels of a dataset that count."""
    labels, row = workspace.catalog.labels, workspace.catalog.categories.current(dataset.id)
    category: dict[str, int] = {}
    source: dict[str, LabelSource] = {}
    last = 0
    for wanted in (None, *row.categories.names):
        after = 0
        while page := labels.of_category(dataset.id, wanted, after_id=after, limit=PAGE):
            after = page[-1].id
            for one in page:
                category[one.mask_id] = one.category_id or NONE_OF_THESE
                source[one.mask_id] = one.source
                if one.source in PEOPLES:
                    last = max(last, one.id)
    return KnownLabels(category, source, last)


def labelled_vectors(
    workspace: Workspace, dataset: Dataset, blocks: Sequence[MaskVectors], labels: dict[str, int]
) -> tuple[Labelled, Labelled]:
    """Return the labelled masks with vectors of training images, and of held-out ones.

    Near-duplicates of an image count as that image.
    """
    ids = pa.array(list(labels), pa.string())
    categories = np.fromiter(labels.values(), np.int64, len(labels))
    vectors, category, image = [], [], []
    for block in blocks:
        place = pc.index_in(block.mask_ids, ids).to_numpy(zero_copy_only=False)
        rows = np.flatnonzero(~np.isnan(place.astype(np.float64)))
        vectors.append(np.array(block.vectors_ND[rows]))
        category.append(categories[place[rows].astype(np.int64)])
        image.append(block.image_ids[rows])
    if not vectors:
        none = Labelled(np.zeros((0, 1), np.float16), np.zeros(0, np.int64), np.zeros(0, np.int64))
        return none, none
    image_N = np.concatenate(image)
    known = workspace.catalog.images.get_many(np.unique(image_N).tolist())
    group = {one.id: one.near_image_id or one.id for one in known}
    held_out = {one.id for one in known if one.split == Split.HELD_OUT}
    is_held_out = np.isin(image_N, list(held_out))
    groups = np.array([group.get(one, one) for one in image_N.tolist()], np.int64)
    found = Labelled(np.concatenate(vectors), np.concatenate(category), groups)
    return found.part(~is_held_out), found.part(is_held_out)
