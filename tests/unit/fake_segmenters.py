"""Base class of fake segmenters that implement `predict`."""

from __future__ import annotations

from collections.abc import Sequence

from engine.core.records import Prompt
from engine.sam import Embedding, Outputs, Prediction, Segmenter


class AnswersTogether(Segmenter):
    """Implements `predict_each` for prompts about one image with one call of `predict`. Its input
    is so large that it is not asked on tiles around a click."""

    side = 1024
    workers = 1

    def predict_each(
        self, requests: Sequence[tuple[Embedding, Prompt, Outputs]]
    ) -> list[Prediction]:
        prompts = [prompt for _, prompt, _ in requests]
        multimask = requests[0][2] is Outputs.THREE
        found = self.predict(requests[0][0], prompts, multimask=multimask)
        return [
            Prediction(found.logits_BMHW[i : i + 1], found.predicted_iou_BM[i : i + 1])
            for i in range(len(requests))
        ]
