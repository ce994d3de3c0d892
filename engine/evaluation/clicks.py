"""Evaluation with simulated prompts: mean IoU after k clicks, and with the true box (SAM paper,
section 7.1, appendix D.1).

The first click is the point farthest from the truth's edge, each further click the same point of
the error region. After one click the mask is the most confident of three, after more clicks the
single mask; the previous mask's logits are fed back.

K = masks prompted together, C = clicks, N = masks, H x W = image.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from engine.core.batches import batches
from engine.core.clicks import center_point, next_click
from engine.core.metrics import batch_iou, boundary_f, boundary_tolerance, iou
from engine.core.records import Prompt
from engine.core.rle import RLE, box_xyxy, decode
from engine.evaluation.bootstrap import ByImage
from engine.evaluation.reliability import reliability
from engine.sam.segmenter import Segmenter
from engine.sam.threads import each_on_threads
from engine.sam.tile_masks import TileMask
from engine.sam.tiles import PromptRequest, TiledPredictor

CLICKS = (1, 2, 3, 5, 9)
"""Numbers of clicks after which mean IoU is reported, as in the paper."""

NOC_PERCENT = (85, 90)
"""Target IoUs of the number of clicks (NoC), in percent."""

MAX_BATCH = 64
"""Masks prompted together."""


@dataclass(frozen=True, slots=True)
class EvaluationImage:
    """An image, RGB uint8 (H, W, 3), and its true masks."""

    image_HWC: np.ndarray
    truths: list[RLE]


@dataclass(slots=True)
class ClickScores:
    """Scores in [0, 1], one per mask in every list.

    Attributes:
        clicks: numbers of clicks after which mean IoU is reported; the last one is the cap.
        image: number of the mask's image.
        iou_after: IoU after each click, the first at index 0.
        oracle: IoU of the best of the three masks after one click.
        predicted: predicted IoU of the mask after one click.
        boundary_1_click, boundary_box: boundary F1 after one click and with the box.
        box: IoU with the box as prompt.
        box_fill: IoU of the box itself as a mask.
    """

    clicks: tuple[int, ...]
    image: list[int] = field(default_factory=list)
    iou_after: list[list[float]] = field(default_factory=list)
    oracle: list[float] = field(default_factory=list)
    predicted: list[float] = field(default_factory=list)
    boundary_1_click: list[float] = field(default_factory=list)
    box: list[float] = field(default_factory=list)
    box_fill: list[float] = field(default_factory=list)
    boundary_box: list[float] = field(default_factory=list)

    @classmethod
    def empty(cls, clicks: tuple[int, ...]) -> ClickScores:
        """Return scores without masks."""
        return cls(clicks, iou_after=[[] for _ in range(clicks[-1])])

    def add_image(self, number: int, found: ClickScores) -> None:
        """Add the scores of one image's masks."""
        self.image += [number] * len(found.box)
        for mine, more in zip(self.iou_after, found.iou_after, strict=True):
            mine += more
        for name in ("oracle", "predicted", "boundary_1_click", "box", "box_fill", "boundary_box"):
            getattr(self, name).extend(getattr(found, name))

    def ious(self) -> np.ndarray:
        """Return the IoU after each click, float64 (C, N)."""
        return np.array(self.iou_after, np.float64).reshape(self.clicks[-1], -1)

    def values(self) -> dict[str, np.ndarray]:
        """Return each metric's values, float64 (N,)."""
        ious = self.ious()
        found = {click_name(count): ious[count - 1] for count in self.clicks}
        found["miou_1_click_oracle"] = np.array(self.oracle)
        found["miou_box"] = np.array(self.box)
        found["miou_box_fill"] = np.array(self.box_fill)
        found["boundary_f_1_click"] = np.array(self.boundary_1_click)
        found["boundary_f_box"] = np.array(self.boundary_box)
        for percent in NOC_PERCENT:
            needed, missed = clicks_to_reach(ious, percent / 100)
            found[f"noc_{percent}"] = needed.astype(np.float64)
            found[f"noc_{percent}_missed"] = missed.astype(np.float64)
        return found

    def by_image(self) -> ByImage:
        """Return the sums of `values` per image, for images with masks."""
        return ByImage.of(self.values(), self.image)

    def summary(self) -> dict[str, Any]:
        """Return means over masks with intervals (`ByImage.summary`), the reliability of the
        predicted IoU after one click (`reliability`), the number of `masks`, and `noc_cap`, the
        number of clicks counted for a mask that never reaches the target IoU."""
        found: dict[str, Any] = {"masks": len(self.box)}
        found |= self.by_image().summary()
        found["noc_cap"] = self.clicks[-1]
        return found | reliability(np.array(self.predicted), self.ious()[0])


def click_name(count: int) -> str:
    """Return the metric's name for mean IoU after `count` clicks."""
    return "miou_1_click" if count == 1 else f"miou_{count}_clicks"


