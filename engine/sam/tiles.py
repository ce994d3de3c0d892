"""Prompts about small objects, predicted on enlarged tiles of the image.

A model resizes every image to its input size: at `lite`'s 384 pixels, an object of 10 pixels in an
image of 1,024 is 4 pixels wide. Interactive segmentation has cropped around clicks since RITM's
zoom-in (Sofiiuk et al., 2021); SAM's automatic generator does so with crops. Here the image has
levels of tiles, each half as large as those of the level above and overlapping by half, which are
embedded when a prompt first needs them. A box determines its tile by its size; a model of small
input is asked on a second tile too, and the mask that fills the box best is chosen. A lone click is
predicted on the whole image and, with a model of small input, on tiles of up to two levels around
it, of which the best masks are chosen; then again on a smaller tile if that mask is small. How many
levels are best depends on the images (docs/LOG.md, 2026-11-28). Corrections are predicted on the
tile of the mask that they correct. Masks are post-processed (`engine.core.postprocess`).

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
from engine.sam.segmenter import Embedding, Outputs, Prediction, Segmenter
from engine.sam.tile_masks import Tile, TileMask, choose, choose_in_box, longer_side

Decode = Callable[[Sequence[tuple[Embedding, Prompt, Outputs]]], list[Prediction]]
"""The signature of `Segmenter.predict_each`."""

SMALLEST_SIDE = 64
"""Smallest longer side of a tile, in pixels of the image."""

BOX_SHARES = (1 / 3, 2 / 3)
"""A box's longer side is at most this share of its tile's; models of small input are asked on a
second tile, too."""

CLICK_SHARE = 1 / 6
"""A click is predicted again if its mask's longer side is below this share of the tile's."""

CLOSER_SHARE = 1 / 4
"""That mask takes at most this share of the second tile's longer side."""

TOO_LARGE_SHARE = 0.7
"""A second mask above this share of its tile's longer side is another object: the first is kept."""

MOST_SIDE = 512
"""Models with a larger input are not asked on tiles around a click: theirs are costly. Their masks
for boxes and corrections are taken as they are: no such model was measured."""

CORRECTION_THRESHOLD = 0.5
"""Logit above which the mask of a correction begins: training weighs the pixels of small objects
more (`engine.training.losses.balanced_loss`), so that masks are a little large."""

MOST_LEVELS = 2
"""Levels of tiles around a click that are predicted beside the whole image, at most."""

MAX_TILES = 96
"""Embedded tiles that are kept, the most recently used."""


@dataclass(frozen=True, slots=True)
class PromptRequest:
    """A prompt in pixels of the image, without logits, and the candidate that it corrects."""

    prompt: Prompt
    previous: TileMask | None = None


