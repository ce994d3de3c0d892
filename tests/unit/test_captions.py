"""Captions: the things they name, how words find them, and CoCas that write them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.semantics.captions import (
    ChatCaptioner,
    clean_caption,
    match,
    noun_phrases,
    thing_names,
)
from engine.semantics.chat import Endpoint, EndpointChat
from engine.semantics.clip import fresh_clip, load_clip, save_clip
from engine.semantics.coca import SMALL, CocaCaptioner, fresh_coca, load_coca
from engine.semantics.contrastive import Pair, TowersConfig, train_towers
from engine.semantics.encoders import EncoderError
from tests.chat_server import chatting
from tests.small_clip import CONFIG

pytestmark = pytest.mark.usefixtures("one_thread")

TINY: dict[str, Any] = {
    **SMALL,
    "embed_dim": 16,
    "vision_cfg": {
        **SMALL["vision_cfg"],
        **{"image_size": 16, "patch_size": 8, "layers": 1, "width": 32, "attn_pooler_queries": 4},
    },
    "text_cfg": {**SMALL["text_cfg"], "context_length": 8, "width": 16},
    "multimodal_cfg": {**SMALL["multimodal_cfg"], "context_length": 8, "width": 16, "layers": 1},
}
CAPTIONS = {"red": "red square", "green": "green sea"}


@pytest.mark.parametrize(
    ("caption", "phrases"),
    [
        ("A red car parked beside the old stone house.", ["red car parked", "old stone house"]),
        ("two dogs sitting on a wooden bench", ["dogs", "wooden bench"]),
        ("There is a building with three windows", ["building", "windows"]),
        ("a photo of a cat", ["cat"]),
        ("", []),
        ("a close-up of it, 12 of them", ["close-up"]),
    ],
)
def test_phrases_of_simple_english_are_found(caption: str, phrases: list[str]) -> None:
    assert noun_phrases(caption) == phrases


def test_things_are_counted_by_caption_in_the_singular() -> None:
    said = ["a red car and a blue car", "two cars", "a dog", "dogs", "a small bus"]
    assert thing_names(said) == [("car", 2), ("dog", 2), ("bus", 1)]


def test_words_find_captions_that_have_them_together_first() -> None:
    assert match("a red car", "red cars") == 1
    assert match("a car, red and fast", "red car") == 0.99
    assert match("a blue car", "red car") == 0.5
    assert match("a dog", "red car") == 0
    assert match("a dog", "") == 0


def test_captions_are_one_clean_line() -> None:
    assert clean_caption('<think>hm</think>"A\ncat\x1b[0m."\n') == "A cat [0m."
    assert len(clean_caption("x" * 999)) == 300


def test_a_language_model_describes_pictures() -> None:
    with chatting(lambda question: f'"A cat."\n{question[:9]}') as server:
        chat = EndpointChat(Endpoint(url=server.url, model="sees"))
        captioner = ChatCaptioner(chat)
        pictures = [np.zeros((8, 8, 3), np.uint8)] * 2
        assert captioner.caption(pictures, "images") == ['A cat." Describe'] * 2
        chat.close()
    assert captioner.version == f"sees@127.0.0.1:{server.port}"


def test_a_coca_learns_to_describe_and_to_compare_and_survives_saving(tmp_path: Path) -> None:
    encoder = fresh_coca(TINY)
    colours = {"red": (220, 20, 20), "green": (20, 200, 40)}
    pictures = {name: np.full((16, 16, 3), colour, np.uint8) for name, colour in colours.items()}
    pairs = [Pair(pictures[name], (CAPTIONS[name],)) for name in pictures for _ in range(2)]
    losses: list[float] = []
    trained = train_towers(
        encoder,
        pairs,
        TowersConfig(steps=60, batch=4, learning_rate=2e-2, weight_decay=0.0),
        lambda step, loss: losses.append(loss),
        caption_weight=2.0,
    )
    assert losses[-1] < losses[0] / 4
    shown = list(pictures.values())
    assert CocaCaptioner(trained).caption(shown) == list(CAPTIONS.values())
    likeness = (
        trained.encode_pixels(np.stack(shown)) @ trained.encode_texts(list(CAPTIONS.values())).T
    )
    assert likeness.argmax(axis=1).tolist() == [0, 1]

    save_clip(trained.model, TINY, tmp_path / "coca")
    loaded = load_coca(f"coca:{tmp_path / 'coca'}")
    assert loaded.caption([np.full((40, 30, 3), colours["red"], np.uint8)]) == ["red square"]
    assert loaded.version.startswith(f"coca:{tmp_path / 'coca'}-")
    assert load_clip(f"clip:{tmp_path / 'coca'}").dimensions == 16


def test_a_clip_without_a_decoder_is_refused() -> None:
    with pytest.raises(EncoderError, match="is a CLIP that writes no captions"):
        CocaCaptioner(fresh_clip(CONFIG))
