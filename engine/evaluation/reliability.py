"""Reliability of the IoU that a model predicts for its masks."""

from __future__ import annotations

from typing import Any

import numpy as np

BINS = 10
"""Bins of equal width over predicted IoU."""


def reliability(predicted_N: np.ndarray, iou_N: np.ndarray) -> dict[str, Any]:
    """Compare predicted and true IoU of N masks, float (N,) each.

    Returns:
        `predicted_iou_correlation`: Pearson's r; 0 if N < 3 or either is constant.
        `predicted_iou_error`: expected calibration error (Guo et al., 2017, equation 5, with IoU in
        place of accuracy): the mean over masks of the absolute difference between mean predicted
        and mean true IoU of the mask's bin.
        `predicted_iou_bins`: for each bin `low`, `high`, `masks`, and the means `predicted` and
        `iou`, which are None for an empty bin. The first and last bin include predictions outside
        [0, 1].
    """
    spread = len(iou_N) > 2 and np.std(iou_N) > 0 and np.std(predicted_N) > 0
    bin_N = np.clip((predicted_N * BINS).astype(np.int64), 0, BINS - 1)
    bins: list[dict[str, Any]] = []
    error = 0.0
    for index in range(BINS):
        inside = bin_N == index
        masks = int(inside.sum())
        predicted = float(predicted_N[inside].mean()) if masks else None
        iou = float(iou_N[inside].mean()) if masks else None
        if predicted is not None and iou is not None:
            error += abs(predicted - iou) * masks / len(iou_N)
        ends = {"low": index / BINS, "high": (index + 1) / BINS}
        bins.append({**ends, "masks": masks, "predicted": predicted, "iou": iou})
    return {
        "predicted_iou_correlation": (
            float(np.corrcoef(iou_N, predicted_N)[0, 1]) if spread else 0.0
        ),
        "predicted_iou_error": error,
        "predicted_iou_bins": bins,
    }
