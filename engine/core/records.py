"""Records that engine, storage and flows exchange.

Boxes are half-open pixel XYXY, points (x, y) and sizes (H, W), all in the frame of the original
image; scores in [0, 1]; times UTC.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import UTC, datetime
from enum import StrEnum

import numpy as np

from engine.core import rle as rle_codec
from engine.core.rle import RLE


class Stage(StrEnum):
    """Stage of the data engine that made a mask (SAM paper, section 4)."""

    ASSISTED_MANUAL = "assisted_manual"
    SEMI_AUTOMATIC = "semi_automatic"
    FULLY_AUTOMATIC = "fully_automatic"
    GROUND_TRUTH = "ground_truth"
    """Not a stage of the loop: masks that were imported with the images, in their own table."""


class Source(StrEnum):
    """How a mask was made."""

    ANNOTATOR = "annotator"
    PREFILL = "prefill"
    AUTOMATIC = "automatic"
    IMPORTED = "imported"


PEOPLES = (Source.ANNOTATOR, Source.PREFILL, Source.IMPORTED)
"""Sources of masks in the mask table that people drew, here or before an ingest, or confirmed."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """Points, box and previous mask that describe one object to the model.

    Attributes:
        points_xy: float array (N, 2) in pixels of the original image, or None.
        labels: int array (N,), 1 = object, 0 = background; None exactly if points_xy is.
        box_xyxy: float array (4,), half-open pixel box, or None.
        mask_logits: float array (h, w), a previous low-resolution prediction of the model, or None.
        is_box_loose: the object may extend beyond the box.

    Raises:
        ValueError: neither points nor box are given, or an array has another shape.
    """

    points_xy: np.ndarray | None = None
    labels: np.ndarray | None = None
    box_xyxy: np.ndarray | None = None
    mask_logits: np.ndarray | None = None
    is_box_loose: bool = False

    def __post_init__(self) -> None:
        if self.points_xy is None and self.box_xyxy is None:
            raise ValueError("a prompt needs points or a box")
        if (self.points_xy is None) != (self.labels is None):
            raise ValueError("expected both points and labels, or neither")
        if self.points_xy is not None and self.labels is not None:
            if self.points_xy.ndim != 2 or self.points_xy.shape[1] != 2:
                raise ValueError(f"points must have shape (N, 2), got {self.points_xy.shape}")
            if self.labels.shape != (len(self.points_xy),):
                raise ValueError(
                    f"labels must have shape ({len(self.points_xy)},), got {self.labels.shape}"
                )
        if self.box_xyxy is not None and self.box_xyxy.shape != (4,):
            raise ValueError(f"a box must have shape (4,), got {self.box_xyxy.shape}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Mask:
    """One segment of one image with its provenance: one row of the mask table.

    Masks are never changed: a fix is a new mask whose `supersedes` names the old one.
    """

    mask_id: str
    image_id: int
    dataset: str
    stage: Stage
    round: int
    run_id: str
    shard: int
    model: str | None
    """Model version that proposed the mask, or None."""
    source: Source
    annotator: str | None = None
    rle: RLE
    area: int
    box_xyxy: tuple[int, int, int, int]
    predicted_iou: float | None = None
    stability_score: float | None = None
    point_xy: tuple[float, float] | None = None
    """The (first) point that prompted the mask."""
    crop_xyxy: tuple[int, int, int, int] | None = None
    """The crop in which the generator found the mask; the whole image if it used no crops."""
    clicks: int = 0
    """Clicks and boxes that the annotator gave."""
    seconds: float = 0.0
    """The annotator's time on the mask."""
    supersedes: str | None = None
    created_at: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class Provenance:
    """The fields of Mask that are equal for all masks of one run, source, annotator and model."""

    dataset: str
    stage: Stage
    round: int = 0
    run_id: str
    shard: int = 0
    model: str | None = None
    source: Source
    annotator: str | None = None

    def mask(
        self,
        image_id: int,
        name: str | int,
        rle: RLE,
        *,
        predicted_iou: float | None = None,
        stability_score: float | None = None,
        point_xy: tuple[float, float] | None = None,
        crop_xyxy: tuple[int, int, int, int] | None = None,
        clicks: int = 0,
        seconds: float = 0.0,
        supersedes: str | None = None,
    ) -> Mask:
        """A new mask made now. `name` tells it from the run's other masks of the image; its id is
        `RUN/IMAGE/NAME`."""
        return Mask(
            mask_id=f"{self.run_id}/{image_id}/{name}",
            image_id=image_id,
            **{field.name: getattr(self, field.name) for field in fields(self)},
            rle=rle,
            area=rle_codec.area(rle),
            box_xyxy=rle_codec.box_xyxy(rle),
            predicted_iou=predicted_iou,
            stability_score=stability_score,
            point_xy=point_xy,
            crop_xyxy=crop_xyxy,
            clicks=clicks,
            seconds=seconds,
            supersedes=supersedes,
            created_at=datetime.now(UTC),
        )
