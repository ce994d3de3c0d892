"""Thresholds for automatic masks, chosen on images with known truth."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from engine.core.rle import encode
from engine.evaluation import calibration
from engine.evaluation.calibration import calibrate
from engine.evaluation.clicks import EvaluationImage
from engine.sam import Segmenter

SIDE = 80
TRUTHS = [(row, column) for row in range(0, SIDE, 20) for column in range(0, SIDE, 16)]
"""Upper left corners of twenty squares of 8 pixels."""


def square(row: int, column: int) -> np.ndarray:
    mask = np.zeros((SIDE, SIDE), bool)
    mask[row : row + 8, column : column + 8] = True
    return mask


def calibrated(
    monkeypatch: pytest.MonkeyPatch, found: list[tuple[tuple[int, int], float]], precision: float
) -> tuple[float, dict[str, float]]:
    """The chosen threshold on predicted IoU, if the automatic masks are squares with these corners
    and predicted IoUs; and its scores."""
    masks = [
        SimpleNamespace(rle=encode(square(*corner)), predicted_iou=score, stability_score=0.97)
        for corner, score in found
    ]
    generator = SimpleNamespace(generate=lambda image_HWC: masks)
    monkeypatch.setattr(calibration, "MaskGenerator", lambda *_: generator)
    truths = [encode(square(*corner)) for corner in TRUTHS]
    image = EvaluationImage(np.zeros((SIDE, SIDE, 3), np.uint8), truths)
    thresholds, scores = calibrate(cast(Any, Segmenter), [image], min_precision=precision)
    return thresholds.min_predicted_iou, scores


WRONG = [((10, column), 0.81) for column in range(0, SIDE, 16)]
"""Five squares between the rows of true ones."""


def test_of_the_thresholds_with_the_wanted_precision_the_one_that_finds_most_is_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = [(corner, 0.91) for corner in TRUTHS[:8]] + [(TRUTHS[8], 0.81), *WRONG]
    threshold, scores = calibrated(monkeypatch, found, 0.9)
    assert 0.81 <= threshold < 0.91
    assert (scores["precision_50"], scores["recall_50"]) == (1.0, 0.4)


def test_one_sure_mask_does_not_make_a_threshold_that_keeps_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = [(TRUTHS[0], 0.93), *((corner, 0.87) for corner in TRUTHS[1:11])]
    threshold, scores = calibrated(monkeypatch, [*found, *((c, 0.87) for c, _ in WRONG)], 0.9)
    assert threshold < 0.87
    assert scores["precision_50"] == pytest.approx(11 / 16)
    assert scores["recall_50"] == pytest.approx(11 / 20)
