"""Run lengths of many masks at once, without decoding a pixel that is not in a mask's box.

N = masks, R = runs of all of them, H = height, W = width.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def unpack(counts: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """Run lengths from COCO's text form: `rleFrString` in pycocotools' maskApi.c, vectorised.

    Each number is a group of 5-bit digits, lowest first, bit 6 meaning "more follow"; from the
    fourth on it is the difference to the run two before.

    Args:
        counts: of N masks.

    Returns:
        The runs of all masks, int64 (R,), column-major, each mask's starting with a run of 0; and
        each mask's first run, and R, int64 (N + 1).

    Raises:
        ValueError: counts are empty, cut off, or hold characters that COCO does not use.
    """
    if not counts:
        return np.zeros(0, np.int64), np.zeros(1, np.int64)
    lasts = np.cumsum([len(one) for one in counts])
    codes = np.frombuffer(b"".join(counts), dtype=np.uint8).astype(np.int64) - 48
    bad = not min(map(len, counts)) or codes.min() < 0 or codes.max() > 63
    if bad or (codes[lasts - 1] & 32).any():
        raise ValueError("RLE counts are empty, cut off, or hold characters that COCO does not use")
    ends = np.flatnonzero((codes & 32) == 0)
    starts = np.concatenate([[0], ends[:-1] + 1])
    digits = ends - starts + 1
    if digits.max() > 7:
        raise ValueError("RLE counts hold a number beyond 32 bits")
    place = 5 * (np.arange(len(codes)) - np.repeat(starts, digits))
    runs = np.add.reduceat((codes & 31) << place, starts)
    runs -= ((codes[ends] & 16) != 0).astype(np.int64) << (5 * digits)
    firsts = np.concatenate([[0], np.searchsorted(ends, lasts)])
    index = np.arange(len(runs)) - np.repeat(firsts[:-1], np.diff(firsts))
    for chosen in (index % 2 == 1, (index % 2 == 0) & (index > 0)):
        sums = np.concatenate([[0], np.cumsum(runs[chosen])])
        before = np.concatenate([[0], np.cumsum(chosen)])[firsts]
        runs[chosen] = sums[1:] - np.repeat(sums[before[:-1]], np.diff(before))
    return runs, firsts


def masks_in_boxes(
    counts: Sequence[bytes], boxes_xyxy: np.ndarray, size: tuple[int, int]
) -> np.ndarray:
    """Decode masks whose boxes are known: pixels outside them are not computed.

    Args:
        counts: of N masks of one image.
        boxes_xyxy: int (N, 4), the masks' tight boxes.
        size: (H, W) of the image.

    Returns:
        bool (N, H, W).

    Raises:
        ValueError: counts that COCO does not use, or that do not fit the size or the box.
    """
    height, width = size
    out = np.zeros((len(counts), height, width), bool)
    runs, firsts = unpack(counts)
    values = np.arange(int(np.diff(firsts).max(initial=0))) % 2 == 1
    for plane, first, last, box in zip(
        out, firsts[:-1], firsts[1:], boxes_xyxy.tolist(), strict=True
    ):
        x0, y0, x1, y1 = box
        mine = runs[first:last].copy()
        if x1 <= x0:
            continue
        mine[0] -= x0 * height
        if len(mine) % 2:
            mine[-1] -= (width - x1) * height
        if mine.min() < 0 or int(mine.sum()) != (x1 - x0) * height:
            raise ValueError(f"a mask's run lengths do not fit its box {box} of an image of {size}")
        inside = np.repeat(values[: len(mine)], mine).reshape(x1 - x0, height)
        plane[y0:y1, x0:x1] = inside[:, y0:y1].T
    return out