class TiledPredictor:
    """Predicts masks for prompts about one image, on tiles where objects are small. Thread-safe."""

    def __init__(
        self,
        segmenter: Segmenter,
        image_HWC: np.ndarray | Callable[[], np.ndarray],
        whole: Embedding | None = None,
        *,
        use_tiles: bool = True,
        decode: Decode | None = None,
        max_tiles: int = MAX_TILES,
    ) -> None:
        """
        Args:
            segmenter: the model.
            image_HWC: RGB uint8, or a function that returns it, called when a tile is first needed.
            whole: the image's embedding, if it exists already.
            use_tiles: False predicts every prompt on the whole image, without post-processing.
            decode: replaces the segmenter's `predict_each`.
            max_tiles: embeddings that are kept.
        """
        self.segmenter, self._image, self._use_tiles = segmenter, image_HWC, use_tiles
        self._decode, self._max_tiles = decode or segmenter.predict_each, max_tiles
        self._is_small = use_tiles and segmenter.side <= MOST_SIDE
        self._lock = threading.Lock()
        embedding = segmenter.embed(self._pixels()) if whole is None else whole
        self.click_levels = click_levels(segmenter)
        height, width = embedding.original_size
        self.whole: Tile = (0, 0, width, height)
        self._embedded: OrderedDict[Tile, Embedding] = OrderedDict({self.whole: embedding})

    def predict(
        self, requests: Sequence[PromptRequest], *, multimask: bool
    ) -> list[list[TileMask]]:
        """Predict the candidates of each request, the best first: three with `multimask`, else one.

        Raises:
            ValueError: a prompt has neither point nor box.
        """
        pools = self.pools(requests, multimask=multimask)
        found = [
            self._choose(pool, request, 3 if multimask else 1)
            for pool, request in zip(pools, requests, strict=True)
        ]
        if self._use_tiles:
            self._look_closer(found, requests, multimask)
        return found

    def pools(self, requests: Sequence[PromptRequest], *, multimask: bool) -> list[list[TileMask]]:
        """Predict all candidates of each request that `predict` chooses from at first: tile by
        tile, in the order of the model's outputs.

        Raises:
            ValueError: a prompt has neither point nor box.
        """
        views = [
            (row, tile) for row, request in enumerate(requests) for tile in self._views(request)
        ]
        asked = [requests[row] for row, _ in views]
        answers = self._predict_on([tile for _, tile in views], asked, multimask)
        pools: list[list[TileMask]] = [[] for _ in requests]
        for (row, _), candidates in zip(views, answers, strict=True):
            pools[row] += candidates
        return pools

    def _choose(self, pool: list[TileMask], request: PromptRequest, count: int) -> list[TileMask]:
        """Return up to `count` of a prompt's candidates, the best first."""
        box = request.prompt.box_xyxy
        if box is not None and self._fills_box(request):
            return choose_in_box(pool, box)[:count]
        if len({candidate.tile for candidate in pool}) > 1:
            return choose(pool, count, self.whole)
        return sorted(pool, key=lambda candidate: -candidate.predicted_iou)

    def _look_closer(
        self, found: list[list[TileMask]], requests: Sequence[PromptRequest], multimask: bool
    ) -> None:
        """Replace the candidates of lone clicks whose best mask is small on its tile by those of a
        smaller tile, unless they are of another object."""
        closer = {
            row: tile
            for row, request in enumerate(requests)
            if _is_first_click(request)
            and (tile := self._closer_tile(found[row][0], request.prompt)) is not None
        }
        if not closer:
            return
        again = [requests[row] for row in closer]
        second = self._predict_on(list(closer.values()), again, multimask)
        for row, pool in zip(closer, second, strict=True):
            candidates = self._choose(pool, requests[row], len(pool))
            best = candidates[0]
            if self._extent(best)[0] <= TOO_LARGE_SHARE * longer_side(best.tile):
                found[row] = candidates

    def mask(self, candidate: TileMask) -> np.ndarray:
        """Return a candidate's post-processed mask over the image, bool (H, W)."""
        mask: np.ndarray = self.masks([candidate])[0]
        return mask

    def masks(self, chosen: Sequence[TileMask]) -> np.ndarray:
        """Return `mask` for B candidates, bool (B, H, W)."""
        out = np.zeros((len(chosen), self.whole[3], self.whole[2]), bool)
        by_tile: dict[Tile, list[int]] = {}
        for row, candidate in enumerate(chosen):
            by_tile.setdefault(candidate.tile, []).append(row)
        for (x0, y0, x1, y1), rows in by_tile.items():
            logits = torch.stack([chosen[row].logits_HW for row in rows])
            masks = self.segmenter.masks(chosen[rows[0]].embedding, logits)
            for row, mask in zip(rows, masks, strict=True):
                out[row, y0:y1, x0:x1] = chosen[row].postprocess(mask, (x0, y0))
        return out

    def _tiles_around(self, points_xy: np.ndarray | None) -> list[Tile]:
        """Return the tiles of the levels below the whole image whose centres are nearest to the
        points', if they contain these."""
        if points_xy is None:
            return []
        box, side = np.concatenate([points_xy.min(0), points_xy.max(0)]), max(self.whole[2:])
        tiles = []
        for _ in range(self.click_levels):
            side = -(-side // 2)
            if side < SMALLEST_SIDE:
                break
            tile = self._nearest_tile(box, side)
            if tile != self.whole and _contains(tile, points_xy):
                tiles.append(tile)
        return tiles

    def _views(self, request: PromptRequest) -> list[Tile]:
        """Return the tiles on which a request is predicted first, each once."""
        prompt, previous = request.prompt, request.previous
        points, box = prompt.points_xy, prompt.box_xyxy
        if previous is not None and (points is None or _contains(previous.tile, points)):
            return [previous.tile]
        if self._use_tiles and box is not None:
            shares = BOX_SHARES if self._fills_box(request) else BOX_SHARES[:1]
            tiles = [self._smallest_tile(box, share, points) for share in shares]
            return list(dict.fromkeys(tiles))
        if self._use_tiles and _is_first_click(request):
            return [self.whole, *self._tiles_around(points)]
        return [self.whole]

    def _closer_tile(self, first: TileMask, prompt: Prompt) -> Tile | None:
        """Return the tile for a second prediction; None if the first mask is large enough."""
        extent, box = self._extent(first)
        if box is None or extent >= CLICK_SHARE * longer_side(first.tile):
            return None
        tile = self._smallest_tile(box, CLOSER_SHARE, prompt.points_xy)
        return None if tile == first.tile else tile

    def _extent(self, candidate: TileMask) -> tuple[float, np.ndarray | None]:
        """Return the longer side of a candidate in pixels of the image, and its box."""
        rows, columns = torch.nonzero(candidate.logits_HW > 0, as_tuple=True)
        if not len(rows):
            return 0.0, None
        # the longer side of the tile fills the low-resolution grid
        scale = longer_side(candidate.tile) / candidate.logits_HW.shape[-1]
        x0, y0 = candidate.tile[:2]
        box = np.array(
            [
                x0 + float(columns.min()) * scale,
                y0 + float(rows.min()) * scale,
                x0 + (float(columns.max()) + 1) * scale,
                y0 + (float(rows.max()) + 1) * scale,
            ]
        )
        return float(max(box[2] - box[0], box[3] - box[1])), box

    def _smallest_tile(self, box: np.ndarray, share: float, points: np.ndarray | None) -> Tile:
        """Return the smallest tile that contains box and points, and of whose longer side the box
        takes at most `share`."""
        needed = float(max(box[2] - box[0], box[3] - box[1])) / share
        side = max(self.whole[2:])
        while side / 2 >= max(needed, SMALLEST_SIDE):
            side = -(-side // 2)
        tile = self._nearest_tile(box, side)
        corners = np.array([[box[0], box[1]], [box[2], box[3]]])
        inside = _contains(tile, corners) and (points is None or _contains(tile, points))
        return tile if inside else self.whole

    def _nearest_tile(self, box: np.ndarray, side: int) -> Tile:
        """Return the tile of a size whose centre is nearest to the box's."""
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

    def _predict_on(
        self, tiles: Sequence[Tile], requests: Sequence[PromptRequest], multimask: bool
    ) -> list[list[TileMask]]:
        """Return the candidates of each request on one tile, in the model's order."""
        embedded = self._embeddings(tiles)
        asked = Outputs.THREE if multimask else Outputs.ONE
        batch = [
            (
                embedded[tile],
                _to_tile_frame(request, tile),
                Outputs.ALL if self._fills_box(request) else asked,
            )
            for tile, request in zip(tiles, requests, strict=True)
        ]
        found = []
        for tile, request, answer in zip(tiles, requests, self._decode(batch), strict=True):
            logits_MHW, scores = answer.logits_BMHW[0], answer.predicted_iou_BM[0].tolist()
            if self._is_small and request.previous is not None:
                logits_MHW = logits_MHW - CORRECTION_THRESHOLD
            prompt = request.prompt if self._use_tiles else None
            found.append(
                [
                    TileMask(tile, embedded[tile], logits_HW, score, prompt)
                    for logits_HW, score in zip(logits_MHW, scores, strict=True)
                ]
            )
        return found

    def _fills_box(self, request: PromptRequest) -> bool:
        """Whether a request is for the object that fills its box."""
        is_tight = request.prompt.box_xyxy is not None and not request.prompt.is_box_loose
        return self._is_small and is_tight and request.previous is None

    def _pixels(self) -> np.ndarray:
        if not isinstance(self._image, np.ndarray):
            self._image = self._image()
        return self._image

    def _embeddings(self, tiles: Sequence[Tile]) -> dict[Tile, Embedding]:
        """Return the embeddings of tiles, encoding those that are not kept."""
        with self._lock:
            needed = dict.fromkeys(tiles)
            missing = [tile for tile in needed if tile not in self._embedded]
            if missing:
                self._embed(missing)
            found = {tile: self._embedded[tile] for tile in needed}
            for tile in (*needed, self.whole):
                self._embedded.move_to_end(tile)
            while len(self._embedded) > self._max_tiles:
                self._embedded.popitem(last=False)
            return found

    def _embed(self, tiles: list[Tile]) -> None:
        at_once = self.segmenter.images_at_once
        for start in range(0, len(tiles), at_once):
            batch = tiles[start : start + at_once]
            crops = [np.ascontiguousarray(self._pixels()[y0:y1, x0:x1]) for x0, y0, x1, y1 in batch]
            self._embedded.update(zip(batch, self.segmenter.embed_many(crops), strict=True))


def click_levels(segmenter: Segmenter) -> int:
    """Return how many levels of tiles around a lone click a model is asked on."""
    if segmenter.click_levels is None:
        return MOST_LEVELS if segmenter.side <= MOST_SIDE else 0
    return segmenter.click_levels


def _to_tile_frame(request: PromptRequest, tile: Tile) -> Prompt:
    """Return the prompt in the tile's frame, with the corrected mask's logits if they are of the
    same tile."""
    corner = np.array(tile[:2], np.float64)
    prompt, previous = request.prompt, request.previous
    logits = None
    if previous is not None and previous.tile == tile:
        logits = previous.logits_HW.float().cpu().numpy()
    return replace(
        prompt,
        points_xy=None if prompt.points_xy is None else prompt.points_xy - corner,
        box_xyxy=None if prompt.box_xyxy is None else prompt.box_xyxy - np.tile(corner, 2),
        mask_logits=logits,
    )


def _is_first_click(request: PromptRequest) -> bool:
    return request.previous is None and request.prompt.box_xyxy is None


def _contains(tile: Tile, points_N2: np.ndarray) -> bool:
    low, high = np.array(tile[:2]), np.array(tile[2:])
    return bool(((points_N2 >= low) & (points_N2 <= high)).all())
