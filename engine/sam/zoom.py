"""Prompts about small objects, answered on an enlarged piece of the image.

A model sees an image at its own size: at `lite`'s 384 pixels an object of 10 pixels in an image of
1,024 is 4 wide, and cannot be drawn well. Interactive segmentation has looked closer at what was
clicked since RITM's zoom-in (Sofiiuk et al., 2021); SAM's automatic generator does so by crops.
Here: tiles of the image, each half as large as those of the level above and overlapping by half,
are embedded when a prompt first needs them. A box says how large its object is; after a lone click
the first answer does, and is asked for again closer up where it is small. Corrections stay where
the answer is that they correct. Masks are settled: what the prompt cannot mean goes.

B = prompts, M = outputs of a prompt, H x W = image.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from engine.core.records import Prompt
from engine.core.settled import settled
from engine.sam.segmenter import Embedding, Prediction, Segmenter

Tile = tuple[int, int, int, int]
"""A piece of the image, half-open pixel XYXY."""

Decode = Callable[[Sequence[tuple[Embedding, Prompt, bool]]], list[Prediction]]
"""What `Segmenter.predict_each` does."""

SMALLEST_SIDE = 64
"""Tiles are no smaller, pixels of the image."""

BOX_SHARE = 1 / 3
"""A box's longer side is at most this share of its tile's."""

CLICK_SHARE = 1 / 6
"""An answer to a click whose longer side is below this share of the view's is looked at closer."""

CLOSER_SHARE = 1 / 4
"""... on a tile of which it takes at most this share."""

TOO_LARGE_SHARE = 0.7
"""An answer that takes more than this share of the closer tile is not of the object that was seen
before: the first one stands."""

MAX_TILES = 96
"""Embedded tiles that are kept, the latest used."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A prompt's candidates on one tile: logits (M, 4h, 4w), predicted IoU (M,). `prompt`: what was
    asked, in pixels of the image; None where masks are to be taken as the model draws them."""

    tile: Tile
    embedding: Embedding
    logits_MHW: torch.Tensor
    predicted_iou_M: torch.Tensor
    prompt: Prompt | None = None

    @property
    def best(self) -> int:
        """The candidate with the highest predicted IoU."""
        return int(self.predicted_iou_M.argmax())

    def settled(self, mask_HW: np.ndarray, corner_xy: Sequence[int]) -> np.ndarray:
        """A candidate's mask without what its prompt cannot mean (`engine.core.settled`).

        Args:
            mask_HW: as the model draws it, bool, a window of the image.
            corner_xy: where the window's first pixel is in the image.
        """
        return mask_HW if self.prompt is None else settled(mask_HW, self.prompt, corner_xy)


@dataclass(frozen=True, slots=True)
class Ask:
    """A prompt in pixels of the image, without logits. `former`: the answer it corrects, and which
    of its candidates."""

    prompt: Prompt
    former: Answer | None = None
    candidate: int = 0


