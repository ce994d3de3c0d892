"""Removal of duplicates and fragments among the masks of one image.

NMS by box keeps two masks of the same object if one of them has a distant component, and always
keeps fragments, because their boxes are small. N = masks.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from engine.core.rle import RLE, area, iou_matrix


def remove_duplicates(
    rles: Sequence[RLE], scores_N: np.ndarray, max_iou: float, max_inside: float
) -> list[int]:
    """Select the masks to keep.

    First, of two masks with an IoU above `max_iou`, the one with the lower score is dropped. Then a
    mask is dropped as a fragment if more than `max_inside` of it lies inside a larger kept mask
    with at least the same score. A mask with a higher score is a part and is kept.

    Args:
        rles: N masks of one image.
        scores_N: higher is better; of equal scores, the lower index.
        max_iou, max_inside: in [0, 1]; 1 keeps everything.

    Returns:
        Indices of the kept masks, ascending.
    """
    table = iou_matrix(list(rles), list(rles))
    distinct: list[int] = []
    for index in np.argsort(-scores_N, kind="stable").tolist():
        if not (table[index, distinct] > max_iou).any():
            distinct.append(index)
    areas = np.array([area(rles[index]) for index in distinct], np.float64)
    among = table[np.ix_(distinct, distinct)]
    # from IoU and areas: the share of each mask (row) that lies inside each other mask (column)
    inside = np.minimum(among / (1 + among) * (areas[:, None] + areas) / areas[:, None], 1.0)
    scores = scores_N[distinct]
    is_whole = (inside > max_inside) & (areas > areas[:, None]) & (scores >= scores[:, None])
    kept: list[int] = []  # indices into `distinct`
    for index in np.argsort(-areas, kind="stable").tolist():
        if not is_whole[index, kept].any():
            kept.append(index)
    return sorted(distinct[index] for index in kept)
