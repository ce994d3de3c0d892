"""A few-shot judge: its prompt, its scores, and what calibration makes of its answers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from engine.semantics.chat import Answer, Endpoint, EndpointChat
from engine.verifier.few_shot import (
    BY_TEXT,
    Calibration,
    Example,
    ask_about,
    choose_examples,
    question_parts,
    score_of,
)
from tests.chat_server import asked_in, chatting, pictures_in, said

RIGHT = 0.85
COUNT = 900
GOOD, BAD = 200, 60
"""Grey of the pictures of good and bad masks, which the endpoint can tell."""


def picture(good: bool, number: int) -> np.ndarray:
    found = np.full((8, 8, 3), GOOD if good else BAD, np.uint8)
    found[0, 0] = (number % 251, number // 251 % 251, 0)
    return found


def is_right(number: int) -> bool:
    """In 17 of 20 cases, so that a third of them has no more or less by chance."""
    return number * 7 % 20 < 20 * RIGHT


def scores(truth_N: np.ndarray, answer: Callable[[bool, int], dict[str, Any]]) -> np.ndarray:
    """What a local endpoint says about pictures of masks, by `ask_about`."""

    def reply(body: dict[str, Any]) -> dict[str, Any]:
        last = pictures_in(body)[-1]
        number = int(last[0, 0, 0]) + 251 * int(last[0, 0, 1])
        return answer(bool(last[4, 4, 0] > 128), number)

    with chatting(str) as server:
        server.reply = reply
        chat = EndpointChat(Endpoint(url=server.url, model="sees"))
        found = [
            ask_about(chat, [Example(picture(True, 0), True)], picture(bool(good), number))
            for number, good in enumerate(truth_N)
        ]
        chat.close()
    return np.array(found)


def sure_at_random(good: bool, number: int) -> dict[str, Any]:
    """Right in RIGHT of the cases, and surer where it is."""
    yes = good == is_right(number)
    rng = np.random.default_rng([number, 6])
    sure = rng.uniform(0.7, 0.99) if is_right(number) else rng.uniform(0.5, 0.9)
    odds = {"Yes": math.log(sure if yes else 1 - sure), " no": math.log(1 - sure if yes else sure)}
    return said("Yes" if yes else "No", odds)


@pytest.fixture(scope="module")
def calibrated() -> tuple[Calibration, np.ndarray, np.ndarray]:
    """A calibration on a third of the masks, and scores and truth of the others."""
    truth = np.arange(COUNT) // 20 % 5 < 3
    found = scores(truth, sure_at_random)
    known = np.arange(COUNT) % 3 == 0
    image = np.arange(COUNT) // 3
    return Calibration(found[known], truth[known], image[known]), found[~known], truth[~known]


def test_an_endpoint_that_is_right_in_85_percent_is_calibrated_to_3_points(
    calibrated: tuple[Calibration, np.ndarray, np.ndarray],
) -> None:
    calibration, fresh, truth = calibrated
    assert calibration.figures()["accuracy"] == pytest.approx(RIGHT, abs=0.03)
    probability = calibration.probabilities(fresh)
    for part in (fresh > 0, fresh <= 0):  # what it said yes to, and no
        assert probability[part].mean() == pytest.approx(truth[part].mean(), abs=0.03)
    assert calibration.figures()["calibration_error"] < 0.08


def test_routes_keep_the_stated_precision_on_masks_that_were_not_calibrated_on(
    calibrated: tuple[Calibration, np.ndarray, np.ndarray],
) -> None:
    calibration, fresh, truth = calibrated
    on, reason = calibration.check(0.85)
    assert on, reason
    ways = calibration.route(0.85).sorted(calibration.probabilities(fresh))
    assert (ways == 1).sum() > 50
    assert truth[ways == 1].mean() >= 0.85
    assert not (ways == -1).any() or (~truth[ways == -1]).mean() >= 0.85
    off, why = calibration.check(0.995)
    assert not off
    assert "precision 0.995 is not shown by 300 answers of people" in why
    assert calibration.check(0.85, least=301) == (
        False,
        "300 answers of people are too few, 301 are needed",
    )


@pytest.mark.parametrize("accepted", [0.6, 0.97])
def test_an_endpoint_that_lies_or_guesses_is_switched_off_even_if_nearly_all_is_good(
    accepted: float,
) -> None:
    truth = np.random.default_rng(2).random(COUNT // 3) < accepted
    image = np.arange(len(truth)) // 3
    lies = np.where(truth, -3.0, 3.0)
    guesses = np.random.default_rng(3).normal(size=len(truth))
    always = np.full(len(truth), 5.0)
    for score in (lies, guesses, always):
        on, reason = Calibration(score, truth, image).check(0.9)
        assert not on
        assert "tell nothing about people's (by" in reason


def test_a_calibration_survives_storing() -> None:
    rng = np.random.default_rng(0)
    first = Calibration(rng.normal(size=9), rng.random(9) < 0.5, np.arange(9))
    second = Calibration.of_rows(first.to_rows())
    assert second.probabilities(np.zeros(1)) == first.probabilities(np.zeros(1))
    assert (second.image_N == first.image_N).all()


@pytest.mark.parametrize(
    ("answer", "score"),
    [
        (Answer("Yes"), BY_TEXT),
        (Answer("No, it is not."), -BY_TEXT),
        (Answer("**yes**"), BY_TEXT),
        (Answer("It depends"), 0.0),
        (Answer("No", {" Yes": math.log(0.6), "yes": math.log(0.2), "No": math.log(0.2)}), 1.386),
        (Answer("Yes", {"Yes": 0.0}), 12.0),
        (Answer("Yes", {"The": -0.1}), BY_TEXT),
    ],
)
def test_scores_are_log_probabilities_where_there_are_some_else_the_text(
    answer: Answer, score: float
) -> None:
    assert score_of(answer) == pytest.approx(score, abs=0.001)


def test_examples_are_the_most_similar_of_both_verdicts_the_most_similar_last() -> None:
    similarity = np.array([0.9, 0.1, 0.5, 0.8, 0.3, 0.95])
    accepted = np.array([True, True, True, False, False, True])
    allowed = np.array([True, True, True, True, True, False])  # the last is of the same image
    assert choose_examples(similarity, accepted, allowed, 4) == [4, 2, 3, 0]
    assert choose_examples(similarity, accepted & False, allowed, 4) == [4, 2, 3, 0]
    assert choose_examples(similarity, accepted, allowed, 0) == []


def test_the_prompt_interleaves_pictures_and_verdicts_with_their_reasons() -> None:
    body: dict[str, Any] = {}

    def reply(given: dict[str, Any]) -> dict[str, Any]:
        body.update(given)
        return said("yes")

    with chatting(str) as server:
        server.reply = reply
        server.faults = [400]  # it knows no log-probabilities
        chat = EndpointChat(Endpoint(url=server.url, model="sees"))
        examples = [
            Example(picture(False, 1), False, "covers\ntwo"),
            Example(picture(True, 2), True),
        ]
        assert ask_about(chat, examples, picture(True, 3)) == BY_TEXT
        chat.close()
    assert [one[4, 4, 0] for one in pictures_in(body)] == [BAD, GOOD, GOOD]
    lines = asked_in(body).split("\n")
    assert lines[1:3] == ["Is this mask good? no (covers two)", "Is this mask good? yes"]
    assert "logprobs" in server.requests[0]
    assert "logprobs" not in server.requests[1]
    assert len(question_parts(examples, picture(True, 3))) == 7
