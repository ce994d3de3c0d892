"""Captions of pictures: by a language model that sees, or a CoCa; and the things that they name.

N = pictures, H x W = their sizes.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np

from engine.semantics.chat import Chat

LONGEST = 300
"""Of a caption, in characters."""
QUESTION = {
    "masks": "An outline marks one thing. Describe it in a short phrase, without the outline.",
    "images": "Describe the picture in one sentence.",
}
"""To a language model, about masks and whole images."""


class Captioner(Protocol):
    """Describes pictures."""

    @property
    def version(self) -> str:
        """Of the model, for the table of captions."""
        ...

    @property
    def wants_outline(self) -> bool:
        """Whether a mask is shown with its outline."""
        ...

    def caption(self, pictures: Sequence[np.ndarray], what: str) -> list[str]:
        """Return a caption of each picture, RGB uint8 (H, W, 3), of `masks` or `images`."""
        ...


class ChatCaptioner:
    """A Captioner that asks a language model."""

    wants_outline = True

    def __init__(self, chat: Chat) -> None:
        self._chat = chat
        self.version = chat.name

    def caption(self, pictures: Sequence[np.ndarray], what: str) -> list[str]:
        """See Captioner.

        Raises:
            ChatError: the language model does not answer.
        """
        question = QUESTION[what]
        said = (self._chat.ask([picture, question], max_tokens=80).text for picture in pictures)
        return [clean_caption(one) for one in said]


def clean_caption(text: str) -> str:
    """Return a model's caption as one line without quotes and control characters."""
    text = re.sub(r"<think>.*?</think>|<[a-z_]+>", " ", text, flags=re.DOTALL)
    plain = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return plain.strip("\"'“” ")[:LONGEST]


_BREAKING = """
a an the this that these those some any each one two three four five six several many few
is are was were be been being has have had do does it its it's he she they them there here
i you we his her their my your our who which what where when while as if so than then
and or but nor with without of in on at by for from to into onto over under above below
behind beside between near next front back side top bottom left right up down out off
around across through along against toward towards inside outside not no very also like
looks look appears seems shows show shown made sits sit stands stand lies lie runs run
holds hold wears wear rides ride eats eat walks walk
"""
_BREAKS = frozenset(_BREAKING.split())
"""Words at which a phrase ends."""
_ENDING_IN_ING = """
building ring king ceiling string wing thing clothing railing awning earring painting spring
pudding wedding bedding swing sting sling sibling duckling dumpling icing frosting
"""
_THINGS_IN_ING = frozenset(_ENDING_IN_ING.split())
_SAYING_NOTHING = """
photo picture image close closeup view background foreground shape drawing kind type piece
group pair lot set part front color colour thing object
"""
_EMPTY = frozenset(_SAYING_NOTHING.split())
"""Words that name nothing in a picture."""


def noun_phrases(caption: str) -> list[str]:
    """Return the phrases of a caption that may name things, such as `red car`, in order.

    A phrase ends at small words, verbs in -ing and punctuation: rules for simple English, that
    people check.
    """
    found: list[str] = []
    for clause in re.split(r"[^\w\s'-]", caption.casefold()):
        phrase: list[str] = []
        for word in [*clause.split(), "the"]:
            is_verb = word.endswith("ing") and word not in _THINGS_IN_ING
            if word in _BREAKS or is_verb or not re.fullmatch(r"[^\W\d_][\w'-]*", word):
                if phrase and phrase[-1] not in _EMPTY:
                    found.append(" ".join(phrase))
                phrase = []
            else:
                phrase.append(word)
    return found


def thing_names(captions: Iterable[str]) -> list[tuple[str, int]]:
    """Return the last words of the captions' phrases, such as `car`, in the singular where both are
    there, with the number of captions that have each; the most frequent first."""
    counts: Counter[str] = Counter()
    for caption in captions:
        counts.update({phrase.rpartition(" ")[2] for phrase in noun_phrases(caption)})
    for name in list(counts):
        for plural in (f"{name}s", f"{name}es"):
            if name in counts and plural in counts:
                counts[name] += counts.pop(plural)
    return sorted(counts.items(), key=lambda row: (-row[1], row[0]))


def match(caption: str, words: str) -> float:
    """Return how well a caption fits words, in [0, 1]: the share of the words that it has, in the
    singular or plural, and 1 only if it has all of them as they stand together."""
    wanted, have = _stems(words), _stems(caption)
    if not wanted:
        return 0.0
    share = sum(word in have for word in wanted) / len(wanted)
    together = f" {' '.join(wanted)} " in f" {' '.join(have)} "
    return share if together or share < 1 else 0.99


def _stems(text: str) -> list[str]:
    words = re.findall(r"[^\W_][\w'-]*", text.casefold())
    kept = [word for word in words if word not in ("a", "an", "the")]
    return [word[:-1] if len(word) > 3 and word[-1] == "s" else word for word in kept]
