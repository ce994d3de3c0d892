"""What segmenters of tests that answer `predict` by themselves have in common."""

from __future__ import annotations

from collections.abc import Sequence

from engine.core.records import Prompt
from engine.sam import Embedding, Prediction, Segmenter


class AnswersTogether(Segmenter):
    """Answers several prompts about one image with one `predict`."""

    def predict_each(self, asked: Sequence[tuple[Embedding, Prompt, bool]]) -> list[Prediction]:
        prompts = [prompt for _, prompt, _ in asked]
        found = self.predict(asked[0][0], prompts, multimask=asked[0][2])
        return [
            Prediction(found.logits_BMHW[i : i + 1], found.predicted_iou_BM[i : i + 1])
            for i in range(len(asked))
        ]
