"""Suggests categories from texts alone: a CLIP compares masks with the categories' names.

A category's vector is the mean over many texts that name it in a sentence (prompt ensemble; Radford
et al. 2021, section 3.1.4) and over descriptions of how it looks (CuPL; Pratt et al. 2023).

K = categories, T = texts, D = length of a vector.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
from scipy.special import log_softmax

from engine.semantics.adapter import Tower
from engine.semantics.encoders import unit
from engine.semantics.suggesting import (
    Labelled,
    Suggester,
    SuggesterCard,
    SuggesterError,
    best_temperature,
    least_probability,
    log_loss,
)

TEMPLATES = (
    "a photo of a {}.",
    "a photo of the {}.",
    "a photo of one {}.",
    "a photo of a small {}.",
    "a photo of a large {}.",
    "a close-up photo of a {}.",
    "a cropped photo of a {}.",
    "a photo of part of a {}.",
    "a photo of a {} among other things.",
    "a bright photo of a {}.",
    "a dark photo of a {}.",
    "a blurry photo of a {}.",
    "a low resolution photo of a {}.",
    "a bad photo of a {}.",
    "a good photo of a {}.",
    "a black and white photo of a {}.",
    "a drawing of a {}.",
    "a rendering of a {}.",
    "an image of a {} seen from above.",
    "a {}.",
)
"""Sentences around a category's name: of crops around masks, in photographs and other pictures."""

LEAST_LABELS = 10
"""Labelled masks without which probabilities are not calibrated."""


class TextEncoder(Protocol):
    """Makes vectors of texts in the space of masks' vectors, as a ClipEncoder does."""

    @property
    def version(self) -> str:
        """Of the encoder."""
        ...

    @property
    def logit_scale(self) -> float:
        """What turns cosines into log-odds."""
        ...

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Return vectors of length 1, float32 (T, D)."""
        ...


def text_vectors(
    encoder: TextEncoder,
    names: Mapping[int, str],
    descriptions: Mapping[int, Sequence[str]] | None = None,
    templates: Sequence[str] = TEMPLATES,
) -> np.ndarray:
    """Return a vector for each category, float32 (K, D) of length 1, in ascending order of ids.

    It is the mean over templates. Where there are descriptions, it is the mean of that and of the
    descriptions' mean, so that either counts the same, however many they are.

    Args:
        encoder: of the texts.
        names: by category id.
        descriptions: sentences by category id; categories without any are known by name alone.
        templates: with `{}` for the name; at least one, unless all categories have descriptions.

    Raises:
        ValueError: a category has neither templates nor descriptions.
    """
    kinds = [
        (
            [template.replace("{}", names[category]) for template in templates],
            list((descriptions or {}).get(category, ())),
        )
        for category in sorted(names)
    ]
    vectors = iter(_encoded(encoder, [text for pair in kinds for kind in pair for text in kind]))
    means = []
    for pair in kinds:
        found = [[next(vectors) for _ in kind] for kind in pair if kind]
        if not found:
            raise ValueError("a category has neither templates nor descriptions")
        means.append(np.mean([unit(np.mean(kind, axis=0)[None])[0] for kind in found], axis=0))
    return unit(np.stack(means))


def _encoded(encoder: TextEncoder, texts: Sequence[str]) -> list[np.ndarray]:
    """Return the vectors of texts; equal ones are encoded once."""
    distinct = list(dict.fromkeys(texts))
    found = dict(zip(distinct, encoder.encode_texts(distinct), strict=True)) if distinct else {}
    return [found[text] for text in texts]


def texts_suggester(
    encoder: TextEncoder,
    names: Mapping[int, str],
    card: SuggesterCard,
    *,
    descriptions: Mapping[int, Sequence[str]] | None = None,
    labelled: Labelled | None = None,
    adapter: Tower | None = None,
) -> Suggester:
    """Return a suggester that knows categories by texts; its card gets method, data and scores.

    Args:
        encoder: of the texts, and of the masks whose vectors it will read.
        names: by category id; NONE_OF_THESE may be among them, as "something else".
        card: with version, encoder and the precision to find the threshold for.
        descriptions: as in text_vectors.
        labelled: masks labelled by people, none of a held-out image. From LEAST_LABELS masks of
            these categories on, they calibrate probabilities and the threshold; with fewer, every
            suggestion needs a person.
        adapter: changes masks' vectors before they are compared with those of texts.

    Raises:
        SuggesterError: there are fewer than two categories.
    """
    if len(names) < 2:
        raise SuggesterError(
            f"texts tell two categories or more apart; there is {len(names)}: add another to the "
            "list, such as 'something else'"
        )
    vectors = text_vectors(encoder, names, descriptions)
    answers = np.array(sorted(names))
    described = sum(len((descriptions or {}).get(category, ())) for category in names)
    data = {"categories": len(names), "templates": len(TEMPLATES), "descriptions": described}
    uncalibrated = Suggester(
        replace(card, method="texts", confident=1.01, data=data, scores={}),
        (vectors * encoder.logit_scale).T,
        np.zeros(len(answers), np.float32),
        answers,
        adapter=adapter,
    )
    if labelled is None or np.isin(labelled.category_N, answers).sum() < LEAST_LABELS:
        return uncalibrated
    return _calibrated(uncalibrated, labelled)


def _calibrated(suggester: Suggester, labelled: Labelled) -> Suggester:
    """Return the suggester with temperature, threshold and scores by labelled masks.

    Masks of other categories count as wrong for the threshold, as they will be.
    """
    answers = suggester.answer_K
    odds_NK = suggester.log_odds(labelled.vectors_ND)
    known_N = np.isin(labelled.category_N, answers)
    of_list = odds_NK[known_N], labelled.category_N[known_N]
    temperature = best_temperature(*of_list, answers)
    log_NK = log_softmax(odds_NK / temperature, axis=1)
    right_N = answers[log_NK.argmax(axis=1)] == labelled.category_N
    probability_N = np.exp(log_NK.max(axis=1))
    confident = least_probability(probability_N, right_N, suggester.card.precision)
    data = {
        "labels": len(right_N),
        "images": len(np.unique(labelled.image_N)),
    }
    scores = {
        "accuracy": float(right_N.mean()),
        "log_loss": log_loss(of_list[0] / temperature, of_list[1], answers),
        "confident_share": float((probability_N >= confident).mean()),
    }
    card = replace(
        suggester.card, confident=confident, data={**suggester.card.data, **data}, scores=scores
    )
    return replace(suggester, card=card, temperature=temperature)
