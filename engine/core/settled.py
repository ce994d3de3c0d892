"""What of a model's answer is meant. The page, the simulated annotator and the evaluation that
looks as closely as the page all take a mask from here.

A model answers a prompt place by place, and says yes in places that the prompt cannot mean: pieces
that nobody clicked on, pinholes, pixels outside the box.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from engine.core.pieces import chosen, pieces, without_pinholes
from engine.core.records import Prompt

BOX_MARGIN = 0.03
"""How far a mask may reach beyond its box, of the box's sides."""

MIN_PIECE = 0.1
"""With a box, pieces of at least this share of the largest are the object's, clicked on or not."""

BESIDE = 3.0
"""Pixels between a click and a piece that counts as clicked on."""

PINHOLE = 0.01
"""Holes of at most this share of the mask are none that anybody meant."""


def settled(mask_HW: np.ndarray, prompt: Prompt, corner_xy: Sequence[int] = (0, 0)) -> np.ndarray:
    """A model's answer without what its prompt cannot mean.

    Of an answer to clicks the pieces stay that a positive click is in or beside; where there are
    none, the nearest to one. Of an answer to a box, what lies in it, with a margin, and in pieces
    of some size; a positive click outside the box says that the object reaches beyond it. Pinholes
    are filled, but for those that a negative click is in.

    Args:
        mask_HW: bool, a window of the image.
        prompt: what was asked, in pixels of the image.
        corner_xy: where the window's first pixel is in the image.

    Returns:
        The mask of the same window.
    """
    x, y, width, height = cv2.boundingRect(mask_HW.view(np.uint8))
    found = np.zeros_like(mask_HW)
    if width:  # nothing outside the mask's own box can change
        part = slice(y, y + height), slice(x, x + width)
        found[part] = _settled(mask_HW[part], prompt, np.add(corner_xy, (x, y)))
    return found


def _settled(mask: np.ndarray, prompt: Prompt, corner: np.ndarray) -> np.ndarray:
    """The same for a window that is the mask's own box."""
    yes, no = (_pixels(prompt, label) - corner for label in (1, 0))
    if prompt.box_xyxy is not None and not prompt.is_box_loose:
        mask = _within(mask, prompt.box_xyxy - np.tile(corner, 2), yes)
    labels, areas = pieces(mask)
    if len(areas) > 1:
        is_kept = np.zeros(len(areas), bool)
        if len(yes):
            is_kept[np.array(_clicked(labels, yes)) - 1] = True
        if prompt.box_xyxy is not None or not len(yes):
            is_kept |= areas >= MIN_PIECE * areas.max()
        mask = chosen(labels, is_kept)
    return without_pinholes(mask, PINHOLE, no[_are_inside(no, mask)])


def _pixels(prompt: Prompt, label: int) -> np.ndarray:
    """Clicks with a label, int (N, 2)."""
    if prompt.points_xy is None or prompt.labels is None:
        return np.zeros((0, 2), np.int64)
    return np.asarray(np.floor(prompt.points_xy[prompt.labels == label]), np.int64)


def _are_inside(points_N2: np.ndarray, mask_HW: np.ndarray) -> np.ndarray:
    """Which points are pixels of the window, bool (N,)."""
    sides = np.array(mask_HW.shape[::-1])
    return np.asarray(((points_N2 >= 0) & (points_N2 < sides)).all(axis=1))


def _within(mask_HW: np.ndarray, box_4: np.ndarray, yes_N2: np.ndarray) -> np.ndarray:
    """What lies in a box in pixels of the window, with its margin."""
    if ((yes_N2 < np.floor(box_4[:2])) | (yes_N2 >= box_4[2:])).any():
        return mask_HW
    margin = np.tile(BOX_MARGIN * (box_4[2:] - box_4[:2]), 2)
    wide = box_4 + margin * np.array([-1, -1, 1, 1])
    x0, y0 = np.maximum(np.floor(wide[:2]), 0).astype(int).tolist()
    x1, y1 = np.maximum(np.ceil(wide[2:]), 0).astype(int).tolist()
    found = np.zeros_like(mask_HW)
    found[y0:y1, x0:x1] = mask_HW[y0:y1, x0:x1]
    return found


def _clicked(labels_HW: np.ndarray, yes_N2: np.ndarray) -> list[int]:
    """The numbers of the pieces that clicks are in or beside; of the nearest where there are
    none."""
    nearest: list[tuple[float, int]] = []  # of each click: how far, and which piece
    places_N2: np.ndarray | None = None
    for point, is_inside in zip(yes_N2, _are_inside(yes_N2, labels_HW), strict=True):
        if is_inside and labels_HW[point[1], point[0]]:
            nearest.append((0.0, int(labels_HW[point[1], point[0]])))
            continue
        if places_N2 is None:
            places_N2 = np.stack(np.nonzero(labels_HW)[::-1], axis=1)
        squares = ((places_N2 - point) ** 2).sum(axis=1)
        x, y = places_N2[int(squares.argmin())]
        nearest.append((float(squares.min()) ** 0.5, int(labels_HW[y, x])))
    limit = max(BESIDE, min(nearest)[0])
    return [piece for distance, piece in nearest if distance <= limit]
