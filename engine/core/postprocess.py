"""Post-processing of predicted masks, shared by page, simulated annotator and evaluation."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from engine.core.components import connected_components, fill_holes, select_components
from engine.core.records import Prompt

BOX_MARGIN = 0.03
"""A mask may extend beyond its box by this share of the box's sides."""

MIN_COMPONENT = 0.1
"""With a box, components of at least this share of the largest one's area are kept."""

MAX_CLICK_DISTANCE = 3.0
"""A click within this many pixels of a component selects it."""

MAX_HOLE = 0.01
"""Holes of at most this share of the mask's area are filled."""


def postprocess_mask(
    mask_HW: np.ndarray, prompt: Prompt, corner_xy: Sequence[int] = (0, 0)
) -> np.ndarray:
    """Remove the parts of a predicted mask that contradict its prompt, and fill pinholes.

    With clicks alone, the components that contain or almost touch a positive click are kept, or
    else the component nearest to one. With a box, the mask is cut at the box with a margin, unless
    the box is loose or a positive click lies outside it, and small components without a click are
    removed. A hole that contains a negative click is not filled.

    Args:
        mask_HW: bool, a window of the image.
        prompt: the model's prompt, in pixels of the image.
        corner_xy: the window's first pixel in the image.

    Returns:
        The mask of the same window, bool, a new array.
    """
    x, y, width, height = cv2.boundingRect(mask_HW.view(np.uint8))
    found = np.zeros_like(mask_HW)
    if width:  # pixels outside the mask's own box never change
        part = slice(y, y + height), slice(x, x + width)
        found[part] = _postprocess(mask_HW[part], prompt, np.add(corner_xy, (x, y)))
    return found


def _postprocess(mask: np.ndarray, prompt: Prompt, corner: np.ndarray) -> np.ndarray:
    """`postprocess_mask` for a window that is the mask's own box."""
    positive, negative = (_clicked_pixels(prompt, label) - corner for label in (1, 0))
    if prompt.box_xyxy is not None and not prompt.is_box_loose:
        mask = _cut_at_box(mask, prompt.box_xyxy - np.tile(corner, 2), positive)
    labels, areas = connected_components(mask)
    if len(areas) > 1:
        is_kept = np.zeros(len(areas), bool)
        if len(positive):
            is_kept[np.array(_clicked_components(labels, positive)) - 1] = True
        if prompt.box_xyxy is not None or not len(positive):
            is_kept |= areas >= MIN_COMPONENT * areas.max()
        mask = select_components(labels, is_kept)
    return fill_holes(mask, MAX_HOLE, negative[_are_inside(negative, mask)])


def _clicked_pixels(prompt: Prompt, label: int) -> np.ndarray:
    """Return the pixels (x, y) of the clicks with a label, int (N, 2)."""
    if prompt.points_xy is None or prompt.labels is None:
        return np.zeros((0, 2), np.int64)
    return np.asarray(np.floor(prompt.points_xy[prompt.labels == label]), np.int64)


def _are_inside(points_N2: np.ndarray, mask_HW: np.ndarray) -> np.ndarray:
    """Return which points are pixels of the window, bool (N,)."""
    sides = np.array(mask_HW.shape[::-1])
    return np.asarray(((points_N2 >= 0) & (points_N2 < sides)).all(axis=1))


def _cut_at_box(mask_HW: np.ndarray, box_4: np.ndarray, positive_N2: np.ndarray) -> np.ndarray:
    """Clear the pixels outside the box and its margin; all in pixels of the window."""
    if ((positive_N2 < np.floor(box_4[:2])) | (positive_N2 >= box_4[2:])).any():
        return mask_HW
    margin = np.tile(BOX_MARGIN * (box_4[2:] - box_4[:2]), 2)
    wide = box_4 + margin * np.array([-1, -1, 1, 1])
    x0, y0 = np.maximum(np.floor(wide[:2]), 0).astype(int).tolist()
    x1, y1 = np.maximum(np.ceil(wide[2:]), 0).astype(int).tolist()
    found = np.zeros_like(mask_HW)
    found[y0:y1, x0:x1] = mask_HW[y0:y1, x0:x1]
    return found


def _clicked_components(labels_HW: np.ndarray, positive_N2: np.ndarray) -> list[int]:
    """Return the labels of the components within MAX_CLICK_DISTANCE of a click, or else of the
    nearest one."""
    nearest: list[tuple[float, int]] = []  # distance and label, one pair per click
    set_N2: np.ndarray | None = None
    for point, is_inside in zip(positive_N2, _are_inside(positive_N2, labels_HW), strict=True):
        if is_inside and labels_HW[point[1], point[0]]:
            nearest.append((0.0, int(labels_HW[point[1], point[0]])))
            continue
        if set_N2 is None:
            set_N2 = np.stack(np.nonzero(labels_HW)[::-1], axis=1)
        squares = ((set_N2 - point) ** 2).sum(axis=1)
        x, y = set_N2[int(squares.argmin())]
        nearest.append((float(squares.min()) ** 0.5, int(labels_HW[y, x])))
    limit = max(MAX_CLICK_DISTANCE, min(nearest)[0])
    return [label for distance, label in nearest if distance <= limit]
