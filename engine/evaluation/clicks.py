"""Point to mask and box to mask: mean IoU after k clicks (SAM paper, section 7.1, appendix D.1).

The first click is the point farthest from the truth's edge, each next one the same in the error
region; the answer is the most confident of three masks for one click and the single mask from the
second on, with the last answer's logits fed back.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from engine.core.clicks import center_point, next_click
from engine.core.metrics import batch_iou, boundary_f, boundary_tolerance
from engine.core.records import Prompt
from engine.core.rle import RLE, box_xyxy, decode
from engine.evaluation.bootstrap import ByImage
from engine.evaluation.reliability import reliability
from engine.sam.segmenter import Segmenter
from engine.sam.zoom import Answer, Ask, Zoom

CLICKS = (1, 2, 3, 5, 9)
"""Numbers of clicks that are reported, as in the paper."""

NOC_PERCENT = (85, 90)
"""IoU in percent up to which clicks are counted."""

MAX_BATCH = 64


@dataclass(frozen=True, slots=True)
class EvaluationImage:
    """image_HWC: RGB uint8; truths: its true masks."""

    image_HWC: np.ndarray
    truths: list[RLE]


@dataclass(slots=True)
class ClickScores:
    """One value a mask: the number of its image; IoU after each click from the first to the last;
    of one click and of the box the IoU and the boundary F; IoU of the best of three after one
    click, and of the box itself as mask; the predicted IoU of the first answer."""

    clicks: tuple[int, ...]
    """The numbers of clicks after which mean IoU is reported; the last one is the cap."""
    image: list[int] = field(default_factory=list)
    iou_after: list[list[float]] = field(default_factory=list)
    """For each click, the first at index 0, one value a mask."""
    oracle: list[float] = field(default_factory=list)
    predicted: list[float] = field(default_factory=list)
    boundary_1_click: list[float] = field(default_factory=list)
    box: list[float] = field(default_factory=list)
    box_fill: list[float] = field(default_factory=list)
    boundary_box: list[float] = field(default_factory=list)

    def ious(self) -> np.ndarray:
        """IoU after each of C clicks of N masks, float64 (C, N)."""
        return np.array(self.iou_after, np.float64).reshape(self.clicks[-1], -1)

    def values(self) -> dict[str, np.ndarray]:
        """What is averaged, float64 (N,) a figure."""
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
        """Sums of `values` by image, of images that have masks."""
        return ByImage.of(self.values(), self.image)

    def summary(self) -> dict[str, Any]:
        """Means over masks with their intervals (`ByImage.summary`), how good the predicted IoU of
        the first answer is (`reliability`), `masks`, and `noc_cap`: the clicks that are counted
        for a mask that never reaches the IoU."""
        found: dict[str, Any] = {"masks": len(self.box)}
        found |= self.by_image().summary()
        found["noc_cap"] = self.clicks[-1]
        return found | reliability(np.array(self.predicted), self.ious()[0])


def click_name(count: int) -> str:
    """The name under which mean IoU after so many clicks is reported."""
    return "miou_1_click" if count == 1 else f"miou_{count}_clicks"


def clicks_to_reach(iou_CN: np.ndarray, wanted: float) -> tuple[np.ndarray, np.ndarray]:
    """The number of the first click after which IoU is `wanted` or more, int (N,), C where none is
    (NoC, as in RITM; Sofiiuk et al., 2021); and which masks never reach it, bool (N,)."""
    reached = iou_CN >= wanted
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
    """Run the protocol over images: every click up to the largest number that is reported, and the
    box.

    Args:
        segmenter: the model.
        images: with their true masks; empty masks are passed over.
        clicks: which numbers of clicks to report; 1 is always among them.
        max_masks_per_image: the first so many masks of each image, for a quick look.
        zoom: small objects are looked at closer, as at the annotation page; else every prompt is
            answered on the whole image, as in the paper.
    """
    wanted = tuple(sorted({1, *clicks}))
    scores = ClickScores(wanted, iou_after=[[] for _ in range(wanted[-1])])
    for number, item in enumerate(images):
        rles = item.truths if max_masks_per_image is None else item.truths[:max_masks_per_image]
        viewer = Zoom(segmenter, item.image_HWC, is_on=zoom)
        for start in range(0, len(rles), MAX_BATCH):
            batch = rles[start : start + MAX_BATCH]
            truths = np.stack([decode(rle) for rle in batch])
            boxes = np.array([box_xyxy(rle) for rle in batch], np.float64)
            kept = truths.any(axis=(1, 2))
            if kept.any():
                scores.image += [number] * int(kept.sum())
                _clicks(viewer, truths[kept], scores)
                _boxes(viewer, truths[kept], boxes[kept], scores)
    return scores


def _clicks(viewer: Zoom, truths_KHW: np.ndarray, scores: ClickScores) -> None:
    points = [[center_point(truth)] for truth in truths_KHW]
    labels = [[1] for _ in truths_KHW]
    answers: list[Answer | None] = [None] * len(truths_KHW)
    for count in range(1, scores.clicks[-1] + 1):
        asked = [
            Ask(
                Prompt(
                    points_xy=np.array(points[k], np.float64),
                    labels=np.array(labels[k], np.int64),
                ),
                answer,
                answer.best if answer else 0,
            )
            for k, answer in enumerate(answers)
        ]
        found = viewer.predict(asked, multimask=count == 1)
        masks = viewer.masks([(answer, answer.best) for answer in found])
        if count == 1:
            _first_click(viewer, found, masks, truths_KHW, scores)
        scores.iou_after[count - 1] += batch_iou(masks, truths_KHW).tolist()
        answers = list(found)
        for k, truth in enumerate(truths_KHW):
            click = next_click(masks[k], truth)
            point, label = click if click is not None else (points[k][0], 1)
            points[k].append(point)
            labels[k].append(label)


def _first_click(
    viewer: Zoom,
    found: Sequence[Answer],
    masks_KHW: np.ndarray,
    truths_KHW: np.ndarray,
    scores: ClickScores,
) -> None:
    """What is told of the first answer alone."""
    scores.predicted += [float(answer.predicted_iou_M.max()) for answer in found]
    outputs = len(found[0].predicted_iou_M)
    every = [
        batch_iou(viewer.masks([(answer, m) for answer in found]), truths_KHW)
        for m in range(outputs)
    ]
    scores.oracle += np.max(every, axis=0).tolist()
    scores.boundary_1_click += _boundaries(masks_KHW, truths_KHW)


def _boxes(viewer: Zoom, truths_KHW: np.ndarray, boxes_K4: np.ndarray, scores: ClickScores) -> None:
    found = viewer.predict([Ask(Prompt(box_xyxy=box)) for box in boxes_K4], multimask=False)
    masks = viewer.masks([(answer, 0) for answer in found])
    scores.box += batch_iou(masks, truths_KHW).tolist()
    scores.boundary_box += _boundaries(masks, truths_KHW)
    areas = (boxes_K4[:, 2:] - boxes_K4[:, :2]).prod(axis=1)
    scores.box_fill += (truths_KHW.sum(axis=(1, 2)) / areas).tolist()


def _boundaries(masks_KHW: np.ndarray, truths_KHW: np.ndarray) -> list[float]:
    tolerance = boundary_tolerance(truths_KHW.shape[1:])
    pairs = zip(masks_KHW, truths_KHW, strict=True)
    return [boundary_f(mask, truth, tolerance) for mask, truth in pairs]
