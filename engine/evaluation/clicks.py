"""Point to mask and box to mask: mean IoU after k clicks (SAM paper, section 7.1, appendix D.1).

The first click is the point farthest from the truth's edge, each next one the same in the error
region; the answer is the most confident of three masks for one click and the single mask from the
second on, with the last answer's logits fed back.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from engine.core.clicks import center_point, next_click
from engine.core.metrics import batch_iou
from engine.core.records import Prompt
from engine.core.rle import RLE, box_xyxy, decode
from engine.sam.segmenter import Embedding, Segmenter

CLICKS = (1, 2, 3, 5, 9)
"""Numbers of clicks that are reported, as in the paper."""

MAX_BATCH = 64


@dataclass(frozen=True, slots=True)
class EvaluationImage:
    """image_HWC: RGB uint8; truths: its true masks."""

    image_HWC: np.ndarray
    truths: list[RLE]


@dataclass(slots=True)
class ClickScores:
    """One value per mask: IoU after k clicks, from the box, of the best of three after one click,
    of the box itself as mask, and the predicted IoU of the first answer."""

    iou_after: dict[int, list[float]]
    box: list[float] = field(default_factory=list)
    oracle: list[float] = field(default_factory=list)
    box_fill: list[float] = field(default_factory=list)
    predicted: list[float] = field(default_factory=list)

    def summary(self) -> dict[str, float | int]:
        """Means over masks, and the correlation of predicted with true IoU after one click."""
        found: dict[str, float | int] = {"masks": len(self.box)}
        for clicks, values in sorted(self.iou_after.items()):
            name = "miou_1_click" if clicks == 1 else f"miou_{clicks}_clicks"
            found[name] = _mean(values)
        found["miou_1_click_oracle"] = _mean(self.oracle)
        found["miou_box"] = _mean(self.box)
        found["miou_box_fill"] = _mean(self.box_fill)
        first = self.iou_after[1]
        spread = len(first) > 2 and np.std(first) > 0 and np.std(self.predicted) > 0
        found["predicted_iou_correlation"] = (
            float(np.corrcoef(first, self.predicted)[0, 1]) if spread else 0.0
        )
        return found


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if len(values) else 0.0


def evaluate_clicks(
    segmenter: Segmenter,
    images: Iterable[EvaluationImage],
    *,
    clicks: Sequence[int] = CLICKS,
    max_masks_per_image: int | None = None,
) -> ClickScores:
    """Run the protocol over images.

    Args:
        segmenter: the model.
        images: with their true masks; empty masks are passed over.
        clicks: which numbers of clicks to report; 1 is always among them.
        max_masks_per_image: the first so many masks of each image, for a quick look.
    """
    wanted = sorted({1, *clicks})
    scores = ClickScores({count: [] for count in wanted})
    for item in images:
        rles = item.truths if max_masks_per_image is None else item.truths[:max_masks_per_image]
        embedding = segmenter.embed(item.image_HWC)
        for start in range(0, len(rles), MAX_BATCH):
            batch = rles[start : start + MAX_BATCH]
            truths = np.stack([decode(rle) for rle in batch])
            boxes = np.array([box_xyxy(rle) for rle in batch], np.float64)
            kept = truths.any(axis=(1, 2))
            if kept.any():
                _clicks(segmenter, embedding, truths[kept], wanted, scores)
                _boxes(segmenter, embedding, truths[kept], boxes[kept], scores)
    return scores


def _clicks(
    segmenter: Segmenter,
    embedding: Embedding,
    truths_KHW: np.ndarray,
    wanted: Sequence[int],
    scores: ClickScores,
) -> None:
    points = [[center_point(truth)] for truth in truths_KHW]
    labels = [[1] for _ in truths_KHW]
    logits: np.ndarray | None = None
    for count in range(1, max(wanted) + 1):
        prompts = [
            Prompt(
                points_xy=np.array(points[k], np.float64),
                labels=np.array(labels[k], np.int64),
                mask_logits=None if logits is None else logits[k],
            )
            for k in range(len(truths_KHW))
        ]
        answer = segmenter.predict(embedding, prompts, multimask=count == 1)
        best, predicted = answer.best()
        masks = segmenter.masks(embedding, best)
        ious = batch_iou(masks, truths_KHW)
        if count == 1:
            scores.predicted += predicted.tolist()
            every = [
                batch_iou(segmenter.masks(embedding, answer.logits_BMHW[:, m]), truths_KHW)
                for m in range(answer.logits_BMHW.shape[1])
            ]
            scores.oracle += np.max(every, axis=0).tolist()
        if count in scores.iou_after:
            scores.iou_after[count] += ious.tolist()
        logits = best.float().cpu().numpy()
        for k, truth in enumerate(truths_KHW):
            click = next_click(masks[k], truth)
            point, label = click if click is not None else (points[k][0], 1)
            points[k].append(point)
            labels[k].append(label)


def _boxes(
    segmenter: Segmenter,
    embedding: Embedding,
    truths_KHW: np.ndarray,
    boxes_K4: np.ndarray,
    scores: ClickScores,
) -> None:
    answer = segmenter.predict(
        embedding, [Prompt(box_xyxy=box) for box in boxes_K4], multimask=False
    )
    masks = segmenter.masks(embedding, answer.best()[0])
    scores.box += batch_iou(masks, truths_KHW).tolist()
    areas = (boxes_K4[:, 2:] - boxes_K4[:, :2]).prod(axis=1)
    scores.box_fill += (truths_KHW.sum(axis=(1, 2)) / areas).tolist()
