"""A simulated annotator, who clicks from ground truth, and a model of the annotator's time.

Objects are annotated in order of prominence, the largest first, as in SAM's data engine (paper,
section 4). All objects of an image are prompted in one batch, which does not change the result.

H x W = image; masks are bool.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np

from engine.core.batches import batches
from engine.core.clicks import center_point, depth, next_click
from engine.core.components import largest_component
from engine.core.metrics import batch_iou, iou
from engine.core.records import Mask, Prompt, Provenance
from engine.core.rle import encode
from engine.sam.segmenter import Segmenter
from engine.sam.tile_masks import TileMask
from engine.sam.tiles import PromptRequest, TiledPredictor

MAX_BATCH = 64
"""Objects prompted together."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CostModel:
    """Seconds of an annotator's time. Click and box times were measured in the literature; the
    others are assumptions, to be replaced by measurements of the team."""

    new_object: float = 1.5
    """To find the next object and to confirm its mask."""

    first_click: float = 2.4
    """Bearman et al. 2016, "What's the point": 2.4 s for the first point of an image."""

    click: float = 0.9
    """Bearman et al. 2016: 0.9 s for each further point."""

    box: float = 7.0
    """Papadopoulos et al. 2017, extreme clicking."""

    stroke: float = 5.0
    """One stroke of brush or eraser."""

    glance: float = 1.0
    """To judge one existing mask."""

    def seconds_for(self, clicks: int, strokes: int) -> float:
        """Return the seconds for one new mask made with these clicks and strokes."""
        further = max(clicks - 1, 0) * self.click
        first = self.first_click if clicks else 0.0
        return self.new_object + first + further + strokes * self.stroke


