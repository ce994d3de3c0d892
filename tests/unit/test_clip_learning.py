"""What a small CLIP, trained on named objects, can do on pictures that it did not learn from.

Each test prints its figures (`pytest -s`); those of 2026-11-27 are in docs/LOG.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from engine.semantics.adapter import AdaptedEncoder, Adapter, AdapterCard, AdapterError
from engine.semantics.chat import Endpoint
from engine.semantics.clip import ClipEncoder, load_clip
from engine.semantics.contrastive import AdapterConfig, ContrastiveError, train_adapter
from engine.semantics.descriptions import QUESTIONS, Descriptions, describe
from engine.semantics.search import most_similar
from engine.semantics.suggesting import (
    NONE_OF_THESE,
    Labelled,
    Suggester,
    SuggesterCard,
    SuggesterError,
)
from engine.semantics.texts import TEMPLATES, text_vectors, texts_suggester
from tests.chat_server import chatting
from tests.labelled_shapes import COLOURS, SHAPES, Picture, Thing, draw_picture
from tests.small_clip import HELD_OUT, encoded

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

NAMES = dict(enumerate((f"{colour} {shape}" for colour in COLOURS for shape in SHAPES), start=1))
"""Thirty categories."""
COLOURS_OF = {category: name.split()[0] for category, name in NAMES.items()}
IDS = {name: category for category, name in NAMES.items()}


@dataclass(frozen=True)
class Set:
    """Objects of pictures with their vectors, categories and pictures."""

    things: list[Thing]
    labelled: Labelled


def _set_of(encoder: ClipEncoder, pictures: Sequence[Picture]) -> Set:
    things = [thing for picture in pictures for thing in picture.things]
    category = np.array([IDS[thing.name] for thing in things])
    image = np.repeat(np.arange(len(pictures)), [len(picture.things) for picture in pictures])
    return Set(things, Labelled(encoded(encoder, pictures), category, image))


@pytest.fixture(scope="module")
def encoder(small_clip: str) -> ClipEncoder:
    """Loaded through the public door."""
    return load_clip(small_clip)


@pytest.fixture(scope="module")
def seen(encoder: ClipEncoder) -> Set:
    """800 objects of held-out pictures."""
    return _set_of(encoder, [draw_picture(HELD_OUT + index) for index in range(200)])


def _accuracy(vectors_ND: np.ndarray, texts_KD: np.ndarray, index_N: np.ndarray) -> float:
    """The share of masks whose most similar text is the right one."""
    return float(((vectors_ND.astype(np.float32) @ texts_KD.T).argmax(axis=1) == index_N).mean())


def _card(encoder: ClipEncoder) -> SuggesterCard:
    return SuggesterCard(version="texts-1", encoder=encoder.version)


def test_zero_shot_names_are_right_far_more_often_than_by_chance(
    encoder: ClipEncoder, seen: Set
) -> None:
    suggester = texts_suggester(encoder, NAMES, _card(encoder))
    found = suggester.suggest(seen.labelled.vectors_ND)
    accuracy = float((found.category_N == seen.labelled.category_N).mean())
    colours = [COLOURS_OF[category] for category in found.category_N]
    of_colour = float(np.mean([a == b.colour for a, b in zip(colours, seen.things, strict=True)]))
    print(f"zero-shot: {accuracy:.3f} of 30 categories, colour {of_colour:.3f}")
    assert accuracy > 0.75  # by chance 0.03
    assert of_colour > 0.9  # by chance 0.17
    assert suggester.card.confident > 1
    assert suggester.card.method == "texts"


def test_the_ensemble_of_prompts_is_at_least_as_good_as_one_prompt(
    encoder: ClipEncoder, seen: Set
) -> None:
    index_N = seen.labelled.category_N - 1

    def by(*templates: str) -> float:
        texts = text_vectors(encoder, NAMES, templates=templates)
        return _accuracy(seen.labelled.vectors_ND, texts, index_N)

    alone = [by(template) for template in TEMPLATES]
    together = by(*TEMPLATES)
    print(f"ensemble {together:.3f}, one prompt {np.mean(alone):.3f} ({min(alone):.3f} to ", end="")
    print(f"{max(alone):.3f}), {TEMPLATES[0]!r} {alone[0]:.3f}")
    assert together >= np.mean(alone)
    assert together >= alone[0] - 0.02


def test_labelled_masks_calibrate_the_probabilities(encoder: ClipEncoder, seen: Set) -> None:
    even = seen.labelled.image_N % 2 == 0
    known, asked = seen.labelled.part(even), seen.labelled.part(~even)
    card = SuggesterCard(version="texts-1", encoder=encoder.version, precision=0.95)
    suggester = texts_suggester(encoder, NAMES, card, labelled=known)
    found = suggester.suggest(asked.vectors_ND)
    right = found.category_N == asked.category_N
    sure = found.probability_N >= suggester.card.confident
    print(f"calibrated: {found.probability_N.mean():.3f} said, {right.mean():.3f} right; ", end="")
    print(f"{sure.mean():.3f} confident, of them {right[sure].mean():.3f} right")
    assert abs(found.probability_N.mean() - right.mean()) < 0.08
    assert sure.mean() > 0.4
    assert right[sure].mean() > 0.91
    assert suggester.card.scores["confident_share"] == pytest.approx(sure.mean(), abs=0.1)


def test_masks_of_other_categories_count_against_confidence(
    encoder: ClipEncoder, seen: Set, tmp_path: Path
) -> None:
    half = {category: name for category, name in NAMES.items() if category % 2}
    of_half = seen.labelled.part(seen.labelled.category_N % 2 == 1)
    category = np.where(seen.labelled.category_N % 2, seen.labelled.category_N, NONE_OF_THESE)
    mixed = Labelled(seen.labelled.vectors_ND, category, seen.labelled.image_N)
    sure, unsure = (
        texts_suggester(encoder, half, _card(encoder), labelled=labelled)
        for labelled in (of_half, mixed)
    )
    assert unsure.card.scores["confident_share"] < sure.card.scores["confident_share"]
    unsure.save(tmp_path / "suggester")
    again = Suggester.load(tmp_path / "suggester")
    assert again.card == unsure.card
    assert np.array_equal(
        again.suggest(mixed.vectors_ND).category_N, unsure.suggest(mixed.vectors_ND).category_N
    )


def test_few_labels_do_not_calibrate_and_one_category_is_refused(
    encoder: ClipEncoder, seen: Set
) -> None:
    few = seen.labelled.part(np.arange(9))
    suggester = texts_suggester(encoder, NAMES, _card(encoder), labelled=few)
    assert suggester.temperature == 1
    assert suggester.card.confident > 1
    with pytest.raises(SuggesterError, match="add another"):
        texts_suggester(encoder, {1: "cat"}, _card(encoder))
    with pytest.raises(ValueError, match="neither"):
        text_vectors(encoder, {1: "cat", 2: "dog"}, {1: ["a pet that meows"]}, templates=())


MADE_UP = {
    1: ("blicket", "red", "circle"),
    2: ("zorp", "green", "star"),
    3: ("wug", "blue", "square"),
    4: ("dax", "yellow", "triangle"),
    5: ("toma", "purple", "cross"),
    6: ("fep", "white", "star"),
}
"""Names that the towers never saw, and what such things look like."""

ANSWERS = (
    """Here are the sentences:

