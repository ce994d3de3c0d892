"""A simulated annotator: clicks from ground truth as a careful person would, and what it costs.

Objects are worked on in order of prominence (largest first), as SAM's annotators did (paper,
section 4). All objects of an image are prompted side by side, which changes nothing for any of
them and saves time.

K = objects, H x W = image; masks are bool.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np

from engine.core.clicks import center_point, depth, next_click
from engine.core.metrics import batch_iou, iou
from engine.core.records import Mask, Prompt, Provenance
from engine.core.rle import encode
from engine.sam.segmenter import Segmenter
from engine.sam.zoom import Answer, Ask, Zoom

MAX_BATCH = 64
"""Objects prompted at once."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CostModel:
    """Seconds of a person's time. The click and box times are measured ones from the literature;
    the others are assumptions, to be replaced by an own team's figures."""

    new_object: float = 1.5
    """To find the next object and to confirm its mask."""

    first_click: float = 2.4
    """Bearman et al. 2016, "What's the point": 2.4 s for the first point of an image."""

    click: float = 0.9
    """The same source: 0.9 s for each further point."""

    box: float = 7.0
    """Papadopoulos et al. 2017, extreme clicking."""

    stroke: float = 5.0
    """One stroke of brush or eraser."""

    glance: float = 1.0
    """To judge one mask that is already there."""

    def of(self, clicks: int, strokes: int) -> float:
        """Seconds for one new mask made with these."""
        further = max(clicks - 1, 0) * self.click
        first = self.first_click if clicks else 0.0
        return self.new_object + first + further + strokes * self.stroke


