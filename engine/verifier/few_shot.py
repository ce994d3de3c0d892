"""A few-shot judge: a language model that sees examples of what people answered, and says what they
would answer about another mask or image (Alayrac et al. 2022, Flamingo).

Its answers are calibrated against people's, as a verifier's are: Platt's log-odds, fitted without
the fold of an image.

N = masks or images, D = length of a vector.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.semantics.chat import Answer, Chat, Part
from engine.verifier.learning import Judged, by_rate_alone, gain, platt, quality
from engine.verifier.model import FOLDS, sigmoid
from engine.verifier.routing import Route, choose_route

PROMPT_VERSION = 1
"""Of the questions and the order of their parts: part of a judge's version."""

BY_TEXT = 2.0
"""Log-odds of a yes where the endpoint gives no log-probabilities; of a no, less it."""
MOST = 12.0
"""Of a score's log-odds, without its sign."""
LEAST_VERDICTS = 100
"""By default, of people's answers that a judge's precision is shown on."""
CONFIDENCE = 0.95
"""Of the interval of the gain over the rate alone."""


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked about each picture: the task, said once, and a question of yes or no."""

    task: str
    text: str


GOOD_MASK = Question(
    "You check masks of objects. In each picture an outline marks one mask. A mask is good if it "
    "covers exactly one thing, or one part of it, and nothing else. Answer each question with yes "
    "or no.",
    "Is this mask good?",
)
ANY_MISSING = Question(
    "You check whether an image is annotated completely. In each picture the objects that are "
    "annotated have a colour and an outline. An object is missing if it has neither. Answer each "
    "question with yes or no.",
    "Is any object missing?",
)


def right_label(name: str) -> Question:
    """Return the question whether a mask's thing is of the category of that name."""
    article = "an" if name[:1].casefold() in "aeiou" else "a"
    return Question(
        "You check labels of objects. In each picture an outline marks one thing. Answer each "
        "question about that thing with yes or no.",
        f"Is this {article} {name}?",
    )


@dataclass(frozen=True, slots=True)
class Example:
    """What people answered about a picture, RGB uint8 (H, W, 3), and the reason, if any."""

    picture_HWC: np.ndarray
    answer: bool
    reason: str = ""


def question_parts(
    examples: Sequence[Example], picture_HWC: np.ndarray, question: Question = GOOD_MASK
) -> list[Part]:
    """Return the interleaved prompt about a picture, RGB uint8 (H, W, 3)."""
    parts: list[Part] = [question.task]
    for example in examples:
        reason = " ".join(example.reason.split())[:200]
        said = f"{'yes' if example.answer else 'no'}{f' ({reason})' if reason else ''}"
        parts += [example.picture_HWC, f"{question.text} {said}"]
    return [*parts, picture_HWC, f"{question.text} Answer yes or no."]


def ask_about(
    chat: Chat,
    examples: Sequence[Example],
    picture_HWC: np.ndarray,
    question: Question = GOOD_MASK,
) -> float:
    """Return the log-odds with which a language model says yes.

    Raises:
        ChatError: it does not answer.
    """
    parts = question_parts(examples, picture_HWC, question)
    return score_of(chat.ask(parts, first_token=True, max_tokens=8))


def score_of(answer: Answer) -> float:
    """Return the log-odds of yes: by log-probabilities of the first token if there are some, else
    by the text; 0 if it says neither."""
    odds = {"yes": 0.0, "no": 0.0}
    for token, value in answer.first_token.items():
        if (word := _plain(token)) in odds:
            odds[word] += math.exp(value)
    if any(odds.values()):
        low = math.exp(-MOST)
        found = math.log(max(odds["yes"], low)) - math.log(max(odds["no"], low))
        return min(max(found, -MOST), MOST)
    first = _plain((answer.text.split() or [""])[0])
    return {"yes": BY_TEXT, "no": -BY_TEXT}.get(first, 0.0)


def _plain(word: str) -> str:
    return re.sub(r"[^a-z]", "", word.casefold())


