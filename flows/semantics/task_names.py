"""Labels and suggested categories of the masks of one task."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from engine.annotation.mask_labels import NamedMask
from engine.core.errors import DataEngineError
from engine.core.records import Mask
from flows.labels.current import labels_of
from flows.semantics.learning import load_suggester
from flows.semantics.vectors import mask_encoder, read_vectors, vector_runs
from flows.workspace.workspace import Workspace
from storage.catalog import Dataset
from storage.catalog.suggesters import StoredSuggester

log = logging.getLogger(__name__)

MOST_ENCODED = 200
"""Masks without vectors that are encoded while somebody waits for the task."""


def names_of(
    workspace: Workspace, dataset_id: int, image_id: int, masks: Sequence[Mask]
) -> dict[str, NamedMask]:
    """Return what is known of an image's masks, in the table or not: their labels, and categories
    by the suggester in use. Nothing for a dataset without categories."""
    known = workspace.catalog.categories.current(dataset_id).categories.names
    if not masks or not known:
        return {}
    labels = labels_of(workspace, masks)
    suggested: dict[str, tuple[int, float]] = {}
    stored = workspace.catalog.suggesters.current(dataset_id)
    if stored is not None:
        dataset = workspace.catalog.datasets.get_by_id(dataset_id)
        try:
            suggested = _suggested(workspace, dataset, stored, image_id, masks)
        except DataEngineError as error:  # the work on the image does not need them
            log.warning("no suggestions for image %s of %s: %s", image_id, dataset.name, error)
    found = {}
    for mask in masks:
        label = labels.get(mask.mask_id)
        category, probability = suggested.get(mask.mask_id, (None, None))
        is_listed = category == 0 or category in known
        found[mask.mask_id] = NamedMask(
            category_id=None if label is None else label.category_id or 0,
            suggested=category if is_listed else None,
            probability=probability if is_listed else None,
        )
    return found


def _suggested(
    workspace: Workspace,
    dataset: Dataset,
    stored: StoredSuggester,
    image_id: int,
    masks: Sequence[Mask],
) -> dict[str, tuple[int, float]]:
    """Return categories and probabilities by mask id, from stored vectors where there are some."""
    wanted = {mask.mask_id: mask for mask in masks}
    vectors: dict[str, np.ndarray] = {}
    for block in read_vectors(workspace, dataset, stored.encoder):
        for row in np.flatnonzero(block.image_ids == image_id).tolist():
            if (name := block.mask_ids[row].as_py()) in wanted:
                vectors[name] = block.vectors_ND[row]
    lacking = [mask for name, mask in wanted.items() if name not in vectors][:MOST_ENCODED]
    runs = vector_runs(workspace, dataset, stored.encoder)
    if lacking and runs:
        encoder = mask_encoder(workspace, runs[0].config["name"])
        pixels = workspace.pixels(workspace.catalog.images.get(image_id))
        made = encoder.encode(pixels, [mask.rle for mask in lacking])
        vectors |= {mask.mask_id: made[row] for row, mask in enumerate(lacking)}
    if not vectors:
        return {}
    said = load_suggester(workspace, stored).suggest(np.stack(list(vectors.values())))
    pairs = zip(said.category_N.tolist(), said.probability_N.tolist(), strict=True)
    return dict(zip(vectors, pairs, strict=True))
