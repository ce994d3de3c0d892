"""Upsampling of low-resolution masks inside their own window.

Upsampling logits to an image's size is linear and separable: two bilinear resizings with a crop
between them are one sparse matrix for rows and one for columns. A mask needs only the rows and
columns of its own box, so that the cost grows with the mask and not with the image.

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
"""Replaces infinite logits; its negative replaces NaN."""


BLOCK = 128
"""Columns of pixels per matrix product: few, so that a product skips most of the matrix's zeros."""


@dataclass(frozen=True, slots=True)
class LogitWindow:
    """The part of a low-resolution mask with all logits above a level, and the pixels it affects.

    Attributes:
        logits: float32 (h, w), a window of the low-resolution mask.
        rows, columns: the window's cells: (first, end).
        frame_rows, frame_columns: the pixels that the window affects: (first, end).
    """

    logits: np.ndarray
    rows: tuple[int, int]
    columns: tuple[int, int]
    frame_rows: tuple[int, int]
    frame_columns: tuple[int, int]

    def iou(self, other: LogitWindow) -> float:
        """Return the IoU of two masks of one frame at low resolution, in [0, 1]."""
        rows = max(self.rows[0], other.rows[0]), min(self.rows[1], other.rows[1])
        columns = max(self.columns[0], other.columns[0]), min(self.columns[1], other.columns[1])
        both = 0
        if rows[0] < rows[1] and columns[0] < columns[1]:
            both = int(np.count_nonzero(self._piece(rows, columns) & other._piece(rows, columns)))
        total = int(np.count_nonzero(self.logits > 0)) + int(np.count_nonzero(other.logits > 0))
        return both / max(total - both, 1)

    def _piece(self, rows: tuple[int, int], columns: tuple[int, int]) -> np.ndarray:
        """Return the mask on a part of this window, bool."""
        top, left = self.rows[0], self.columns[0]
        piece = self.logits[rows[0] - top : rows[1] - top, columns[0] - left : columns[1] - left]
        return piece > 0


class Frame:
    """Upsamples low-resolution logits to the frame of one embedding.

    Args:
        embedding: of the frame.
        side: side of the model's input in pixels.
        low: side of the low-resolution masks, L.
    """

    def __init__(self, embedding: Embedding, side: int, low: int) -> None:
        self.size = embedding.original_size
        self._rows = _resize_matrix(low, side, embedding.input_size[0], self.size[0])
        self._columns = _resize_matrix(low, side, embedding.input_size[1], self.size[1])
        self._row_reach = _pixels_of_cells(self._rows)
        self._column_reach = _pixels_of_cells(self._columns)

    def window(self, logits_LL: np.ndarray, level: float) -> LogitWindow | None:
        """Return the window of a mask whose pixels can be above `level`, or None if there is none.

        Args:
            logits_LL: float32, finite.
            level: logit.
        """
        above = logits_LL > level
        rows, columns = np.flatnonzero(above.any(axis=1)), np.flatnonzero(above.any(axis=0))
        if not len(rows):
            return None
        # each of the two resizings interpolates between two cells: the margin of `_widen` includes
        # every cell that contributes to a pixel above the level
        row_range = _widen(rows, len(logits_LL))
        column_range = _widen(columns, len(logits_LL))
        frame_rows = _pixel_range(self._row_reach, rows)
        frame_columns = _pixel_range(self._column_reach, columns)
        if frame_rows[0] >= frame_rows[1] or frame_columns[0] >= frame_columns[1]:
            return None
        piece = logits_LL[slice(*row_range), slice(*column_range)]
        return LogitWindow(piece.copy(), row_range, column_range, frame_rows, frame_columns)

    def draw(self, window: LogitWindow) -> np.ndarray:
        """Return the logits of the window's pixels, float32 (h, w)."""
        # by torch, on one core where the caller is one of several threads: numpy's BLAS would start
        # threads of its own, which wait for work by spinning
        rows = torch.from_numpy(self._rows[slice(*window.frame_rows), slice(*window.rows)])
        by_row = rows @ torch.from_numpy(window.logits)
        columns = self._columns[slice(*window.frame_columns), slice(*window.columns)]
        out = np.empty((len(rows), len(columns)), np.float32)
        for first in range(0, len(columns), BLOCK):
            part = columns[first : first + BLOCK]
            used = np.flatnonzero(part.any(axis=0))
            cells = slice(int(used[0]), int(used[-1]) + 1)
            drawn = by_row[:, cells] @ torch.from_numpy(part[:, cells]).T
            out[:, first : first + BLOCK] = drawn.numpy()
        return out


