"""Every refusal of the page has a message that is a sentence."""

from __future__ import annotations

import re
from typing import Any

import pytest

from engine.annotation.client import Client
from engine.annotation.errors import RefusedError, sentence
from tests.annotation.site import Site

REFUSED: list[tuple[str, str, Any]] = [
    ("GET", "/api/nothing-here", None),
    ("DELETE", "/api/me", None),
    ("GET", "/api/tasks/99", None),
    ("GET", "/api/tasks/many", None),
    ("GET", "/api/images/99/pixels", None),
    ("POST", "/api/tasks/next", {"kinds": []}),
    ("POST", "/api/tasks/next", {"kinds": ["annotate"], "dataset": "none such"}),
    ("POST", "/api/actions/round/plan", {"values": {"rounds": "abc"}}),
    ("POST", "/api/actions/round/plan", {"values": {"rounds": {"a": 1}}}),
    ("POST", "/api/actions/round", {"values": {"dataset": "none such"}}),
    ("POST", "/api/actions/format-disk", {"values": {}}),
    ("GET", "/api/actions?dataset=none", None),
    ("GET", "/api/jobs/none", None),
]


def test_every_refusal_is_a_sentence(site: Site, adam: Client) -> None:
    for method, path, body in REFUSED:
        with pytest.raises(RefusedError) as refused:
            adam._send(method, path, body)
        message = refused.value.message
        assert re.fullmatch(r"[A-Z][^{}]*[.!?]", message, re.DOTALL), (path, message)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("a mask is empty", "A mask is empty."),
        ("photo.jpg is broken", "photo.jpg is broken."),
        ("dataset 'd' is there", "Dataset 'd' is there."),
        ("Take the next one.", "Take the next one."),
        ("who is it?", "Who is it?"),
    ],
)
def test_a_message_becomes_a_sentence_and_names_stay_as_they_are(
    message: str, expected: str
) -> None:
    assert sentence(message) == expected
