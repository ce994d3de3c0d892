"""Models in this process: what is handed to transformers and diffusers, by stand-ins for them."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from engine.programs import plug_ins
from engine.programs.errors import ProgramError
from engine.programs.plug_ins import local_repaint
from engine.semantics.chat import ChatError
from engine.semantics.local_chat import load_local_chat

WORDS = ["<s>", "yes", "no", "maybe"]
PICTURE = np.full((6, 8, 3), 90, np.uint8)


class Inputs(dict[str, Any]):
    def to(self, device: str) -> Inputs:
        return self


class Processor:
    asked: list[Any]

    def apply_chat_template(self, messages: Any, **options: Any) -> Inputs:
        self.asked = messages[0]["content"]
        assert options["add_generation_prompt"]
        assert options["tokenize"]
        return Inputs(input_ids=torch.zeros((1, 3), dtype=torch.long))

    def decode(self, tokens: Any, skip_special_tokens: bool = False) -> str:
        return " ".join(WORDS[int(token)] for token in tokens)


class Model:
    device = "cpu"

    def eval(self) -> Model:
        return self

    def to(self, device: str) -> Model:
        return self

    def generate(self, input_ids: torch.Tensor, **options: Any) -> Any:
        assert not options["do_sample"]
        said = torch.tensor([[0, 0, 0, 2]])
        scores = (torch.log(torch.tensor([[0.01, 0.2, 0.7, 0.09]])),)
        return SimpleNamespace(sequences=said, scores=scores if options["output_scores"] else None)


@pytest.fixture
def packages(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Stand-ins for the packages, which remember what they are given."""
    seen = SimpleNamespace(processor=Processor(), loaded=[], painted=[])

    def loading(result: Any) -> Any:
        def from_pretrained(name: str, **options: Any) -> Any:
            if name == "missing":
                raise OSError("missing is not a model")
            seen.loaded.append((name, options))
            return result

        return SimpleNamespace(from_pretrained=from_pretrained)

    class Pipeline:
        def to(self, device: str) -> Pipeline:
            return self

        def __call__(self, **given: Any) -> Any:
            seen.painted.append(given)
            green = Image.new("RGB", given["image"].size, (0, 200, 0))
            return SimpleNamespace(images=[green])

    transformers, diffusers = ModuleType("transformers"), ModuleType("diffusers")
    transformers.__dict__.update(
        AutoProcessor=loading(seen.processor), AutoModelForImageTextToText=loading(Model())
    )
    diffusers.__dict__.update(AutoPipelineForInpainting=loading(Pipeline()))
    monkeypatch.setitem(sys.modules, "transformers", transformers)
    monkeypatch.setitem(sys.modules, "diffusers", diffusers)
    load_local_chat.cache_clear()
    plug_ins._pipeline.cache_clear()
    return seen


def test_a_question_with_pictures_is_answered_with_log_probabilities(
    packages: SimpleNamespace,
) -> None:
    chat = load_local_chat("small-vlm")
    answer = chat.ask(["Look:", PICTURE, "Good?"], first_token=True, max_tokens=4)
    assert (answer.text, chat.name) == ("no", "small-vlm@transformers")
    assert answer.first_token["no"] == pytest.approx(np.log(0.7), abs=1e-3)
    assert [part["type"] for part in packages.processor.asked] == ["text", "image", "text"]
    assert packages.processor.asked[1]["image"].size == (8, 6)
    assert chat.ask("Good?").first_token == {}
    assert all(not options["trust_remote_code"] for _, options in packages.loaded)
    assert packages.loaded[1][1]["use_safetensors"]  # no pickles


def test_a_pipeline_paints_a_square_that_is_stretched_back(packages: SimpleNamespace) -> None:
    inside = np.zeros((6, 8), bool)
    inside[2:4, 2:5] = True
    painted = local_repaint("inpainting", "cpu")(PICTURE, inside, "grass")
    assert painted.shape == PICTURE.shape
    assert (painted == (0, 200, 0)).all()
    [given] = packages.painted
    assert given["prompt"] == "grass"
    assert given["image"].size == given["mask_image"].size == (1024, 1024)
    assert np.asarray(given["mask_image"]).max() == 255
    assert packages.loaded[0][1]["use_safetensors"]


@pytest.mark.usefixtures("packages")
def test_a_model_that_is_not_there_is_named() -> None:
    with pytest.raises(ChatError, match="'missing' cannot be loaded"):
        load_local_chat("missing")
    with pytest.raises(ProgramError, match="'missing' cannot be loaded"):
        local_repaint("missing", "cpu")(PICTURE, np.ones((6, 8), bool), "grass")


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("transformers", "diffusers"):
        monkeypatch.setitem(sys.modules, name, None)  # as if it were not installed
    load_local_chat.cache_clear()
    plug_ins._pipeline.cache_clear()
    with pytest.raises(ChatError, match="pip install transformers"):
        load_local_chat("small-vlm")
    with pytest.raises(ProgramError, match="pip install diffusers"):
        local_repaint("inpainting", "cpu")(PICTURE, np.ones((6, 8), bool), "grass")
