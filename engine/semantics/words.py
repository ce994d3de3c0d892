"""Says which masks of an image belong to asked words: by a CLIP's texts, or by ImageNet's classes.

N = masks, W = asked words, K = answers.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from scipy.special import softmax

from engine.core.errors import DataEngineError
from engine.core.rle import RLE
from engine.semantics.imagenet_names import (
    imagenet_classes,
    imagenet_probabilities,
    imagenet_version,
)
from engine.semantics.texts import TextEncoder, text_vectors

NOTHING_ELSE = ("background", "something else", "a piece of something", "a texture")
"""What a CLIP may answer in place of an asked word: none of these."""

SIMILAR = 5
"""Classes that a message proposes."""


class WordError(DataEngineError):
    """The words cannot be asked for; the message says which, and what to do."""


@dataclass(frozen=True, slots=True)
class Said:
    """What N masks are said to be.

    Attributes:
        word_N: index of the most probable asked word, int.
        probability_N: of that word, against all answers, float32 in [0, 1].
        is_best_N: no other answer is more probable, bool.
    """

    word_N: np.ndarray
    probability_N: np.ndarray
    is_best_N: np.ndarray


class WordClassifier(Protocol):
    """Compares masks with asked words."""

    @property
    def version(self) -> str:
        """Of the encoder."""
        ...

    def say(self, image_HWC: np.ndarray, rles: Sequence[RLE]) -> Said:
        """Return what masks of an image are; none is empty."""
        ...


class TextAndMaskEncoder(TextEncoder, Protocol):
    """A CLIP, or one with an adapter."""

    def encode(self, image_HWC: np.ndarray, rles: Sequence[RLE]) -> np.ndarray:
        """See MaskEncoder."""
        ...


class ClipWords:
    """A CLIP that knows the words, other words that may fit better, and NOTHING_ELSE.

    Args:
        encoder: of masks and texts.
        words: asked for.
        others: names of other things.
    """

    def __init__(
        self, encoder: TextAndMaskEncoder, words: Sequence[str], others: Sequence[str] = ()
    ) -> None:
        self._encoder, self._count, self.version = encoder, len(words), encoder.version
        answers = dict(enumerate([*words, *others, *NOTHING_ELSE]))
        self._texts_KD = text_vectors(encoder, answers)

    def say(self, image_HWC: np.ndarray, rles: Sequence[RLE]) -> Said:
        """See WordClassifier."""
        vectors_ND = self._encoder.encode(image_HWC, rles).astype(np.float32)
        odds_NK = self._encoder.logit_scale * vectors_ND @ self._texts_KD.T
        return _said(softmax(odds_NK, axis=1), np.arange(self._count))


class ImagenetWords:
    """ImageNet's 1,000 classes, of which the words are some.

    Raises:
        WordError: a word is no class.
        EncoderError: the extra `labels` is not installed.
    """

    def __init__(self, words: Sequence[str]) -> None:
        classes = {name.casefold(): index for index, name in enumerate(imagenet_classes())}
        for word in words:
            if word.casefold() not in classes:
                raise WordError(
                    f"ImageNet has no class {word!r}; similar ones: "
                    f"{', '.join(_similar(word, imagenet_classes())) or 'none'}; for other words "
                    "use --encoder clip:NAME"
                )
        self.version = imagenet_version()
        self._columns_W = np.array([classes[word.casefold()] for word in words])

    def say(self, image_HWC: np.ndarray, rles: Sequence[RLE]) -> Said:
        """See WordClassifier."""
        return _said(imagenet_probabilities(image_HWC, rles), self._columns_W)


def _similar(word: str, names: Sequence[str]) -> list[str]:
    """Return names that contain the word, then names that are spelled like it."""
    whole = re.compile(rf"\b{re.escape(word)}\b", re.IGNORECASE)
    found = [name for name in names if whole.search(name)]
    return list(dict.fromkeys([*found, *difflib.get_close_matches(word, names, SIMILAR)]))[:SIMILAR]


def _said(probability_NK: np.ndarray, columns_W: np.ndarray) -> Said:
    asked_NW = probability_NK[:, columns_W]
    word_N = asked_NW.argmax(axis=1)
    probability_N = asked_NW[np.arange(len(word_N)), word_N]
    is_best_N = probability_N >= probability_NK.max(axis=1)
    return Said(word_N, probability_N.astype(np.float32), is_best_N)
