"""Which rows of the mask table to read."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import reduce
from operator import or_
from typing import Any, TypedDict

import pyarrow as pa
import pyarrow.compute as pc

from engine.core.records import Source, Stage
from storage.mask_rows import SCHEMA

FEW = 32
"""Values up to which statistics are asked for each of them, not for their range only."""


class Filters(TypedDict, total=False):
    """Which masks to read; all given filters must hold, None means any."""

    dataset: str | None
    stage: Stage | None
    source: Source | None
    run_id: str | None
    round: int | None
    image_ids: Collection[int] | None
    min_predicted_iou: float | None
    """At least this, compared as float32; masks without a predicted IoU are left out."""
    mask_ids: Collection[str] | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Where:
    """Filters as one Arrow expression."""

    dataset: str | None = None
    stage: Stage | None = None
    source: Source | None = None
    run_id: str | None = None
    round: int | None = None
    image_ids: Collection[int] | None = None
    min_predicted_iou: float | None = None
    mask_ids: Collection[str] | None = None

    def expression(self) -> pc.Expression:
        where = pc.scalar(True)
        for name in ("dataset", "stage", "source", "run_id", "round"):
            value = getattr(self, name)
            if value is not None:
                plain = value if isinstance(value, int) else str(value)
                where &= pc.field(name) == pa.scalar(plain, SCHEMA.field(name).type)
        for name, values in (("image_id", self.image_ids), ("mask_id", self.mask_ids)):
            if values is not None:
                where &= _one_of(name, values)
        if self.min_predicted_iou is not None:
            least = pa.scalar(self.min_predicted_iou, pa.float32())
            where &= pc.field("predicted_iou") >= least
        return where

    def files(self) -> list[tuple[str, str, Any]] | None:
        """Conditions on the log's statistics of a file, which skip most files. Rows are still
        filtered."""
        found: list[tuple[str, str, Any]] = []
        for name in ("dataset", "run_id"):
            if (value := getattr(self, name)) is not None:
                found.append((name, "=", str(value)))
        for name, values in (("image_id", self.image_ids), ("mask_id", self.mask_ids)):
            if values is not None and len(values):
                found += [(name, ">=", min(values)), (name, "<=", max(values))]
                if len(values) <= FEW:
                    found.append((name, "in", sorted(values)))
        return found or None


def _one_of(name: str, values: Collection[Any]) -> pc.Expression:
    wanted = pa.array(sorted(set(values)), SCHEMA.field(name).type)
    if not len(wanted):
        return pc.scalar(False)
    # Statistics skip row groups by a range, not by a set.
    column = pc.field(name)
    if len(wanted) <= FEW:
        return reduce(or_, (column == value for value in wanted))
    return (column >= wanted[0]) & (column <= wanted[-1]) & column.isin(wanted)
