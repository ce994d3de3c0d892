"""Crops of labelled masks on disk, as pairs to train a CLIP's towers on.

M = crops, S = side of a crop.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import overload

import numpy as np

from engine.core.rle import RLE
from engine.semantics.contrastive import Pair
from engine.semantics.crops import SCALES, cut_crops

VIEWS = 3
"""Crops of a mask: close, with context, and the masked one, as ClipEncoder sees them."""


class CropPairs(Sequence[Pair]):
    """Pairs whose crops are in one file, of which the operating system keeps in memory what fits.

    Args:
        path: new file.
        side: S.
        texts: true sentences about each category, by its id.
    """

    def __init__(self, path: Path, side: int, texts: Mapping[int, Sequence[str]]) -> None:
        self._path, self._side = path, side
        self._texts = {category: tuple(said) for category, said in texts.items()}
        self._categories: list[int] = []
        self._crops = np.zeros((0, side, side, 3), np.uint8)
        path.touch(exist_ok=False)

    def add(self, image_HWC: np.ndarray, rles: Sequence[RLE], categories: Sequence[int]) -> None:
        """Write the crops of an image's masks.

        Args:
            image_HWC: RGB uint8.
            rles: masks of the image; none is empty.
            categories: of the masks, each with texts.
        """
        close, wide = (cut_crops(image_HWC, rles, scale, self._side) for scale in SCALES)
        views = (close.pixels_NSSC, wide.pixels_NSSC, close.masked())
        with self._path.open("ab") as file:
            for view in views:
                file.write(np.ascontiguousarray(view).tobytes())
        self._categories += VIEWS * list(categories)
        shape = (len(self._categories), self._side, self._side, 3)
        self._crops = np.memmap(self._path, np.uint8, "r", shape=shape)

    @property
    def categories(self) -> int:
        """The number of categories that crops have."""
        return len(set(self._categories))

    def __len__(self) -> int:
        return len(self._categories)

    @overload
    def __getitem__(self, index: int) -> Pair: ...

    @overload
    def __getitem__(self, index: slice) -> list[Pair]: ...

    def __getitem__(self, index: int | slice) -> Pair | list[Pair]:
        """Return a pair, or a list of some."""
        if isinstance(index, slice):
            return [self[one] for one in range(*index.indices(len(self)))]
        return Pair(np.asarray(self._crops[index]), self._texts[self._categories[index]])