def _resize_matrix(low: int, side: int, cut: int, size: int) -> np.ndarray:
    """Return one dimension of segment_anything's `postprocess_masks` as a matrix, float32
    (size, low): bilinear to the model's input, crop of the padding, bilinear to the frame."""
    identity = torch.eye(low)[None]  # L channels of length L
    on_input = F.interpolate(identity, side, mode="linear", align_corners=False)[..., :cut]
    on_frame = F.interpolate(on_input, size, mode="linear", align_corners=False)
    return np.ascontiguousarray(on_frame[0].numpy().T)


def _pixels_of_cells(matrix_SL: np.ndarray) -> np.ndarray:
    """Return the pixels that each cell contributes to, int (L, 2): (first, end), or (0, 0)."""
    used = matrix_SL != 0
    first, last = used.argmax(axis=0), len(used) - used[::-1].argmax(axis=0)
    found = np.stack([first, last], axis=1)
    found[~used.any(axis=0)] = 0
    return found


def _widen(cells: np.ndarray, low: int) -> tuple[int, int]:
    """Return (first, end) of the cells with a margin of 4 on each side."""
    return max(int(cells[0]) - 4, 0), min(int(cells[-1]) + 5, low)


def _pixel_range(reach_L2: np.ndarray, cells: np.ndarray) -> tuple[int, int]:
    """Return (first, end) of the pixels that the cells from the first to the last contribute to."""
    of_cells = reach_L2[cells[0] : cells[-1] + 1]
    of_cells = of_cells[of_cells[:, 1] > 0]
    if not len(of_cells):
        return 0, 0
    return int(of_cells[:, 0].min()), int(of_cells[:, 1].max())


def finite(logits: torch.Tensor) -> torch.Tensor:
    """Return the logits as float32 on the CPU, with NaN and infinity replaced."""
    low = torch.nan_to_num(
        logits.float(), nan=-LARGEST_LOGIT, posinf=LARGEST_LOGIT, neginf=-LARGEST_LOGIT
    )
    return low.cpu()


@dataclass(frozen=True, slots=True)
class MaskWindow:
    """A mask inside a window: bool (h, w), whose first pixel is (x, y) of the image."""

    mask: np.ndarray
    x: int
    y: int

    def tight(self) -> MaskWindow:
        """Return the mask on its own box; an empty mask is returned unchanged."""
        rows, columns = np.any(self.mask, axis=1), np.any(self.mask, axis=0)
        if not rows.any():
            return self
        top, left = int(rows.argmax()), int(columns.argmax())
        bottom = len(rows) - int(rows[::-1].argmax())
        right = len(columns) - int(columns[::-1].argmax())
        return MaskWindow(self.mask[top:bottom, left:right], self.x + left, self.y + top)

    @property
    def box_xyxy(self) -> tuple[int, int, int, int]:
        """Half-open box of the window; after `tight`, of the mask."""
        return self.x, self.y, self.x + self.mask.shape[1], self.y + self.mask.shape[0]

    def rle(self, size: tuple[int, int]) -> RLE:
        """Return the run lengths over an image of (H, W)."""
        return from_window(self.mask, self.x, self.y, size)