@dataclass(frozen=True, kw_only=True, slots=True)
class AnnotatorConfig:
    """How the simulated annotator works."""

    good_iou: float = 0.9
    """No more clicks once the mask has this IoU with the truth."""

    finish_iou: float = 0.95
    """Brush and eraser are put down here: a model that is trained on masks left as its own clicks
    made them learns its own mistakes."""

    max_clicks: int = 8
    """Clicks before brush and eraser are taken."""

    max_strokes: int = 4
    """Strokes before the object is left as it is."""

    max_seconds: float = 30.0
    """Time on one mask after which an annotator moves on (SAM paper, section 4)."""

    keep_iou: float = 0.5
    """What is worse at the end is thrown away."""

    accept_iou: float = 0.75
    """A mask that is already there is good enough from here on."""

    max_objects: int = 40
    """Objects annotated in one image, most prominent first."""

    cost: CostModel = field(default_factory=CostModel)

    def __post_init__(self) -> None:
        for name in ("good_iou", "finish_iou", "keep_iou", "accept_iou"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in (0, 1], got {getattr(self, name)}")
        if self.max_clicks < 1 or self.max_objects < 1:
            raise ValueError("max_clicks and max_objects must be at least 1")


@dataclass(frozen=True, slots=True)
class AnnotatedMask:
    """What the annotator made of one object.

    Attributes:
        mask_HW: the final mask.
        iou: with the truth.
        clicks: clicks given. strokes: brush and eraser strokes. seconds: by the cost model.
        point_xy: the first click.
        predicted_iou: the model's own opinion of its last answer.
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
    """One object being worked on."""

    def __init__(self, truth_HW: np.ndarray) -> None:
        self.truth = truth_HW
        self.points: list[tuple[int, int]] = [center_point(truth_HW)]
        self.labels: list[int] = [1]
        self.answer: Answer | None = None
        self.mask = np.zeros_like(truth_HW)
        self.iou = 0.0
        self.best: tuple[float, np.ndarray, float] = (0.0, self.mask, 0.0)
        """IoU, mask and predicted IoU of the best answer so far."""

    def ask(self) -> Ask:
        prompt = Prompt(
            points_xy=np.array(self.points, np.float64), labels=np.array(self.labels, np.int64)
        )
        return Ask(prompt, self.answer, self.answer.best if self.answer else 0)


class SimulatedAnnotator:
    """Annotates images whose truth is known."""

    def __init__(self, segmenter: Segmenter, config: AnnotatorConfig | None = None) -> None:
        self.segmenter = segmenter
        self.config = config or AnnotatorConfig()

    def annotate(self, viewer: Zoom, truths: Sequence[np.ndarray]) -> list[AnnotatedMask]:
        """Make masks for the objects `truths`, bool (H, W) each, from nothing.

        Args:
            viewer: of the image, with the annotator's model.

        Returns:
            One record for every object that ended at `keep_iou` or better.
        """
        wanted = sorted((t for t in truths if t.any()), key=lambda t: -int(t.sum()))
        objects = [_Object(truth) for truth in wanted[: self.config.max_objects]]
        for start in range(0, len(objects), MAX_BATCH):
            self._click(viewer, objects[start : start + MAX_BATCH])
        done = [self._finish(item) for item in objects]
        return [record for record in done if record.iou >= self.config.keep_iou]

    def _click(self, viewer: Zoom, objects: list[_Object]) -> None:
        """Click until each object is good or its clicks are spent."""
        config, active = self.config, objects
        for clicks in range(1, config.max_clicks + 1):
            found = viewer.predict([item.ask() for item in active], multimask=clicks == 1)
            masks = viewer.masks([(answer, answer.best) for answer in found])
            quality = batch_iou(masks, np.stack([item.truth for item in active]))
            for index, item in enumerate(active):
                item.mask, item.iou = masks[index], float(quality[index])
                item.answer = found[index]
                if item.iou > item.best[0]:
                    predicted = float(found[index].predicted_iou_M.max())
                    item.best = (item.iou, item.mask, predicted)
            left = [item for item in active if item.iou < config.good_iou]
            if clicks == config.max_clicks:
                return
            active = [item for item in left if self._add_click(item)]
            if not active:
                return

    def _add_click(self, item: _Object) -> bool:
        """Add the next corrective click; False when time is up or nothing is left to correct."""
        if self.config.cost.of(len(item.points) + 1, 0) > self.config.max_seconds:
            return False
        click = next_click(item.mask, item.truth)
        if click is None or click[0] in item.points:
            return False
        item.points.append(click[0])
        item.labels.append(click[1])
        return True

    def _finish(self, item: _Object) -> AnnotatedMask:
        """Take the best answer seen (undo goes back to it), then brush and eraser."""
        config = self.config
        quality, mask, predicted = item.best
        clicks, strokes = len(item.points), 0
        while (
            quality < config.finish_iou
            and strokes < config.max_strokes
            and config.cost.of(clicks, strokes + 1) <= config.max_seconds
        ):
            mask = stroke(mask, item.truth)
            strokes += 1
            quality = iou(mask, item.truth)
        x, y = item.points[0]
        return AnnotatedMask(
            mask_HW=mask,
            iou=quality,
            clicks=clicks,
            strokes=strokes,
            seconds=config.cost.of(clicks, strokes),
            point_xy=(float(x), float(y)),
            predicted_iou=predicted,
        )


def stroke(mask_HW: np.ndarray, truth_HW: np.ndarray) -> np.ndarray:
    """The mask after one stroke of brush (something missing) or eraser (too much).

    The stroke sweeps the largest piece of error with a disk of half that piece's half-width, so it
    leaves its corners and never paints outside it: the piece's morphological opening.
    """
    missing = truth_HW & ~mask_HW
    surplus = mask_HW & ~truth_HW
    piece, grows = _largest_piece(missing), True
    other = _largest_piece(surplus)
    if other.sum() > piece.sum():
        piece, grows = other, False
    if not piece.any():
        return mask_HW
    radius = max(1, int(depth(piece).max() / 2))
    disk = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius - 1, 2 * radius - 1))
    swept = cv2.morphologyEx(piece.astype(np.uint8), cv2.MORPH_OPEN, disk).astype(bool)
    return np.asarray(mask_HW | swept if grows else mask_HW & ~swept)


def _largest_piece(mask_HW: np.ndarray) -> np.ndarray:
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask_HW.astype(np.uint8))
    if count <= 1:
        return np.zeros_like(mask_HW)
    return np.asarray(labels == 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax()))
