"""Masks drawn where they are, not over the whole frame.

Bringing low-resolution logits to an image's size is linear and works row by row and column by
column: two bilinear resizings with a cut between them are one sparse matrix for rows and one for
columns. A mask needs only the rows and columns of its own box, so drawing it costs what it covers.

L = side of a low-resolution mask, H x W = frame (the image, or a crop of it).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from engine.core.rle import RLE, from_window
from engine.sam.segmenter import Embedding

LARGEST_LOGIT = 1e4
"""Infinite logits count as this, NaN as minus this."""


BLOCK = 128
"""Columns of pixels drawn in one product: so few that a product has little but zeros left out."""


@dataclass(frozen=True, slots=True)
class Window:
    """Part of a low-resolution mask that holds all logits above some level, and the part of the
    frame it reaches.

    Attributes:
        logits: float32 (h, w), a piece of the low-resolution mask.
        rows, columns: which piece: (first, end).
        frame_rows, frame_columns: the pixels it reaches: (first, end).
    """

    logits: np.ndarray
    rows: tuple[int, int]
    columns: tuple[int, int]
    frame_rows: tuple[int, int]
    frame_columns: tuple[int, int]

    def iou(self, other: Window) -> float:
        """IoU of two masks of one frame at low resolution, in [0, 1]."""
        rows = max(self.rows[0], other.rows[0]), min(self.rows[1], other.rows[1])
        columns = max(self.columns[0], other.columns[0]), min(self.columns[1], other.columns[1])
        both = 0
        if rows[0] < rows[1] and columns[0] < columns[1]:
            both = int(np.count_nonzero(self._piece(rows, columns) & other._piece(rows, columns)))
        total = int(np.count_nonzero(self.logits > 0)) + int(np.count_nonzero(other.logits > 0))
        return both / max(total - both, 1)

    def _piece(self, rows: tuple[int, int], columns: tuple[int, int]) -> np.ndarray:
        """The mask on a part of this window, bool."""
        top, left = self.rows[0], self.columns[0]
        piece = self.logits[rows[0] - top : rows[1] - top, columns[0] - left : columns[1] - left]
        return piece > 0


class Frame:
    """Draws low-resolution logits over one frame of a model.

    Args:
        embedding: of the frame.
        side: of the model's input, S.
        low: side of the low-resolution masks, L.
    """

    def __init__(self, embedding: Embedding, side: int, low: int) -> None:
        self.size = embedding.original_size
        self._rows = _resizing(low, side, embedding.input_size[0], self.size[0])
        self._columns = _resizing(low, side, embedding.input_size[1], self.size[1])
        self._row_reach = _reach(self._rows)
        self._column_reach = _reach(self._columns)

    def window(self, logits_LL: np.ndarray, level: float) -> Window | None:
        """The piece of a mask whose pixels can be above `level`; None where there is none."""
        above = logits_LL > level
        rows, columns = np.flatnonzero(above.any(axis=1)), np.flatnonzero(above.any(axis=0))
        if not len(rows):
            return None
        # a pixel lies between at most two cells of either resizing: one cell more on each side
        # reaches every pixel above the level, and the next one what those are mixed from
        row_range = _widened(rows, len(logits_LL))
        column_range = _widened(columns, len(logits_LL))
        frame_rows = _pixels(self._row_reach, rows)
        frame_columns = _pixels(self._column_reach, columns)
        if frame_rows[0] >= frame_rows[1] or frame_columns[0] >= frame_columns[1]:
            return None
        piece = logits_LL[slice(*row_range), slice(*column_range)]
        return Window(piece.copy(), row_range, column_range, frame_rows, frame_columns)

    def draw(self, window: Window) -> np.ndarray:
        """Logits of the window's pixels, float32 (h, w)."""
        rows = self._rows[slice(*window.frame_rows), slice(*window.rows)]
        by_row = rows @ window.logits
        columns = self._columns[slice(*window.frame_columns), slice(*window.columns)]
        out = np.empty((len(rows), len(columns)), np.float32)
        for first in range(0, len(columns), BLOCK):
            part = columns[first : first + BLOCK]
            used = np.flatnonzero(part.any(axis=0))  # few neighbouring cells
            cells = slice(int(used[0]), int(used[-1]) + 1)
            np.matmul(by_row[:, cells], part[:, cells].T, out=out[:, first : first + BLOCK])
        return out


def _resizing(low: int, side: int, cut: int, size: int) -> np.ndarray:
    """One dimension of segment_anything's way from low-resolution masks to pixels as a matrix,
    float32 (size, low): bilinear to the model's input, cut off the padding, bilinear to the
    frame."""
    identity = torch.eye(low)[None]  # L channels of length L
    on_input = F.interpolate(identity, side, mode="linear", align_corners=False)[..., :cut]
    on_frame = F.interpolate(on_input, size, mode="linear", align_corners=False)
    return np.ascontiguousarray(on_frame[0].numpy().T)


def _reach(matrix_SL: np.ndarray) -> np.ndarray:
    """For each cell the pixels it has a part in, int (L, 2): (first, end), (0, 0) for none."""
    used = matrix_SL != 0
    first, last = used.argmax(axis=0), len(used) - used[::-1].argmax(axis=0)
    found = np.stack([first, last], axis=1)
    found[~used.any(axis=0)] = 0
    return found


def _widened(cells: np.ndarray, low: int) -> tuple[int, int]:
    """From the first to the last cell and 4 more on each side: all that mix with them."""
    return max(int(cells[0]) - 4, 0), min(int(cells[-1]) + 5, low)


def _pixels(reach_L2: np.ndarray, cells: np.ndarray) -> tuple[int, int]:
    """The pixels that any cell from the first to the last has a part in."""
    of_cells = reach_L2[cells[0] : cells[-1] + 1]
    of_cells = of_cells[of_cells[:, 1] > 0]
    if not len(of_cells):
        return 0, 0
    return int(of_cells[:, 0].min()), int(of_cells[:, 1].max())


def finite(logits: torch.Tensor) -> torch.Tensor:
    """The logits without NaN and infinity, float32 on the CPU."""
    low = torch.nan_to_num(
        logits.float(), nan=-LARGEST_LOGIT, posinf=LARGEST_LOGIT, neginf=-LARGEST_LOGIT
    )
    return low.cpu()


@dataclass(frozen=True, slots=True)
class Drawn:
    """A mask on its window: bool (h, w) whose first pixel is (x, y) of the image."""

    mask: np.ndarray
    x: int
    y: int

    def tight(self) -> Drawn:
        """The same mask on its own box; an empty one stays as it is."""
        rows, columns = np.any(self.mask, axis=1), np.any(self.mask, axis=0)
        if not rows.any():
            return self
        top, left = int(rows.argmax()), int(columns.argmax())
        bottom = len(rows) - int(rows[::-1].argmax())
        right = len(columns) - int(columns[::-1].argmax())
        return Drawn(self.mask[top:bottom, left:right], self.x + left, self.y + top)

    @property
    def box_xyxy(self) -> tuple[int, int, int, int]:
        """Half-open box of the window, which is the mask's own after `tight`."""
        return self.x, self.y, self.x + self.mask.shape[1], self.y + self.mask.shape[0]

    def rle(self, size: tuple[int, int]) -> RLE:
        """Run lengths over an image of (H, W)."""
        return from_window(self.mask, self.x, self.y, size)