1. A {name} is a {colour} {shape}.
2. A {name} has the shape of a {shape} and is {colour}.
3. The {name} is a {colour} thing that looks like a {shape}.""",
    """- You can identify a {name} as a photo of a {colour} {shape}.
- It has the shape of a {shape}.""",
    """An image of a {name} is a drawing of a {colour} {shape}.""",
    """* It is {colour}.
* A close-up photo of a {name} is like one {shape}.""",
)
"""Recorded, in the order of QUESTIONS."""


def _recorded(question: str) -> str:
    for name, colour, shape in MADE_UP.values():
        for asked, answer in zip(QUESTIONS, ANSWERS, strict=True):
            if asked.format(name) in question:
                return answer.format(name=name, colour=colour, shape=shape)
    raise AssertionError(question)


def test_descriptions_tell_things_apart_whose_names_the_model_never_saw(
    encoder: ClipEncoder, seen: Set
) -> None:
    names = {category: name for category, (name, _, _) in MADE_UP.items()}
    with chatting(_recorded) as server:
        endpoint = Endpoint(url=server.url, model="recorded")
        told = Descriptions.from_yaml(describe(endpoint, list(names.values())).to_yaml())
    descriptions = {category: told.sentences[name] for category, name in names.items()}
    of_made_up = {
        IDS[f"{colour} {shape}"]: category for category, (_, colour, shape) in MADE_UP.items()
    }
    rows = np.flatnonzero(np.isin(seen.labelled.category_N, list(of_made_up)))
    true_N = np.array([of_made_up[category] for category in seen.labelled.category_N[rows]])
    by_name, by_description = (
        texts_suggester(encoder, names, _card(encoder), descriptions=given)
        for given in (None, descriptions)
    )
    alone, described = (
        float((suggester.suggest(seen.labelled.vectors_ND[rows]).category_N == true_N).mean())
        for suggester in (by_name, by_description)
    )
    print(f"made-up names: {alone:.3f} by templates, {described:.3f} with descriptions, ", end="")
    print(f"{len(rows)} masks")
    assert len(descriptions[1]) == 8
    assert by_description.card.data["descriptions"] == 48
    assert described > 0.7  # by chance 0.17
    assert described > alone + 0.2


def test_search_by_words_finds_the_right_masks(encoder: ClipEncoder, seen: Set) -> None:
    blocks = np.array_split(seen.labelled.vectors_ND, 5)
    starts = np.cumsum([0, *map(len, blocks)])
    shares = []
    for category, name in NAMES.items():
        query = text_vectors(encoder, {category: name})[0]
        hits = most_similar(blocks, query, 10)
        rows = [starts[hit.block] + hit.row for hit in hits]
        right = seen.labelled.category_N[rows] == category
        shares.append(right.sum() / min(10, (seen.labelled.category_N == category).sum()))
    print(f"search: recall at 10 {np.mean(shares):.3f} over {len(shares)} queries")
    assert np.mean(shares) > 0.8  # by chance 0.03


def test_an_adapter_gains_where_pictures_look_different(
    encoder: ClipEncoder, tmp_path: Path
) -> None:
    faded = [draw_picture(HELD_OUT + 1000 + index, faded=True) for index in range(250)]
    known, asked = _set_of(encoder, faded[:150]), _set_of(encoder, faded[150:])
    texts = {
        category: encoder.encode_texts([template.format(name) for template in TEMPLATES])
        for category, name in NAMES.items()
    }
    card = AdapterCard(version="adapter-1", encoder=encoder.version)
    losses: list[float] = []
    adapter = train_adapter(
        known.labelled.vectors_ND,
        known.labelled.category_N,
        texts,
        card,
        logit_scale=encoder.logit_scale,
        on_step=lambda step, loss: losses.append(loss),
    )
    adapter.save(tmp_path / "adapter")
    adapted = AdaptedEncoder(encoder, Adapter.load(tmp_path / "adapter"))
    index_N = asked.labelled.category_N - 1
    before = _accuracy(asked.labelled.vectors_ND, text_vectors(encoder, NAMES), index_N)
    after = _accuracy(encoded(adapted, faded[150:]), text_vectors(adapted, NAMES), index_N)
    print(f"adapter on faded pictures: {before:.3f} before, {after:.3f} after, ", end="")
    print(f"{adapter.card.seconds:.1f} s for {adapter.card.data}")
    assert after > before + 0.1
    assert losses[-1] < losses[0]
    assert adapted.version == f"{encoder.version}+adapter-1"
    assert adapter.card.data == {"labels": 600, "categories": 30, "texts": 600}


def test_an_untrained_adapter_changes_nothing_and_wrong_use_is_refused(
    encoder: ClipEncoder, seen: Set, tmp_path: Path
) -> None:
    card = AdapterCard(version="adapter-1", encoder=encoder.version)
    texts = {1: encoder.encode_texts(["a star"]), 2: encoder.encode_texts(["a cross"])}
    vectors = seen.labelled.vectors_ND[:20]
    still = AdapterConfig(steps=1, learning_rate=0.0)

    def train(category_N: np.ndarray) -> Adapter:
        return train_adapter(vectors, category_N, texts, card, logit_scale=10.0, config=still)

    same = train(np.arange(20) % 2 + 1)
    assert np.allclose(same.masks(vectors), vectors, atol=1e-3)
    assert np.allclose(same.texts(texts[1]), texts[1], atol=1e-5)
    with pytest.raises(ContrastiveError, match="label more"):
        train(np.ones(20, int))
    with pytest.raises(ContrastiveError, match="label more"):
        train(np.arange(20) % 3 + 1)
    with pytest.raises(AdapterError, match="of another encoder"):
        same.masks(vectors[:, :32])
    (tmp_path / "torn").write_bytes(b"no adapter")
    with pytest.raises(AdapterError, match="not a readable adapter"):
        Adapter.load(tmp_path / "torn")
    other = AdapterCard(version="adapter-1", encoder="clip:other")
    with pytest.raises(AdapterError, match="not of"):
        AdaptedEncoder(encoder, Adapter(other, same.masks, same.texts, 10.0))
