"""Embeddings of the images under annotation: computed once, stored in the object store, cached in
memory, prefetched for the next tasks."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
from cachetools import LRUCache

from storage import layout
from storage.objects import ObjectExistsError, ObjectNotFoundError, ObjectStore

if TYPE_CHECKING:
    from engine.automatic.windows import Frame
    from engine.sam import Embedding, Segmenter
    from engine.sam.tile_masks import Tile, TileMask
    from engine.sam.tiles import Decode, TiledPredictor

MAX_TILES = 48
"""Embedded tiles kept per image."""


class ReadyImage:
    """An image ready for prompts: its embedding and tiles."""

    def __init__(self, segmenter: Segmenter, embedding: Embedding, zoom: TiledPredictor) -> None:
        """
        Args:
            zoom: predictor over the image and its tiles.
        """
        self.embedding, self.zoom = embedding, zoom
        self._segmenter = segmenter
        self._frames: dict[Tile, Frame] = {}

    def frame(self, mask: TileMask) -> Frame:
        """The frame that draws a mask on its tile."""
        from engine.automatic.windows import Frame

        found = self._frames.get(mask.tile)
        if found is None:
            found = Frame(mask.embedding, self._segmenter.side, self._segmenter.low_side)
            if len(self._frames) >= MAX_TILES:
                self._frames.clear()
            self._frames[mask.tile] = found
        return found


Pixels = Callable[[int], np.ndarray]
"""The RGB uint8 pixels (H, W, 3) of an image id."""


class EmbeddingCache:
    """Ready images by model version and image id. Thread-safe."""

    def __init__(
        self,
        objects: ObjectStore,
        segmenter_of: Callable[[str], Segmenter],
        pixels_of: Pixels,
        *,
        decode_of: Callable[[str], Decode] | None = None,
        capacity: int = 32,
    ) -> None:
        """
        Args:
            objects: stores embeddings under `embeddings/MODEL/IMAGE.safetensors`.
            segmenter_of: returns the loaded model of a version.
            pixels_of: returns an image's pixels; `get` passes its errors on.
            decode_of: returns a decoder for a model version, used instead of the model itself.
            capacity: images in memory; an embedding takes 1.2 MB with `lite`, 4 MB with `vit_h`,
                and an image with prompts up to MAX_TILES more.
        """
        self._decode_of = decode_of
        self._objects, self._segmenter_of, self._pixels_of = objects, segmenter_of, pixels_of
        self._lock = threading.Lock()
        self._making = threading.Lock()
        """Held while encoding: two encodings at once only slow each other down."""
        self._recent: LRUCache[tuple[str, int], Future[ReadyImage]] = LRUCache(capacity)
        self._ahead = ThreadPoolExecutor(1, thread_name_prefix="embeddings")

    def get(self, model: str, image_id: int) -> ReadyImage:
        """The ready image, from memory, from the store, or computed now. Concurrent calls for one
        image compute it once."""
        key = (model, image_id)
        with self._lock:
            found = self._recent.get(key)
            is_mine = found is None
            if found is None:
                found = self._recent[key] = Future()
        if is_mine:
            self._fill(key, found)
        return found.result()

    def prefetch(
        self, model: str, image_ids: list[int], then: Callable[[int], object] | None = None
    ) -> None:
        """Make images ready in the background, in this order; after each, `then(image_id)`."""
        for image_id in image_ids:
            with self._lock:
                is_cached = (model, image_id) in self._recent
            if not is_cached:
                self._ahead.submit(self._make_ahead, model, image_id, then)

    def _make_ahead(self, model: str, image_id: int, then: Callable[[int], object] | None) -> None:
        self.get(model, image_id)
        if then is not None:
            then(image_id)

    def _fill(self, key: tuple[str, int], found: Future[ReadyImage]) -> None:
        try:
            found.set_result(self._ready(*key))
        except BaseException as error:
            with self._lock:
                self._recent.pop(key, None)  # the next call tries again
            found.set_exception(error)

    def _ready(self, model: str, image_id: int) -> ReadyImage:
        from engine.sam.tiles import TiledPredictor

        segmenter = self._segmenter_of(model)
        embedding = self._load_or_make(segmenter, model, image_id)
        zoom = TiledPredictor(
            segmenter,
            lambda: self._pixels_of(image_id),
            embedding,
            decode=None if self._decode_of is None else self._decode_of(model),
            max_tiles=MAX_TILES,
        )
        return ReadyImage(segmenter, embedding, zoom)

    def _load_or_make(self, segmenter: Segmenter, model: str, image_id: int) -> Embedding:
        from engine.sam.embedding_file import read_embedding

        device = str(segmenter.sam.device)
        key = embedding_key(model, image_id)
        try:
            return read_embedding(self._objects.get(key), device)
        except ObjectNotFoundError:
            with self._making:
                data = make_embedding(self._objects, segmenter, key, self._pixels_of(image_id))
            return read_embedding(data, device)


def embedding_key(model: str, image_id: int) -> str:
    """The embedding's key in the store."""
    return layout.EMBEDDING.key(model=model, image=image_id)


def make_embedding(
    objects: ObjectStore, segmenter: Segmenter, key: str, pixels_HWC: np.ndarray
) -> bytes:
    """Encode an image (RGB uint8, (H, W, 3)) and store the embedding. Returns the stored bytes:
    those of another process if it was faster."""
    from engine.sam.embedding_file import write_embedding

    data = write_embedding(segmenter.embed(pixels_HWC))
    try:
        objects.put(key, data)
    except ObjectExistsError:  # equal up to rounding
        return objects.get(key)
    return data