def clicks_to_reach(iou_CN: np.ndarray, target_iou: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the number of clicks (NoC, as in RITM; Sofiiuk et al., 2021).

    Returns:
        The number of clicks after which each mask first has `target_iou`, int (N,), or C if it
        never does; and which masks never do, bool (N,).
    """
    reached = iou_CN >= target_iou
    missed = np.asarray(~reached.any(axis=0))
    return np.where(missed, len(iou_CN), reached.argmax(axis=0) + 1), missed


def evaluate_clicks(
    segmenter: Segmenter,
    images: Iterable[EvaluationImage],
    *,
    clicks: Sequence[int] = CLICKS,
    max_masks_per_image: int | None = None,
    zoom: bool = True,
) -> ClickScores:
    """Score a model with clicks and with the true box.

    Args:
        segmenter: the model.
        images: with their true masks; empty masks are skipped.
        clicks: numbers of clicks to report; 1 is always included.
        max_masks_per_image: limits each image to its first masks.
        zoom: predict small objects on tiles, as the annotation page does; False predicts on the
            whole image, as in the paper.
    """
    reported = tuple(sorted({1, *clicks}))

    def evaluate(item: EvaluationImage) -> ClickScores:
        rles = item.truths if max_masks_per_image is None else item.truths[:max_masks_per_image]
        viewer = TiledPredictor(segmenter, item.image_HWC, use_tiles=zoom)
        scores = ClickScores.empty(reported)
        for batch in batches(rles, MAX_BATCH):
            truths = np.stack([decode(rle) for rle in batch])
            boxes = np.array([box_xyxy(rle) for rle in batch], np.float64)
            kept = truths.any(axis=(1, 2))
            if kept.any():
                _evaluate_clicks(viewer, truths[kept], scores)
                _evaluate_boxes(viewer, truths[kept], boxes[kept], scores)
        return scores

    scores = ClickScores.empty(reported)
    for number, found in enumerate(each_on_threads(evaluate, images, segmenter.workers)):
        scores.add_image(number, found)
    return scores


def _evaluate_clicks(viewer: TiledPredictor, truths_KHW: np.ndarray, scores: ClickScores) -> None:
    points = [[center_point(truth)] for truth in truths_KHW]
    labels = [[1] for _ in truths_KHW]
    previous: list[TileMask | None] = [None] * len(truths_KHW)
    for count in range(1, scores.clicks[-1] + 1):
        requests = [
            PromptRequest(
                Prompt(
                    points_xy=np.array(points[k], np.float64),
                    labels=np.array(labels[k], np.int64),
                ),
                candidate,
            )
            for k, candidate in enumerate(previous)
        ]
        found = viewer.predict(requests, multimask=count == 1)
        masks = viewer.masks([candidates[0] for candidates in found])
        if count == 1:
            _score_first_click(viewer, found, masks, truths_KHW, scores)
        scores.iou_after[count - 1] += batch_iou(masks, truths_KHW).tolist()
        previous = [candidates[0] for candidates in found]
        for k, truth in enumerate(truths_KHW):
            click = next_click(masks[k], truth)
            point, label = click if click is not None else (points[k][0], 1)
            points[k].append(point)
            labels[k].append(label)


def _score_first_click(
    viewer: TiledPredictor,
    found: Sequence[Sequence[TileMask]],
    masks_KHW: np.ndarray,
    truths_KHW: np.ndarray,
    scores: ClickScores,
) -> None:
    """Add the scores that are reported for the first click only."""
    scores.predicted += [candidates[0].predicted_iou for candidates in found]
    for candidates, truth in zip(found, truths_KHW, strict=True):
        scores.oracle.append(max(iou(mask, truth) for mask in viewer.masks(candidates)))
    scores.boundary_1_click += _boundary_scores(masks_KHW, truths_KHW)


def _evaluate_boxes(
    viewer: TiledPredictor, truths_KHW: np.ndarray, boxes_K4: np.ndarray, scores: ClickScores
) -> None:
    found = viewer.predict(
        [PromptRequest(Prompt(box_xyxy=box)) for box in boxes_K4], multimask=False
    )
    masks = viewer.masks([candidates[0] for candidates in found])
    scores.box += batch_iou(masks, truths_KHW).tolist()
    scores.boundary_box += _boundary_scores(masks, truths_KHW)
    areas = (boxes_K4[:, 2:] - boxes_K4[:, :2]).prod(axis=1)
    scores.box_fill += (truths_KHW.sum(axis=(1, 2)) / areas).tolist()


def _boundary_scores(masks_KHW: np.ndarray, truths_KHW: np.ndarray) -> list[float]:
    tolerance = boundary_tolerance(truths_KHW.shape[1:])
    pairs = zip(masks_KHW, truths_KHW, strict=True)
    return [boundary_f(mask, truth, tolerance) for mask, truth in pairs]
