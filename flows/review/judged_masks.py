"""The features of the masks that people judged, for a verifier to learn from."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from engine.verifier.features import features
from engine.verifier.learning import Judged
from flows.stages.seen_masks import seen_runs
from flows.workspace.workspace import Workspace
from storage.catalog import Dataset, Split, VerdictKind


def judged_by_people(workspace: Workspace, dataset: Dataset, segmenter: str) -> Judged:
    """Return the dataset's automatic masks with a verdict by another annotator than a model."""
    verdicts = {row.mask_id: row for row in workspace.catalog.verdicts.of_people(dataset.id)}
    rows, accepted, images, held_out = [], [], [], []
    for seen in seen_runs(workspace, dataset, segmenter, images_of_masks(verdicts)):
        places = [n for n, mask in enumerate(seen.masks) if mask.mask_id in verdicts]
        if places:
            rows.append(features(seen.picture)[places])
        for place in places:
            verdict = verdicts[seen.masks[place].mask_id].verdict
            accepted.append(verdict == VerdictKind.ACCEPT)
            images.append(seen.image.near_image_id or seen.image.id)
            held_out.append(seen.image.split == Split.HELD_OUT)
    return Judged(
        np.concatenate(rows) if rows else np.zeros((0, 0), np.float32),
        np.array(accepted, bool),
        np.array(images, np.int64),
        np.array(held_out, bool),
    )


def images_of_masks(mask_ids: Collection[str]) -> set[int]:
    """Return the images of judged masks; the id of an automatic mask is RUN/IMAGE/NAME."""
    parts = (mask_id.split("/") for mask_id in mask_ids)
    return {int(part[1]) for part in parts if len(part) > 2 and part[1].isdecimal()}
