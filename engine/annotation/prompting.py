"""Prompts to masks for the page: earlier predictions are cached for corrections."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from cachetools import LRUCache

from engine.annotation.embeddings import EmbeddingCache, ReadyImage
from engine.annotation.errors import invalid
from engine.annotation.schemas import Candidate, PredictIn, Prediction, Rle
from engine.core import rle as rle_codec
from engine.core.records import Prompt
from storage.catalog import new_id

if TYPE_CHECKING:
    from engine.sam.tile_masks import TileMask
    from engine.sam.tiles import PromptRequest

REMEMBERED = 256
"""Cached predictions that can be corrected; the three masks of one take 220 kB with `lite`, and
each of their tiles' embeddings 1.2 MB if nothing else holds it."""


class Prompter:
    """Predicts masks for prompts on images. Thread-safe."""

    def __init__(self, embeddings: EmbeddingCache) -> None:
        """
        Args:
            embeddings: provides ready images.
        """
        self._embeddings = embeddings
        self._lock = threading.Lock()
        self._former: LRUCache[str, tuple[int, list[TileMask]]] = LRUCache(REMEMBERED)

    def predict(self, task_id: int, model: str, image_id: int, given: PredictIn) -> Prediction:
        """Candidates for a prompt. An earlier prediction is used only within its task.

        Raises:
            RefusedError: the prompt has neither point nor box.
        """
        began = time.perf_counter()
        if not given.points and given.box_xyxy is None:
            raise invalid("a prompt needs a point or a box")
        ready = self._embeddings.get(model, image_id)
        (found,) = ready.zoom.predict([self._request(task_id, given)], multimask=given.multimask)
        return Prediction(
            candidates=_drawn(ready, found),
            best=0,
            token=self._remember(task_id, found),
            milliseconds=1000 * (time.perf_counter() - began),
        )

    def _request(self, task_id: int, given: PredictIn) -> PromptRequest:
        from engine.sam.tiles import PromptRequest

        points = labels = None
        if given.points:
            points = np.array([(point.x, point.y) for point in given.points], np.float64)
            labels = np.array([point.label for point in given.points], np.int64)
        box = None if given.box_xyxy is None else np.array(given.box_xyxy, np.float64)
        prompt = Prompt(points, labels, box, is_box_loose=given.is_box_loose)
        if given.former is not None:
            with self._lock:
                known = self._former.get(given.former.token)
            candidate = given.former.candidate
            if known and known[0] == task_id and candidate < len(known[1]):
                return PromptRequest(prompt, known[1][candidate])
        return PromptRequest(prompt)

    def _remember(self, task_id: int, found: list[TileMask]) -> str:
        token = new_id()
        kept = [replace(mask, logits_HW=mask.logits_HW.half()) for mask in found]
        with self._lock:
            self._former[token] = (task_id, kept)
        return token


def rle_view(rle: rle_codec.RLE) -> Rle:
    """The mask as JSON holds it."""
    return Rle(size=rle.size, counts=rle.counts.decode("ascii"))


def _drawn(ready: ReadyImage, predicted: list[TileMask]) -> list[Candidate]:
    """The candidates at the image's size, post-processed; the cost grows with the mask, not the
    image."""
    from engine.automatic.windows import MaskWindow, finite

    size = ready.embedding.original_size
    found = []
    for one in predicted:
        frame, (left, top) = ready.frame(one), one.tile[:2]
        window = frame.window(finite(one.logits_HW).numpy(), 0.0)
        mask = MaskWindow(np.zeros((0, 0), bool), 0, 0)
        if window is not None:
            x, y = left + window.frame_columns[0], top + window.frame_rows[0]
            mask = MaskWindow(one.postprocess(frame.draw(window) > 0, (x, y)), x, y).tight()
        rle = mask.rle(size) if mask.mask.any() else rle_codec.encode(np.zeros(size, bool))
        area, box = int(mask.mask.sum()), mask.box_xyxy if mask.mask.any() else (0, 0, 0, 0)
        found.append(
            Candidate(rle=rle_view(rle), area=area, box_xyxy=box, predicted_iou=one.predicted_iou)
        )
    return found
