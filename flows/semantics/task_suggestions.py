"""Suggested categories of the masks of one task, in the table or not."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence

import numpy as np

from engine.core.errors import DataEngineError
from engine.core.records import Mask
from flows.encoders.load import mask_encoder
from flows.semantics.learning import load_suggester
from flows.semantics.vectors import read_vectors, vector_runs
from flows.workspace.workspace import Workspace
from storage.catalog import Dataset
from storage.catalog.suggesters import StoredSuggester

log = logging.getLogger(__name__)

MOST_ENCODED = 200
"""Masks without vectors that are encoded for one task."""

_one_at_a_time = threading.Lock()
"""Encoding must not take all cores from the answers to clicks."""


def suggest_for_task(
    workspace: Workspace, dataset_id: int, image_id: int, masks: Sequence[Mask]
) -> dict[str, tuple[int, float]]:
    """Return categories, 0 for none of these, and probabilities by mask id, by the suggester in
    use; nothing without one. Where no suggestion can be made, the log says why."""
    known = workspace.catalog.categories.current(dataset_id).categories.names
    stored = workspace.catalog.suggesters.current(dataset_id)
    if not masks or not known or stored is None:
        return {}
    dataset = workspace.catalog.datasets.get_by_id(dataset_id)
    try:
        found = _suggest(workspace, dataset, stored, image_id, masks)
    except DataEngineError as error:  # the work on the image does not need them
        log.warning("no suggestions for image %s of %s: %s", image_id, dataset.name, error)
        return {}
    return {name: pair for name, pair in found.items() if pair[0] == 0 or pair[0] in known}


def _suggest(
    workspace: Workspace,
    dataset: Dataset,
    stored: StoredSuggester,
    image_id: int,
    masks: Sequence[Mask],
) -> dict[str, tuple[int, float]]:
    """Suggest by stored vectors where there are some, else by new ones."""
    wanted = {mask.mask_id: mask for mask in masks}
    vectors: dict[str, np.ndarray] = {}
    for block in read_vectors(workspace, dataset, stored.encoder):
        for row in np.flatnonzero(block.image_ids == image_id).tolist():
            if (name := block.mask_ids[row].as_py()) in wanted:
                vectors[name] = block.vectors_ND[row]
    lacking = [mask for name, mask in wanted.items() if name not in vectors][:MOST_ENCODED]
    runs = vector_runs(workspace, dataset, stored.encoder)
    if lacking and runs:
        with _one_at_a_time:
            encoder = mask_encoder(workspace, runs[0].config["name"])
            pixels = workspace.pixels(workspace.catalog.images.get(image_id))
            made = encoder.encode(pixels, [mask.rle for mask in lacking])
        vectors |= {mask.mask_id: made[row] for row, mask in enumerate(lacking)}
    if not vectors:
        return {}
    said = load_suggester(workspace, stored).suggest(np.stack(list(vectors.values())))
    pairs = zip(said.category_N.tolist(), said.probability_N.tolist(), strict=True)
    return dict(zip(vectors, pairs, strict=True))
