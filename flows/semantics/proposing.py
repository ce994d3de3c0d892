"""Names for a category list, from what ImageNet's classes say of a dataset's masks."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from flows.workspace import progress
from flows.workspace.workspace import Workspace
from storage.catalog import Dataset
from storage.formats.images import BadImageError

LEAST_PROBABILITY = 0.3
"""Of a class that a mask is counted for."""
SEED = 0


@dataclass(frozen=True, slots=True)
class ProposedName:
    """A class of ImageNet, and how many of the masks looked at are probably of it."""

    name: str
    masks: int


def propose_names(
    workspace: Workspace, dataset: Dataset, *, images: int
) -> tuple[list[ProposedName], int]:
    """Name the masks of some images, drawn at random, by ImageNet's 1,000 classes.

    Args:
        images: how many to look at.

    Returns:
        The classes that masks have with at least LEAST_PROBABILITY, the most frequent first, and
        the number of masks looked at.

    Raises:
        EncoderError: the extra `labels` is not installed.
    """
    from engine.semantics.imagenet_names import imagenet_names

    columns = workspace.masks.counts(("image_id",), dataset=dataset.name, current_only=True)
    ids = np.array(sorted(image_id for (image_id,) in columns if isinstance(image_id, int)))
    chosen = np.random.default_rng(SEED).permutation(ids)[:images].tolist()
    found: Counter[str] = Counter()
    looked_at = 0
    with progress.current().track("names", len(chosen), "image") as advance:
        for image in workspace.catalog.images.get_many(chosen):
            masks = workspace.masks.masks(image_ids=[image.id], current_only=True)
            rles = [mask.rle for mask in masks if mask.area]
            try:
                named = imagenet_names(workspace.pixels(image), rles, 1)
            except BadImageError:
                named = []
            looked_at += len(named)
            for [(name, probability)] in named:
                if probability >= LEAST_PROBABILITY:
                    found[name] += 1
            advance()
    return [ProposedName(name, count) for name, count in found.most_common()], looked_at