class Zoom:
    """Answers prompts about one image, as closely as their objects need. Threads may share it."""

    def __init__(
        self,
        segmenter: Segmenter,
        image_HWC: np.ndarray | Callable[[], np.ndarray],
        whole: Embedding | None = None,
        *,
        is_on: bool = True,
        decode: Decode | None = None,
        max_tiles: int = MAX_TILES,
    ) -> None:
        """
        Args:
            segmenter: the model.
            image_HWC: RGB uint8, or what gives it: called when a tile is first needed.
            whole: the image's embedding, where it is at hand.
            is_on: False: every prompt is answered on the whole image, and masks are as the model
                draws them.
            decode: stands for the segmenter's `predict_each`.
            max_tiles: embeddings that are kept.
        """
        self.segmenter, self._image, self._is_on = segmenter, image_HWC, is_on
        self._decode, self._max_tiles = decode or segmenter.predict_each, max_tiles
        self._lock = threading.Lock()
        found = segmenter.embed(self._pixels()) if whole is None else whole
        height, width = found.original_size
        self.whole: Tile = (0, 0, width, height)
        self._embedded: OrderedDict[Tile, Embedding] = OrderedDict({self.whole: found})

    def predict(self, asked: Sequence[Ask], *, multimask: bool) -> list[Answer]:
        """Candidates for each prompt: three with `multimask`, else one.

        Raises:
            ValueError: a prompt has neither point nor box.
        """
        tiles = [self._tile_of(item) for item in asked]
        answers = self._on(tiles, asked, multimask)
        if not self._is_on:
            return answers
        again = {
            row: tile
            for row, (item, answer) in enumerate(zip(asked, answers, strict=True))
            if item.former is None and item.prompt.box_xyxy is None
            if (tile := self._closer(answer, item.prompt)) is not None
        }
        if again:
            closer = self._on(list(again.values()), [asked[row] for row in again], multimask)
            for row, answer in zip(again, closer, strict=True):
                if self._extent(answer)[0] <= TOO_LARGE_SHARE * _side(answer.tile):
                    answers[row] = answer
        return answers

    def mask(self, answer: Answer, candidate: int) -> np.ndarray:
        """A candidate over the image, settled, bool (H, W)."""
        mask: np.ndarray = self.masks([(answer, candidate)])[0]
        return mask

    def masks(self, chosen: Sequence[tuple[Answer, int]]) -> np.ndarray:
        """The same for several, bool (B, H, W)."""
        out = np.zeros((len(chosen), self.whole[3], self.whole[2]), bool)
        by_tile: dict[Tile, list[int]] = {}
        for row, (answer, _) in enumerate(chosen):
            by_tile.setdefault(answer.tile, []).append(row)
        for (x0, y0, x1, y1), rows in by_tile.items():
            logits = torch.stack([chosen[row][0].logits_MHW[chosen[row][1]] for row in rows])
            drawn = self.segmenter.masks(chosen[rows[0]][0].embedding, logits)
            for row, mask in zip(rows, drawn, strict=True):
                out[row, y0:y1, x0:x1] = chosen[row][0].settled(mask, (x0, y0))
        return out

    def _tile_of(self, item: Ask) -> Tile:
        """Where a prompt is answered first."""
        points = item.prompt.points_xy
        if item.former is not None and (points is None or _inside(points, item.former.tile)):
            return item.former.tile
        if self._is_on and item.prompt.box_xyxy is not None:
            return self._around(item.prompt.box_xyxy, BOX_SHARE, points)
        return self.whole

    def _closer(self, answer: Answer, prompt: Prompt) -> Tile | None:
        """The tile for a second look; None where the first is close enough."""
        extent, box = self._extent(answer)
        if box is None or extent >= CLICK_SHARE * _side(answer.tile):
            return None
        tile = self._around(box, CLOSER_SHARE, prompt.points_xy)
        return None if tile == answer.tile else tile

    def _extent(self, answer: Answer) -> tuple[float, np.ndarray | None]:
        """The longer side of the best candidate in pixels of the image, and its box there."""
        rows, columns = torch.nonzero(answer.logits_MHW[answer.best] > 0, as_tuple=True)
        if not len(rows):
            return 0.0, None
        # low-resolution places to pixels: the longer side of the tile fills the grid
        scale = _side(answer.tile) / answer.logits_MHW.shape[-1]
        x0, y0 = answer.tile[:2]
        box = np.array(
            [
                x0 + float(columns.min()) * scale,
                y0 + float(rows.min()) * scale,
                x0 + (float(columns.max()) + 1) * scale,
                y0 + (float(rows.max()) + 1) * scale,
            ]
        )
        return float(max(box[2] - box[0], box[3] - box[1])), box

    def _around(self, box: np.ndarray, share: float, points: np.ndarray | None) -> Tile:
        """The smallest tile that has the box in it, at most so large, and all points."""
        needed = float(max(box[2] - box[0], box[3] - box[1])) / share
        side = max(self.whole[2:])
        while side / 2 >= max(needed, SMALLEST_SIDE):
            side = -(-side // 2)
        tile = self._placed(box, side)
        corners = np.array([[box[0], box[1]], [box[2], box[3]]])
        inside = _inside(corners, tile) and (points is None or _inside(points, tile))
        return tile if inside else self.whole

    def _placed(self, box: np.ndarray, side: int) -> Tile:
        """Of the tiles of a size, that whose middle is nearest to the box's."""
        width, height = self.whole[2:]
        if side >= max(width, height):
            return self.whole
        edges = []
        for low, high, size in ((box[0], box[2], width), (box[1], box[3], height)):
            step = max(1, side // 2)
            start = round(((low + high) / 2 - side / 2) / step) * step
            start = int(min(max(start, 0), max(size - side, 0)))
            edges.append((start, min(start + side, size)))
        (x0, x1), (y0, y1) = edges
        return x0, y0, x1, y1

    def _on(self, tiles: Sequence[Tile], asked: Sequence[Ask], multimask: bool) -> list[Answer]:
        embedded = self._embeddings(tiles)
        batch = [
            (embedded[tile], _moved(item, tile), multimask)
            for tile, item in zip(tiles, asked, strict=True)
        ]
        found = self._decode(batch)
        return [
            Answer(
                tile,
                embedded[tile],
                answer.logits_BMHW[0],
                answer.predicted_iou_BM[0],
                item.prompt if self._is_on else None,
            )
            for tile, item, answer in zip(tiles, asked, found, strict=True)
        ]

    def _pixels(self) -> np.ndarray:
        if not isinstance(self._image, np.ndarray):
            self._image = self._image()
        return self._image

    def _embeddings(self, tiles: Sequence[Tile]) -> dict[Tile, Embedding]:
        with self._lock:
            return self._embeddings_alone(tiles)

    def _embeddings_alone(self, tiles: Sequence[Tile]) -> dict[Tile, Embedding]:
        wanted = dict.fromkeys(tiles)
        missing = [tile for tile in wanted if tile not in self._embedded]
        at_once = self.segmenter.images_at_once if missing else 1
        for start in range(0, len(missing), at_once):
            piece = missing[start : start + at_once]
            crops = [np.ascontiguousarray(self._pixels()[y0:y1, x0:x1]) for x0, y0, x1, y1 in piece]
            self._embedded.update(zip(piece, self.segmenter.embed_many(crops), strict=True))
        found = {tile: self._embedded[tile] for tile in wanted}
        for tile in (*wanted, self.whole):
            self._embedded.move_to_end(tile)
        while len(self._embedded) > self._max_tiles:
            self._embedded.popitem(last=False)
        return found


def _moved(item: Ask, tile: Tile) -> Prompt:
    """The prompt in the tile's frame, with the logits of the answer it corrects, if that is of the
    same tile."""
    corner = np.array(tile[:2], np.float64)
    prompt = item.prompt
    logits = None
    if item.former is not None and item.former.tile == tile:
        logits = item.former.logits_MHW[item.candidate].float().cpu().numpy()
    return replace(
        prompt,
        points_xy=None if prompt.points_xy is None else prompt.points_xy - corner,
        box_xyxy=None if prompt.box_xyxy is None else prompt.box_xyxy - np.tile(corner, 2),
        mask_logits=logits,
    )


def _inside(points_N2: np.ndarray, tile: Tile) -> bool:
    low, high = np.array(tile[:2]), np.array(tile[2:])
    return bool(((points_N2 >= low) & (points_N2 <= high)).all())


def _side(tile: Tile) -> int:
    return max(tile[2] - tile[0], tile[3] - tile[1])
