"""Levels the predicted IoUs of a model's three outputs for an ambiguous prompt.

The best of the three masks of a click is the one with the highest predicted IoU. A short training
changes these scores more than the masks: those of one output become too high, those of another too
low, and a worse mask is chosen (docs/LOG.md, 2026-11-28).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import torch

from engine.core.batches import spread
from engine.core.clicks import center_point
from engine.core.metrics import iou
from engine.core.records import Prompt
from engine.core.rle import decode
from engine.sam.segmenter import Segmenter
from engine.sam.tiles import PromptRequest, TiledPredictor
from engine.training.samples import Example

MASKS_PER_IMAGE = 8
LEAST_MASKS = 40
"""With fewer masks the scores stay as they are."""


def level_scores(
    segmenter: Segmenter,
    examples: Iterable[Example],
    on_image: Callable[[], None] | None = None,
) -> list[float]:
    """Shift the predicted IoU of each of the three outputs, so that with one click at the centre of
    the examples' masks its mean, over the tiles on which a click is predicted, is that of the true
    IoU.

    Args:
        segmenter: the model; the last bias of its IoU head is changed.
        examples: annotated images, of which up to MASKS_PER_IMAGE masks each are taken.
        on_image: called after each image.

    Returns:
        What was added to the three, nothing if there are too few masks.
    """
    errors: list[np.ndarray] = []
    for example in examples:
        errors += _errors(segmenter, example)
        if on_image is not None:
            on_image()
    if len(errors) < LEAST_MASKS:
        return []
    shift = np.concatenate(errors).mean(axis=0)
    bias = segmenter.sam.mask_decoder.iou_prediction_head.layers[-1].bias
    with torch.no_grad():
        bias[1:] += torch.as_tensor(shift, dtype=bias.dtype, device=bias.device)
    return [float(one) for one in shift]


def _errors(segmenter: Segmenter, example: Example) -> list[np.ndarray]:
    """Return true less predicted IoU for each mask of an image, float (tiles, 3)."""
    masks = [decode(rle) for rle in spread(example.rles, MASKS_PER_IMAGE)]
    truths = [mask for mask in masks if mask.any()]
    viewer = TiledPredictor(segmenter, example.image_HWC)
    clicks = [np.array([center_point(truth)], np.float64) for truth in truths]
    requests = [PromptRequest(Prompt(points_xy=click, labels=np.array([1]))) for click in clicks]
    errors = []
    for truth, pool in zip(truths, viewer.pools(requests, multimask=True), strict=True):
        ious = [iou(mask, truth) for mask in viewer.masks(pool)]
        scores = [candidate.predicted_iou for candidate in pool]
        errors.append(np.subtract(ious, scores).reshape(-1, 3))
    return errors
