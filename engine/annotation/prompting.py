"""Prompts to masks for the page: former answers are remembered, masks drawn where they are."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from engine.annotation.decoder import BatchedDecoder
from engine.annotation.embeddings import EmbeddingCache, ReadyImage
from engine.annotation.errors import invalid
from engine.annotation.schemas import Candidate, PredictIn, Prediction, Rle
from engine.core import rle as rle_codec
from engine.core.records import Prompt
from storage.catalog import new_id

if TYPE_CHECKING:
    import torch

REMEMBERED = 512
"""Former answers that can be corrected; three of `lite`'s take 220 kB."""


class Prompter:
    """Answers prompts about images; safe for any number of threads."""

    def __init__(
        self, embeddings: EmbeddingCache, decoder_of: Callable[[str], BatchedDecoder]
    ) -> None:
        """
        Args:
            decoder_of: what answers prompts with a model version.
        """
        self._embeddings, self._decoder_of = embeddings, decoder_of
        self._lock = threading.Lock()
        self._former: OrderedDict[str, tuple[int, torch.Tensor]] = OrderedDict()

    def answer(self, task_id: int, model: str, image_id: int, asked: PredictIn) -> Prediction:
        """Candidates for a prompt. A former answer counts only within its task.

        Raises:
            RefusedError: the prompt has neither point nor box.
        """
        began = time.perf_counter()
        if not asked.points and asked.box_xyxy is None:
            raise invalid("a prompt needs a point or a box")
        ready = self._embeddings.get(model, image_id)
        prompt = self._prompt(task_id, asked)
        found = self._decoder_of(model).predict(ready.embedding, prompt, multimask=asked.multimask)
        scores = found.predicted_iou_BM[0].tolist()
        return Prediction(
            candidates=_drawn(ready, found.logits_BMHW[0], scores),
            best=int(np.argmax(scores)),
            token=self._remember(task_id, found.logits_BMHW[0]),
            milliseconds=1000 * (time.perf_counter() - began),
        )

    def _prompt(self, task_id: int, asked: PredictIn) -> Prompt:
        logits = None
        if asked.former is not None:
            with self._lock:
                known = self._former.get(asked.former.token)
            if known is not None and known[0] == task_id and asked.former.candidate < len(known[1]):
                logits = known[1][asked.former.candidate].float().cpu().numpy()
        points = labels = None
        if asked.points:
            points = np.array([(point.x, point.y) for point in asked.points], np.float64)
            labels = np.array([point.label for point in asked.points], np.int64)
        box = None if asked.box_xyxy is None else np.array(asked.box_xyxy, np.float64)
        return Prompt(points_xy=points, labels=labels, box_xyxy=box, mask_logits=logits)

    def _remember(self, task_id: int, logits_MHW: torch.Tensor) -> str:
        token = new_id()
        with self._lock:
            self._former[token] = (task_id, logits_MHW.half())
            while len(self._former) > REMEMBERED:
                self._former.popitem(last=False)
        return token


def rle_view(rle: rle_codec.RLE) -> Rle:
    """Run lengths as JSON has them."""
    return Rle(size=rle.size, counts=rle.counts.decode("ascii"))


def _drawn(ready: ReadyImage, logits_MHW: torch.Tensor, scores: list[float]) -> list[Candidate]:
    """The answers at the image's size; each costs what it covers."""
    from engine.automatic.windows import Drawn, finite

    size = ready.embedding.original_size
    found = []
    for logits, score in zip(finite(logits_MHW).numpy(), scores, strict=True):
        window = ready.frame.window(logits, 0.0)
        mask = Drawn(np.zeros((0, 0), bool), 0, 0)
        if window is not None:
            x, y = window.frame_columns[0], window.frame_rows[0]
            mask = Drawn(ready.frame.draw(window) > 0, x, y).tight()
        rle = mask.rle(size) if mask.mask.any() else rle_codec.encode(np.zeros(size, bool))
        area, box = int(mask.mask.sum()), mask.box_xyxy if mask.mask.any() else (0, 0, 0, 0)
        found.append(Candidate(rle=rle_view(rle), area=area, box_xyxy=box, predicted_iou=score))
    return found
