"""Repeats and fragments among masks of one image.

Box NMS compares boxes: masks that fill much the same pixels pass it where one has a stray piece,
and a fragment passes it always. N = masks.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from engine.core.rle import RLE, area, iou_matrix


def without_repeats(
    rles: Sequence[RLE], scores_N: np.ndarray, max_iou: float, max_inside: float
) -> list[int]:
    """Which masks stay.

    First of two masks that overlap by more than `max_iou` only the better one does; then those go
    of which more than `max_inside` lies in a larger one that stays and is at least as good: they
    are fragments. A better mask inside a larger one is a part, and stays.

    Args:
        rles: N masks of one image.
        scores_N: higher is better; of equal ones the first is.
        max_iou, max_inside: in [0, 1]; 1 lets everything stay.

    Returns:
        Indices in ascending order.
    """
    table = iou_matrix(list(rles), list(rles))
    distinct: list[int] = []
    for index in np.argsort(-scores_N, kind="stable").tolist():
        if not (table[index, distinct] > max_iou).any():
            distinct.append(index)
    areas = np.array([area(rles[index]) for index in distinct], np.float64)
    among = table[np.ix_(distinct, distinct)]
    # of IoU and areas: how much of each mask, in rows, lies inside each other one
    inside = np.minimum(among / (1 + among) * (areas[:, None] + areas) / areas[:, None], 1.0)
    scores = scores_N[distinct]
    is_whole = (inside > max_inside) & (areas > areas[:, None]) & (scores >= scores[:, None])
    stays: list[int] = []  # places in `distinct`
    for place in np.argsort(-areas, kind="stable").tolist():
        if not is_whole[place, stays].any():
            stays.append(place)
    return sorted(distinct[place] for place in stays)
