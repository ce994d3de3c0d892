"""Descriptions of categories: a language model's answers, and the YAML that people edit."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from engine.semantics.chat import ChatError, Endpoint
from engine.semantics.descriptions import (
    MOST_SENTENCES,
    QUESTIONS,
    Descriptions,
    DescriptionsError,
    describe,
    parse_answer,
)
from tests.chat_server import ChatServer, chatting

KEY = "sk-very-secret-4711"

SAID = """Here are some sentences about herons:

1. A heron has **long legs** and a long neck.
2) A heron is a grey bird with a pointed bill.
- A heron stands still in shallow water.
• "A heron's wings are broad and blue-grey."
A heron is taller than a duck.
A heron is taller than a duck.
ok
"""


@pytest.fixture
def server() -> Iterator[ChatServer]:
    with chatting(lambda question: SAID, key=KEY) as running:
        yield running


def _endpoint(server: ChatServer, **changes: float | str) -> Endpoint:
    options = {"url": server.url, "model": "parrot-1", "key": KEY, "wait_s": 0.01, **changes}
    return Endpoint(**options)  # type: ignore[arg-type]


def _refusal(endpoint: Endpoint) -> str:
    with pytest.raises((ChatError, DescriptionsError)) as caught:
        describe(endpoint, ["heron"])
    assert KEY not in str(caught.value)
    return str(caught.value)


def test_lines_with_numbers_bullets_or_neither_become_sentences() -> None:
    assert parse_answer(SAID) == [
        "A heron has long legs and a long neck.",
        "A heron is a grey bird with a pointed bill.",
        "A heron stands still in shallow water.",
        "A heron's wings are broad and blue-grey.",
        "A heron is taller than a duck.",
    ]
    assert parse_answer("<think>What is a heron?\nA bird.</think>A heron is a tall bird.") == [
        "A heron is a tall bird."
    ]
    long = "A heron has legs that are long. " * 12
    assert parse_answer(long) == ["A heron has legs that are long."]
    assert parse_answer("A heron\x1b[31m is a red bird.\n# Heron\n" + "x" * 400) == []


def test_every_question_is_asked_about_every_category(server: ChatServer) -> None:
    done: list[str] = []
    found = describe(
        _endpoint(server),
        ["heron", "Löffelente"],
        domain="photographs of a lake",
        on_category=lambda name, sentences: done.append(f"{name} {len(sentences)}"),
    )
    assert done == ["heron 5", "Löffelente 5"]
    assert found.sentences["heron"] == parse_answer(SAID)
    assert found.endpoint == f"127.0.0.1:{server.port}"
    assert len(server.requests) == 2 * len(QUESTIONS)
    asked = server.requests[0]["messages"][0]["content"]
    assert asked.startswith("The images are photographs of a lake. What does a heron look like?")
    assert {request["path"] for request in server.requests} == {"/v1/chat/completions"}
    assert {request["model"] for request in server.requests} == {"parrot-1"}


def test_a_busy_endpoint_is_asked_again(server: ChatServer) -> None:
    server.faults += [429, 503, 500]
    assert describe(_endpoint(server), ["heron"]).sentences["heron"]
    assert len(server.requests) == len(QUESTIONS) + 3


def test_an_endpoint_that_stays_busy_is_given_up(server: ChatServer) -> None:
    server.faults += [429] * 100
    assert "answers 429 for 0.2 s; it says" in _refusal(_endpoint(server, limit_s=0.2))


def test_each_failure_of_an_endpoint_has_its_message(server: ChatServer) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{listener.getsockname()[1]}"
    host = f"127.0.0.1:{server.port}"
    assert "cannot be reached" in _refusal(Endpoint(url=closed, model="m", key=KEY))
    assert f"at {host} refuses the key (401)" in _refusal(_endpoint(server, key="sk-wrong"))
    server.key = "sk-other"  # its answer repeats the key that it got
    assert "Bearer (key)" in _refusal(_endpoint(server))
    server.key = KEY
    for fault, message in (
        (404, "answers 404: check URL and model 'parrot-1'"),
        (b"<html>login</html>", "not JSON: check the URL; it says '<html>login</html>'"),
        (b'{"choices": []}', "without `choices[0].message.content`"),
        (b'{"choices": [{"message": {"content": " "}}]}', "answers nothing"),
        (b"[" * 100_000, "not JSON"),
        (b"x" * 1_100_000, "more than 1000000 bytes"),
        (0.5, "said nothing for 0.1 s"),
    ):
        server.faults = [fault]
        assert message in _refusal(_endpoint(server, silence_s=0.1))
    server.answer = lambda question: "Sure!"
    assert "have no sentence" in _refusal(_endpoint(server))


def test_wrong_urls_and_keys_are_refused_without_showing_the_key() -> None:
    assert "http:// or https://" in _refusal(Endpoint(url="ftp://host", model="m", key=KEY))
    assert "http:// or https://" in _refusal(Endpoint(url="", model="m"))
    broken = Endpoint(url="http://127.0.0.1:9", model="m", key=f"{KEY}\nX: y")
    assert "line break" in _refusal(broken)
    assert KEY not in repr(broken)


FOUND = Descriptions(
    model="parrot-1",
    endpoint="llm.example:8000",
    prompt="What does a {} look like?\nHow can you identify a {}?",
    sentences={
        "no": ["A no is a sign: a red ring, a bar.", "# It is round."],
        "12": ["Two digits."],
        "Löffelente 🦆": [],
        'a "quoted" - name': ["Quotes ' and \" and: colons."],
    },
)


def test_descriptions_survive_yaml() -> None:
    text = FOUND.to_yaml()
    assert text.startswith("# What each category looks like")
    assert "Löffelente 🦆" in text
    assert Descriptions.from_yaml(text) == FOUND


def test_a_persons_edits_are_read() -> None:
    edited = """
descriptions:
  yes:   # a word that YAML would read as true
    - It is green.
    -
    - It has
      two lines.
  heron: A tall bird.
  duck:
"""
    assert Descriptions.from_yaml(edited).sentences == {
        "yes": ["It is green.", "It has two lines."],
        "heron": ["A tall bird."],
        "duck": [],
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("descriptions:\n  heron:\n    - It is: grey", "line 3: expected a sentence"),
        ("descriptions:\n  a: b\n  c: d\n  a: e", "line 4: 'a' is there twice"),
        ("descriptions:\n  - heron", "line 2: expected a category's name"),
        ("description:\n  heron: x", "line 1: unknown key 'description'"),
        ("model: [1]\ndescriptions:", "line 1: `model` is one text"),
        ("model: x", "no line `descriptions:`"),
        ("descriptions:\n\theron: x", "line 2"),
        ("descriptions:\n  a: " + "x" * 301, "line 2: a sentence has at most 300"),
        ('descriptions:\n  a: "bell \\a"', "no control characters"),
        ("descriptions:\n  a:\n" + "    - b\n" * (MOST_SENTENCES + 1), "line 3: 61 sentences"),
        ("[" * 5000, "not YAML"),
        ("!!python/object/apply:os.mkdir [x]", "line 1: expected `descriptions:`"),
        ("", "no line `descriptions:`"),
    ],
)
def test_malformed_descriptions_are_refused_with_the_line(text: str, message: str) -> None:
    with pytest.raises(DescriptionsError) as caught:
        Descriptions.from_yaml(text)
    assert message in str(caught.value)