def choose_examples(
    similarity_N: np.ndarray, accepted_N: np.ndarray, allowed_N: np.ndarray, count: int
) -> list[int]:
    """Return rows of examples: of each answer the most similar ones, half of `count` where there
    are as many; the most similar one last, beside the question (RICES; Alayrac et al. 2022, A.2).

    Args:
        similarity_N: cosines with the mask or image in question.
        accepted_N: people's answers, bool.
        allowed_N: bool; others, such as those of the same image, are not shown.
        count: at most so many.
    """
    order = [row for row in np.argsort(-similarity_N, kind="stable").tolist() if allowed_N[row]]
    kinds = [[row for row in order if accepted_N[row] == kind] for kind in (True, False)]
    half = count // 2
    few = min(kinds, key=len)
    taken = min(len(few), half)
    chosen = few[:taken] + max(kinds, key=len)[: count - taken]
    return sorted(chosen, key=lambda row: float(similarity_N[row]))


@dataclass(frozen=True, slots=True)
class Calibration:
    """What a judge said about N masks or images about which people have answered.

    Attributes:
        score_N: log-odds, as `score_of`.
        accepted_N: people's answers, bool: whether they accepted the mask, confirmed its label, or
            added what was missing.
        image_N: groups of images, int.
    """

    score_N: np.ndarray
    accepted_N: np.ndarray
    image_N: np.ndarray

    @property
    def line(self) -> tuple[float, float]:
        """Slope, 0 at least, and offset of the log-odds of acceptance as a function of a score. A
        judge that says no to what people accept has the slope 0."""
        slope, offset = platt(self.score_N, self.accepted_N)
        return (slope, offset) if slope > 0 else (0.0, platt(0 * self.score_N, self.accepted_N)[1])

    def probabilities(self, score_N: np.ndarray) -> np.ndarray:
        """Return calibrated probabilities of acceptance for scores, float64 (N,)."""
        slope, offset = self.line
        return sigmoid(slope * score_N + offset)

    def crossed(self) -> np.ndarray:
        """Return each probability by a calibration without the fold of its image."""
        found, fold_N = np.zeros(len(self.score_N)), self.image_N % FOLDS
        for fold in np.unique(fold_N):
            others = fold_N != fold
            part = Calibration(self.score_N[others], self.accepted_N[others], self.image_N[others])
            found[~others] = part.probabilities(self.score_N[~others])
        return found

    def route(self, precision: float) -> Route:
        """Return the thresholds for a precision (`choose_route`)."""
        return choose_route(self.crossed(), self.accepted_N, self.image_N, precision)

    def check(self, precision: float, least: int = LEAST_VERDICTS) -> tuple[bool, str]:
        """Return whether the judge may judge at a precision, and why.

        Args:
            precision: in (0, 1).
            least: answers that it must be shown on.
        """
        count, accepted = len(self.score_N), int(self.accepted_N.sum())
        if count < least:
            return False, f"{count} answers of people are too few, {least} are needed"
        if accepted in (0, count) or len(np.unique(self.image_N % FOLDS)) < 2:
            return False, "all answers of people are alike, or of too few images"
        known = self._judged()
        better = gain(known, by_rate_alone(known), self.crossed(), CONFIDENCE)
        if better.low is None or better.low <= 0:
            return False, f"its answers tell nothing about people's (by {count})"
        route = self.route(precision)
        sides = {"yes": route.accept, "no": route.reject}
        sure = [name for name, side in sides.items() if side.threshold is not None]
        if not sure:
            needed = [side.needed for side in sides.values() if side.needed is not None]
            more = f"; about {min(needed):,} would be enough" if needed else ""
            return False, f"precision {precision:g} is not shown by {count} answers of people{more}"
        told = " and ".join(sure)
        return True, f"precision {precision:g} is shown by {count} answers of people for {told}"

    def figures(self) -> dict[str, Any]:
        """Return `accuracy` of its yes and no, and log loss, AUC and calibration error of the
        crossed probabilities."""
        right = (self.score_N > 0) == self.accepted_N
        return {"accuracy": float(right.mean()), **quality(self.crossed(), self.accepted_N)}

    def _judged(self) -> Judged:
        count = len(self.score_N)
        return Judged(
            np.zeros((count, 0), np.float32), self.accepted_N, self.image_N, np.zeros(count, bool)
        )

    def to_rows(self) -> list[list[float]]:
        """Return plain values to store: score, answer and image of each."""
        columns = (self.score_N.tolist(), self.accepted_N.tolist(), self.image_N.tolist())
        return [[score, int(yes), image] for score, yes, image in zip(*columns, strict=True)]

    @staticmethod
    def of_rows(rows: Sequence[Sequence[float]]) -> Calibration:
        """Read values of `to_rows`."""
        score, accepted, image = np.array(rows, np.float64).reshape(-1, 3).T
        return Calibration(score, accepted > 0.5, image.astype(np.int64))
