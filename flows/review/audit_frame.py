"""The masks that an audit draws from, in strata of model, size and score.

N = masks, H = strata.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from engine.core.records import Source, Stage
from flows.workspace.workspace import Workspace

SIZES = ("small", "medium", "large")
SIZE_EDGES = (32**2, 96**2)
"""COCO's size classes: pixels from which a mask is medium, and large."""

BANDS = ("lowest third", "middle third", "highest third", "unknown")
"""Bands of predicted IoU, among the masks of the audit."""

SMALLEST = 0.05
"""Strata with a smaller share of the masks are joined to one, REST."""
REST = "all other masks"


@dataclass(frozen=True, slots=True)
class Frame:
    """All masks that an audit may draw.

    Attributes:
        names: of the H strata.
        mask_ids: N ids, in the random order of drawing.
        image_N: int, their images.
        stratum_N: int, their strata.
        predicted_iou_N, stability_N: float, their scores, NaN where unknown.
        models: of the N masks; None where unknown.
    """

    names: list[str]
    mask_ids: list[str]
    image_N: np.ndarray
    stratum_N: np.ndarray
    predicted_iou_N: np.ndarray
    stability_N: np.ndarray
    models: list[str | None]
    rows: dict[str, int]
    """The row of each mask in the other fields."""

    def sizes(self, left_out: Collection[str]) -> np.ndarray:
        """The number of masks in each stratum without those left out, int (H,)."""
        every = np.bincount(self.stratum_N, minlength=len(self.names))
        return np.asarray(every - self.count(left_out))

    def count(self, masks: Collection[str]) -> np.ndarray:
        """The number of these masks in each stratum, int (H,); others are ignored."""
        rows = [self.rows[name] for name in masks if name in self.rows]
        return np.bincount(self.stratum_N[rows], minlength=len(self.names))

    def draw(self, wanted_H: np.ndarray, known: Collection[str]) -> dict[int, list[str]]:
        """Draw this many masks of each stratum that are not known yet; return them by image."""
        left = wanted_H.copy()
        found: dict[int, list[str]] = {}
        rows = zip(self.mask_ids, self.image_N.tolist(), self.stratum_N.tolist(), strict=True)
        for name, image_id, stratum in rows:
            if left[stratum] > 0 and name not in known:
                left[stratum] -= 1
                found.setdefault(image_id, []).append(name)
        return dict(sorted(found.items()))


def read_frame(
    workspace: Workspace,
    dataset: str,
    stage: Stage,
    *,
    version: int | None,
    seed: int | list[int],
    images: Collection[int] | None,
) -> Frame:
    """Return a dataset's automatic masks of a stage as they were in one version of the mask table,
    in an order that depends on version and seed only.

    Args:
        images: only masks of these images; None: of all.
    """
    columns = ["mask_id", "image_id", "area", "predicted_iou", "stability_score", "model"]
    batches = list(
        workspace.masks.scan(
            dataset=dataset,
            stage=stage,
            source=Source.AUTOMATIC,
            version=version,
            current_only=True,
            columns=columns,
            image_ids=images,
        )
    )
    if not batches:
        none, no_score = np.zeros(0, np.int64), np.zeros(0)
        return Frame([], [], none, none, no_score, no_score, [], {})
    table = pa.Table.from_batches(batches).sort_by("mask_id")
    order = np.random.default_rng(seed).permutation(len(table))
    table = table.take(pa.array(order))
    predicted, stability = (
        table.column(name).to_numpy().astype(np.float64)
        for name in ("predicted_iou", "stability_score")
    )
    names, stratum_N = _strata(table, predicted)
    mask_ids = table.column("mask_id").to_pylist()
    return Frame(
        names,
        mask_ids,
        table.column("image_id").to_numpy(),
        stratum_N,
        predicted,
        stability,
        table.column("model").to_pylist(),
        {name: row for row, name in enumerate(mask_ids)},
    )


def _strata(table: pa.Table, scores: np.ndarray) -> tuple[list[str], np.ndarray]:
    """The strata's names, and the number of each mask's stratum."""
    known = scores[~np.isnan(scores)]
    cuts = np.quantile(known, [1 / 3, 2 / 3]) if len(known) else np.zeros(2)
    bands = np.where(np.isnan(scores), 3, np.digitize(scores, cuts))
    sizes = np.digitize(table.column("area").to_numpy(), SIZE_EDGES)
    models = table.column("model").to_pylist()
    cells = [
        f"{model or 'no model'}, {SIZES[size]}, predicted IoU in the {BANDS[band]}"
        for model, size, band in zip(models, sizes, bands, strict=True)
    ]
    named, cell_N, masks = np.unique(np.array(cells), return_inverse=True, return_counts=True)
    is_kept = masks >= SMALLEST * len(cells)
    names = named[is_kept].tolist() + ([] if is_kept.all() else [REST])
    numbers = np.where(is_kept, np.cumsum(is_kept) - 1, len(names) - 1)
    return names, numbers[cell_N]
