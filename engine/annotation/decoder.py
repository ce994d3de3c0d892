"""One decoder for all annotators: prompts that arrive while it is busy are decoded together."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from engine.core.records import Prompt
    from engine.sam import Embedding, Outputs, Prediction, Segmenter

    PromptItem = tuple[Embedding, Prompt, Outputs]

MAX_BATCH = 32
"""Prompts decoded at once."""


class BatchedDecoder:
    """A thread that decodes the prompts of any number of other threads with one model.

    It does not wait for a batch to fill: a single prompt is decoded at once.
    """

    def __init__(self, segmenter: Segmenter) -> None:
        self.segmenter = segmenter
        self._waiting: SimpleQueue[tuple[PromptItem, Future[Prediction]]] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="decoder", daemon=True)
        self._thread.start()

    def predict_each(self, items: Sequence[PromptItem]) -> list[Prediction]:
        """As `Segmenter.predict_each`; blocks until all prompts are decoded."""
        answers: list[Future[Prediction]] = [Future() for _ in items]
        for item, answer in zip(items, answers, strict=True):
            self._waiting.put((item, answer))
        return [answer.result() for answer in answers]

    def _work(self) -> None:
        while True:
            batch = [self._waiting.get()]
            while len(batch) < MAX_BATCH:
                try:
                    batch.append(self._waiting.get_nowait())
                except Empty:
                    break
            self._answer(batch)

    def _answer(self, batch: list[tuple[PromptItem, Future[Prediction]]]) -> None:
        try:
            found = self.segmenter.predict_each([item for item, _ in batch])
        except Exception as error:
            for _, answer in batch:
                answer.set_exception(error)
            return
        for (_, answer), prediction in zip(batch, found, strict=True):
            answer.set_result(prediction)
