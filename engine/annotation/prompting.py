"""Prompts to masks for the page: former answers are remembered, masks drawn where they are."""

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
    from engine.sam.tiles import PromptRequest, TilePrediction

REMEMBERED = 256
"""Former answers that can be corrected; three of `lite`'s take 220 kB, and their tile's embedding
1.2 MB where nothing else keeps it."""


class Prompter:
    """Answers prompts about images; safe for any number of threads."""

    def __init__(self, embeddings: EmbeddingCache) -> None:
        """
        Args:
            embeddings: what makes images ready.
        """
        self._embeddings = embeddings
        self._lock = threading.Lock()
        self._former: LRUCache[str, tuple[int, TilePrediction]] = LRUCache(REMEMBERED)

    def answer(self, task_id: int, model: str, image_id: int, asked: PredictIn) -> Prediction:
        """Candidates for a prompt. A former answer counts only within its task.

        Raises:
            RefusedError: the prompt has neither point nor box.
        """
        began = time.perf_counter()
        if not asked.points and asked.box_xyxy is None:
            raise invalid("a prompt needs a point or a box")
        ready = self._embeddings.get(model, image_id)
        (found,) = ready.zoom.predict([self._ask(task_id, asked)], multimask=asked.multimask)
        return Prediction(
            candidates=_drawn(ready, found),
            best=found.best,
            token=self._remember(task_id, found),
            milliseconds=1000 * (time.perf_counter() - began),
        )

    def _ask(self, task_id: int, asked: PredictIn) -> PromptRequest:
        from engine.sam.tiles import PromptRequest

        points = labels = None
        if asked.points:
            points = np.array([(point.x, point.y) for point in asked.points], np.float64)
            labels = np.array([point.label for point in asked.points], np.int64)
        box = None if asked.box_xyxy is None else np.array(asked.box_xyxy, np.float64)
        prompt = Prompt(points, labels, box, is_box_loose=asked.is_box_loose)
        if asked.former is not None:
            with self._lock:
                known = self._former.get(asked.former.token)
            candidate = asked.former.candidate
            if known and known[0] == task_id and candidate < len(known[1].predicted_iou_M):
                return PromptRequest(prompt, known[1], candidate)
        return PromptRequest(prompt)

    def _remember(self, task_id: int, answer: TilePrediction) -> str:
        token = new_id()
        with self._lock:
            self._former[token] = (task_id, replace(answer, logits_MHW=answer.logits_MHW.half()))
        return token


def rle_view(rle: rle_codec.RLE) -> Rle:
    """Run lengths as JSON has them."""
    return Rle(size=rle.size, counts=rle.counts.decode("ascii"))


def _drawn(ready: ReadyImage, answer: TilePrediction) -> list[Candidate]:
    """The candidates at the image's size, settled; each costs what it covers."""
    from engine.automatic.windows import MaskWindow, finite

    size, frame = ready.embedding.original_size, ready.frame(answer)
    left, top = answer.tile[:2]
    found = []
    scores = answer.predicted_iou_M.tolist()
    for logits, score in zip(finite(answer.logits_MHW).numpy(), scores, strict=True):
        window = frame.window(logits, 0.0)
        mask = MaskWindow(np.zeros((0, 0), bool), 0, 0)
        if window is not None:
            x, y = left + window.frame_columns[0], top + window.frame_rows[0]
            mask = MaskWindow(answer.postprocess(frame.draw(window) > 0, (x, y)), x, y).tight()
        rle = mask.rle(size) if mask.mask.any() else rle_codec.encode(np.zeros(size, bool))
        area, box = int(mask.mask.sum()), mask.box_xyxy if mask.mask.any() else (0, 0, 0, 0)
        found.append(Candidate(rle=rle_view(rle), area=area, box_xyxy=box, predicted_iou=score))
    return found
