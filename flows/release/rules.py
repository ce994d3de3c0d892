"""Rules by which a release accepts masks."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from engine.core.boxes import masks_may_overlap
from engine.core.errors import DataEngineError
from engine.core.records import Source, Stage
from engine.core.rle import RLE, iou_matrix
from storage.mask_rows import boxes_xyxy

REPEATED_IOU = 0.7
"""Default IoU with an earlier mask from which an automatic mask is a repeat."""
RELEASED = tuple(map(str, (Stage.ASSISTED_MANUAL, Stage.SEMI_AUTOMATIC, Stage.FULLY_AUTOMATIC)))
"""Stages whose masks are released."""


class RulesError(DataEngineError):
    """Rules contradict each other or the dataset; the message says which."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rules:
    """Which masks a release accepts. Thresholds are for automatic masks: people's masks were drawn
    or confirmed. Superseded and empty masks are never accepted.

    Raises:
        RulesError: a value is out of range or unknown.
    """

    stages: tuple[str, ...] = RELEASED
    verdicts: Literal["not-rejected", "accepted"] = "not-rejected"
    """`accepted`: automatic masks need a reviewer's or a verifier's accept. Rejected masks are
    left out in any case."""
    min_predicted_iou: float | None = None
    """At least this, [0, 1]; automatic masks without the score are left out."""
    min_stability: float | None = None
    min_accept_probability: float | None = None
    """At least this probability by the current verifier, [0, 1]."""
    verifier: str | None = None
    """Version of the verifier that gives it; the current one when the release was begun."""
    categories: tuple[str, ...] = ()
    """Only masks with a label of these categories, if any are named."""
    labelled_only: bool = False
    repeated_iou: float = REPEATED_IOU
    """IoU, [0, 1], with a mask already in from which an automatic mask is left out."""

    def __post_init__(self) -> None:
        known = set(RELEASED)
        if not self.stages or (unknown := set(self.stages) - known):
            raise RulesError(
                f"unknown stages {', '.join(sorted(unknown)) if self.stages else '(none)'}; "
                f"known: {', '.join(RELEASED)}"
            )
        for name in ("min_predicted_iou", "min_stability", "min_accept_probability"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise RulesError(f"{name} is {value:g}, expected a number from 0 to 1")
        if not 0 < self.repeated_iou <= 1:
            raise RulesError(f"repeated_iou is {self.repeated_iou:g}, expected above 0, at most 1")
        if self.verdicts not in ("not-rejected", "accepted"):
            raise RulesError(f"verdicts are {self.verdicts!r}, expected not-rejected or accepted")

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Rules:
        """The rules that `as_json` returned."""
        merged: dict[str, Any] = dict(values)
        for name in ("stages", "categories"):
            if name in merged:
                merged[name] = tuple(merged[name])
        return cls(**merged)

    def as_json(self) -> dict[str, Any]:
        """The rules as JSON values, for the manifest."""
        return {name: _plain(value) for name, value in asdict(self).items()}

    def sentence(self) -> str:
        """The rules in words."""
        parts = ["people's masks", "then automatic ones that were not rejected"]
        if self.verdicts == "accepted":
            parts[1] = "then automatic ones that were accepted"
        for name, text in _THRESHOLDS.items():
            value = getattr(self, name)
            if value is not None:
                parts.append(f"with {text} of at least {value:g}")
        if self.verifier:
            parts[-1] += f" by {self.verifier}"
        parts.append(f"and overlap no mask already in by {self.repeated_iou:g} or more")
        text = f"{parts[0]}, {' '.join(parts[1:])}"
        if len(self.stages) < len(RELEASED):
            text += f"; stages {', '.join(self.stages)}"
        if self.categories:
            text += f"; categories {', '.join(self.categories)}"
        elif self.labelled_only:
            text += "; labelled masks only"
        return text


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """How a release is made. They are stored when it is begun, so that it resumes with them."""

    rules: Rules = field(default_factory=Rules)
    blur: tuple[str, ...] = ()
    """Kinds of regions to blur in copies of the images: `flows.release.privacy`."""
    license: str = "unknown"
    """For the dataset card, one of Hugging Face's identifiers."""

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Options:
        """The options that `as_json` returned; defaults for those that older code did not have."""
        rules = Rules.from_json(values.get("rules", {}))
        known = {"blur": tuple(values.get("blur", ())), "license": values.get("license", "unknown")}
        return cls(rules=rules, **known)

    def as_json(self) -> dict[str, Any]:
        """The options as JSON values."""
        return {"rules": self.rules.as_json(), "blur": list(self.blur), "license": self.license}


_THRESHOLDS = {
    "min_predicted_iou": "a predicted IoU",
    "min_stability": "a stability score",
    "min_accept_probability": "an accept probability",
}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


@dataclass(frozen=True, kw_only=True, slots=True)
class Judged:
    """Verdicts that count when a release is built, as arrays of mask ids."""

    rejected: pa.Array
    accepted: pa.Array = field(default_factory=lambda: pa.array([], pa.string()))
    """Needed by rules with verdicts `accepted`."""

    @classmethod
    def of(cls, rejected: Collection[str], accepted: Collection[str] = ()) -> Judged:
        """Of sets of mask ids."""
        arrays = (pa.array(sorted(ids), pa.string()) for ids in (rejected, accepted))
        return cls(rejected=next(arrays), accepted=next(arrays))


def accepted_rows(rows: pa.Table, rules: Rules, judged: Judged) -> pa.Table:
    """The rows of current masks that the rules accept, except those about labels, probabilities and
    repeats, which need more than the row.

    Args:
        rows: of the mask table's columns, none superseded.
        rules: the rules.
        judged: the verdicts.
    """
    keep = pc.and_(
        pc.greater(rows.column("area"), 0),
        pc.is_in(rows.column("stage"), pa.array(rules.stages, pa.string())),
    )
    keep = pc.and_(keep, pc.invert(pc.is_in(rows.column("mask_id"), judged.rejected)))
    good = pa.chunked_array([np.ones(rows.num_rows, bool)])
    for column, least in (
        ("predicted_iou", rules.min_predicted_iou),
        ("stability_score", rules.min_stability),
    ):
        if least is not None:  # compared as stored, so that a threshold of .9 accepts .9
            enough = pc.greater_equal(rows.column(column), pa.scalar(least, pa.float32()))
            good = pc.and_(good, pc.fill_null(enough, False))
    if rules.verdicts == "accepted":
        good = pc.and_(good, pc.is_in(rows.column("mask_id"), judged.accepted))
    return rows.filter(pc.and_(keep, pc.or_(good, pc.invert(is_automatic(rows)))))


def is_automatic(rows: pa.Table) -> pa.ChunkedArray:
    """Whether each mask is automatic."""
    return pc.equal(rows.column("source"), str(Source.AUTOMATIC))


def in_order(rows: pa.Table) -> pa.Table:
    """Rows by image; in an image people's masks, then automatic ones by descending predicted IoU,
    then by id."""
    keys = pa.table(
        {
            "image_id": rows.column("image_id"),
            "automatic": pc.cast(is_automatic(rows), pa.int8()),
            "predicted_iou": pc.negate(
                pc.cast(pc.fill_null(rows.column("predicted_iou"), 0.0), pa.float64())
            ),
            "mask_id": rows.column("mask_id"),
        }
    )
    order = pc.sort_indices(keys, [(name, "ascending") for name in keys.column_names])
    return rows.take(order)


def without_repeats(rows: pa.Table, repeated_iou: float = REPEATED_IOU) -> pa.Table:
    """Rows in order of `in_order`, without automatic masks that repeat an earlier mask of their
    image."""
    ordered = in_order(rows)
    images = ordered.column("image_id").to_numpy()
    starts = np.flatnonzero(np.diff(images, prepend=images[:1] - 1))
    automatic = is_automatic(ordered).to_numpy()
    boxes, areas = boxes_xyxy(ordered), ordered.column("area").to_numpy()
    kept: list[int] = []
    for start, end in zip(starts, np.append(starts[1:], len(images)), strict=False):
        mine = slice(start, end)
        near_NN = np.triu(
            masks_may_overlap(boxes[mine], areas[mine], boxes[mine], areas[mine], repeated_iou), 1
        )
        near_NN &= automatic[mine]
        if near_NN.any():
            near_NN = _repeats(ordered.slice(start, end - start), near_NN, repeated_iou)
        kept += [int(start) + index for index in _kept(near_NN)]
    return ordered.take(pa.array(kept, pa.int64()))


def _repeats(rows: pa.Table, near_NN: np.ndarray, repeated_iou: float) -> np.ndarray:
    """Which of the pairs of an image's masks, bool (N, N), have this IoU."""
    first, second = np.flatnonzero(near_NN.any(axis=1)), np.flatnonzero(near_NN.any(axis=0))
    columns = [rows.column(name) for name in ("height", "width", "counts")]

    def coded(places: np.ndarray) -> list[RLE]:
        values = zip(*(column.take(places).to_pylist() for column in columns), strict=True)
        return [RLE(size=(height, width), counts=counts) for height, width, counts in values]

    overlap = np.zeros(near_NN.shape)
    overlap[np.ix_(first, second)] = iou_matrix(coded(first), coded(second))
    return np.asarray(near_NN & (overlap >= repeated_iou))


def _kept(repeats_NN: np.ndarray) -> list[int]:
    """The places of an image's masks that repeat no earlier one that is kept."""
    kept: list[int] = []
    for index in range(len(repeats_NN)):
        if not repeats_NN[kept, index].any():
            kept.append(index)
    return kept