@dataclass(frozen=True, kw_only=True, slots=True)
class AnnotatorConfig:
    """Thresholds and limits of the simulated annotator; IoUs are with the true mask."""

    good_iou: float = 0.9
    """The annotator stops clicking at this IoU."""

    finish_iou: float = 0.95
    """The annotator stops brushing and erasing at this IoU. Without brush and eraser, a model is
    trained on its own mistakes."""

    max_clicks: int = 8
    """Clicks before the annotator takes brush and eraser."""

    max_strokes: int = 4
    """Strokes of brush and eraser per object."""

    max_seconds: float = 30.0
    """Time on one mask after which the annotator moves on (SAM paper, section 4)."""

    keep_iou: float = 0.5
    """Masks below this IoU are discarded at the end."""

    accept_iou: float = 0.75
    """Existing masks are accepted from this IoU on."""

    max_objects: int = 40
    """Objects annotated per image, the most prominent first."""

    cost: CostModel = field(default_factory=CostModel)

    def __post_init__(self) -> None:
        for name in ("good_iou", "finish_iou", "keep_iou", "accept_iou"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in (0, 1], got {getattr(self, name)}")
        if self.max_clicks < 1 or self.max_objects < 1:
            raise ValueError("max_clicks and max_objects must be at least 1")


@dataclass(frozen=True, slots=True)
class AnnotatedMask:
    """The annotator's mask of one object.

    Attributes:
        mask_HW: the final mask, bool.
        iou: IoU with the truth, [0, 1].
        clicks: number of clicks.
        strokes: number of strokes of brush and eraser.
        seconds: time by the cost model.
        point_xy: the first click, pixels.
        predicted_iou: predicted IoU of the best predicted mask, [0, 1].
    """

    mask_HW: np.ndarray
    iou: float
    clicks: int
    strokes: int
    seconds: float
    point_xy: tuple[float, float]
    predicted_iou: float

    def as_mask(
        self, provenance: Provenance, image_id: int, name: str | int, supersedes: str | None = None
    ) -> Mask:
        """The record of this mask, under a name that the run's other masks of the image lack."""
        return provenance.mask(
            image_id,
            name,
            encode(self.mask_HW),
            predicted_iou=self.predicted_iou,
            point_xy=self.point_xy,
            clicks=self.clicks,
            seconds=self.seconds,
            supersedes=supersedes,
        )


class _Object:
    """State of one object: its clicks and predictions."""

    def __init__(self, truth_HW: np.ndarray) -> None:
        self.truth = truth_HW
        self.points: list[tuple[int, int]] = [center_point(truth_HW)]
        self.labels: list[int] = [1]
        self.previous: TileMask | None = None
        self.mask = np.zeros_like(truth_HW)
        self.iou = 0.0
        self.best: tuple[float, np.ndarray, float] = (0.0, self.mask, 0.0)
        """IoU, mask and predicted IoU of the best predicted mask so far."""

    def request(self) -> PromptRequest:
        prompt = Prompt(
            points_xy=np.array(self.points, np.float64), labels=np.array(self.labels, np.int64)
        )
        return PromptRequest(prompt, self.previous)


class SimulatedAnnotator:
    """Annotates images whose true masks are known."""

    def __init__(self, segmenter: Segmenter, config: AnnotatorConfig | None = None) -> None:
        self.segmenter = segmenter
        self.config = config or AnnotatorConfig()

    def annotate(self, viewer: TiledPredictor, truths: Sequence[np.ndarray]) -> list[AnnotatedMask]:
        """Annotate objects without existing masks.

        Args:
            viewer: predictor for the image, with the annotator's model.
            truths: true masks, bool (H, W) each; empty masks are skipped.

        Returns:
            One record per object whose final mask has an IoU of at least `keep_iou`.
        """
        largest_first = sorted((t for t in truths if t.any()), key=lambda t: -int(t.sum()))
        objects = [_Object(truth) for truth in largest_first[: self.config.max_objects]]
        for batch in batches(objects, MAX_BATCH):
            self._click(viewer, batch)
        done = [self._finish(item) for item in objects]
        return [record for record in done if record.iou >= self.config.keep_iou]

    def _click(self, viewer: TiledPredictor, objects: list[_Object]) -> None:
        """Click until each object reaches `good_iou` or a limit."""
        config, active = self.config, objects
        for clicks in range(1, config.max_clicks + 1):
            answers = viewer.predict([item.request() for item in active], multimask=clicks == 1)
            found = [candidates[0] for candidates in answers]
            masks = viewer.masks(found)
            quality = batch_iou(masks, np.stack([item.truth for item in active]))
            for index, item in enumerate(active):
                item.mask, item.iou = masks[index], float(quality[index])
                item.previous = found[index]
                if item.iou > item.best[0]:
                    item.best = (item.iou, item.mask, found[index].predicted_iou)
            left = [item for item in active if item.iou < config.good_iou]
            if clicks == config.max_clicks:
                return
            active = [item for item in left if self._add_click(item)]
            if not active:
                return

    def _add_click(self, item: _Object) -> bool:
        """Add the next corrective click; return False if the time is up or there is no error."""
        if self.config.cost.seconds_for(len(item.points) + 1, 0) > self.config.max_seconds:
            return False
        click = next_click(item.mask, item.truth)
        if click is None or click[0] in item.points:
            return False
        item.points.append(click[0])
        item.labels.append(click[1])
        return True

    def _finish(self, item: _Object) -> AnnotatedMask:
        """Correct the best predicted mask with brush and eraser."""
        config = self.config
        quality, mask, predicted = item.best
        clicks, strokes = len(item.points), 0
        while (
            quality < config.finish_iou
            and strokes < config.max_strokes
            and config.cost.seconds_for(clicks, strokes + 1) <= config.max_seconds
        ):
            mask = apply_stroke(mask, item.truth)
            strokes += 1
            quality = iou(mask, item.truth)
        x, y = item.points[0]
        return AnnotatedMask(
            mask_HW=mask,
            iou=quality,
            clicks=clicks,
            strokes=strokes,
            seconds=config.cost.seconds_for(clicks, strokes),
            point_xy=(float(x), float(y)),
            predicted_iou=predicted,
        )


def apply_stroke(mask_HW: np.ndarray, truth_HW: np.ndarray) -> np.ndarray:
    """Return the mask after one stroke of the brush (false negatives) or eraser (false positives).

    The stroke is the morphological opening of the largest component of error, with a disk of half
    the component's greatest depth: it leaves the component's corners and stays inside it.

    Args:
        mask_HW, truth_HW: bool.
    """
    missing = truth_HW & ~mask_HW
    surplus = mask_HW & ~truth_HW
    component, grows = largest_component(missing), True
    other = largest_component(surplus)
    if other.sum() > component.sum():
        component, grows = other, False
    if not component.any():
        return mask_HW
    radius = max(1, int(depth(component).max() / 2))
    disk = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius - 1, 2 * radius - 1))
    swept = cv2.morphologyEx(component.astype(np.uint8), cv2.MORPH_OPEN, disk).astype(bool)
    return np.asarray(mask_HW | swept if grows else mask_HW & ~swept)
