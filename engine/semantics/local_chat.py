"""A language model that sees pictures, in this process, by `transformers`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from engine.semantics.chat import TOP, Answer, ChatError, Part

MOST_TOKENS = 512
"""Of an answer, by default."""


class LocalChat:
    """A Chat of a model that `AutoModelForImageTextToText` loads.

    Attributes:
        name: the model's, as given.
        model, processor: of transformers, the model in evaluation mode.
    """

    def __init__(self, name: str, model: Any, processor: Any) -> None:
        self.name, self.model, self.processor = f"{name}@transformers", model.eval(), processor

    def ask(
        self,
        question: str | Sequence[Part],
        *,
        first_token: bool = False,
        max_tokens: int | None = None,
    ) -> Answer:
        """See Chat: the most probable answer, without sampling."""
        import torch

        parts = [question] if isinstance(question, str) else list(question)
        content = [
            {"type": "text", "text": part}
            if isinstance(part, str)
            else {"type": "image", "image": _picture(part)}
            for part in parts
        ]
        inputs = self.processor.apply_chat_template(
            [{"role": "user", "content": content}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        ).to(self.model.device)
        with torch.inference_mode():
            found = self.model.generate(
                **inputs,
                max_new_tokens=max_tokens or MOST_TOKENS,
                do_sample=False,
                output_scores=first_token,
                return_dict_in_generate=True,
            )
        said = found.sequences[0, inputs["input_ids"].shape[1] :]
        text = self.processor.decode(said, skip_special_tokens=True)
        if not text.strip():
            raise ChatError(f"{self.name} answers nothing: try another model")
        return Answer(text, self._first(found.scores[0][0]) if first_token else {})

    def _first(self, scores_V: Any) -> dict[str, float]:
        values, tokens = scores_V.float().log_softmax(-1).topk(min(TOP, len(scores_V)))
        rows = zip(tokens.tolist(), values.tolist(), strict=True)
        return {self.processor.decode([token]): value for token, value in rows}

    def close(self) -> None:
        """Nothing to close."""


def _picture(part: np.ndarray) -> Any:
    from PIL import Image

    return Image.fromarray(np.ascontiguousarray(part))


@lru_cache(maxsize=1)
def load_local_chat(name: str, device: str = "cpu") -> LocalChat:
    """Return a model by its name on the hub, or a folder; weights in safetensors only.

    Raises:
        ChatError: the package `transformers` is missing, or the model cannot be had.
    """
    try:
        from transformers import AutoModelForImageTextToText, AutoProcessor
    except ImportError as error:
        raise ChatError(
            "a language model in this process needs a package that is missing: pip install "
            "transformers; or set DATAENGINE_LLM_URL to an endpoint"
        ) from error
    try:
        processor = AutoProcessor.from_pretrained(name, trust_remote_code=False)
        model = AutoModelForImageTextToText.from_pretrained(
            name, use_safetensors=True, trust_remote_code=False
        )
    except (OSError, ValueError) as error:
        raise ChatError(f"the model {name!r} cannot be loaded: {str(error)[:300]}") from error
    return LocalChat(name, model.to(device), processor)
