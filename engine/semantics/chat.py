"""Questions to a model behind any endpoint with OpenAI's `POST /chat/completions`: text, pictures.

Pictures are sent as data URLs, so that the endpoint needs no access to them.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import cv2
import httpx
import numpy as np

from engine.core.errors import DataEngineError
from engine.core.overlay import shrink

LARGEST_ANSWER = 1_000_000
"""In bytes."""
LONGEST_WAIT_S = 30.0
BUSY = (408, 425, 429)
"""HTTP statuses, besides all from 500, that are worth a retry."""
TOP = 20
"""Most probable first tokens that are asked for; OpenAI's limit."""
MAX_SIDE = 768
"""Of a picture that is sent, in pixels."""

Part = str | np.ndarray
"""Of a question: a text, or a picture, RGB uint8 (H, W, 3)."""


class ChatError(DataEngineError):
    """The endpoint gives no answer; the message names its host, and says why and what to do."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Endpoint:
    """A language model behind OpenAI's chat interface.

    Attributes:
        url: such as `https://api.example.com/v1`; `/chat/completions` is appended.
        model: the name that the endpoint knows.
        key: sent as bearer token, if any; neither shown nor logged.
        silence_s: the longest wait for a part of an answer.
        limit_s: the longest time for one question, with retries.
        wait_s: pause after the first busy answer; doubled after each.
    """

    url: str
    model: str
    key: str = field(default="", repr=False)
    silence_s: float = 60.0
    limit_s: float = 180.0
    wait_s: float = 1.0

    @property
    def address(self) -> httpx.URL:
        """The complete URL of questions.

        Raises:
            ChatError: it is not an http or https URL.
        """
        try:
            found = httpx.URL(self.url.rstrip("/") + "/chat/completions")
        except httpx.InvalidURL as error:
            raise ChatError(f"the language model's URL is none: {error}") from error
        if found.scheme not in ("http", "https") or not found.host:
            raise ChatError(
                "the language model's URL does not start with http:// or https:// and a host"
            )
        return found

    @property
    def host(self) -> str:
        """Host and port, for messages and files."""
        address = self.address
        return address.host if address.port is None else f"{address.host}:{address.port}"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model said.

    Attributes:
        text: the answer.
        first_token: log-probability, natural, by the most probable first tokens; empty if the
            endpoint gives none.
    """

    text: str
    first_token: dict[str, float] = field(default_factory=dict)


class Chat(Protocol):
    """A model that answers questions."""

    @property
    def name(self) -> str:
        """Model and where it runs, for messages, cards and annotators."""
        ...

    def ask(
        self,
        question: str | Sequence[Part],
        *,
        first_token: bool = False,
        max_tokens: int | None = None,
    ) -> Answer:
        """See `ask`.

        Raises:
            ChatError: there is no answer.
        """
        ...


class EndpointChat:
    """A Chat behind an endpoint, with one connection; close it."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self._client = open_chat(endpoint)

    @property
    def name(self) -> str:
        """See Chat."""
        return f"{self.endpoint.model}@{self.endpoint.host}"

    def ask(
        self,
        question: str | Sequence[Part],
        *,
        first_token: bool = False,
        max_tokens: int | None = None,
    ) -> Answer:
        """See Chat."""
        return ask(
            self._client, self.endpoint, question, first_token=first_token, max_tokens=max_tokens
        )

    def close(self) -> None:
        """Close the connection."""
        self._client.close()


def open_chat(endpoint: Endpoint) -> httpx.Client:
    """Return a client for `ask`; close it.

    Raises:
        ChatError: the key cannot be one.
    """
    return httpx.Client(headers=_headers(endpoint), timeout=endpoint.silence_s)


def _headers(endpoint: Endpoint) -> dict[str, str]:
    if not endpoint.key:
        return {}
    if not endpoint.key.isascii() or not endpoint.key.isprintable() or " " in endpoint.key:
        raise ChatError(
            f"the key of {endpoint.host} has a space, a line break or another character that no "
            "key has: set it again"
        )
    return {"Authorization": f"Bearer {endpoint.key}"}


def ask(
    client: httpx.Client,
    endpoint: Endpoint,
    question: str | Sequence[Part],
    *,
    first_token: bool = False,
    max_tokens: int | None = None,
) -> Answer:
    """Return the answer to one question; waits and asks again while the endpoint is busy.

    Args:
        client: of `open_chat`.
        endpoint: the model.
        question: a text, or texts and pictures in their order.
        first_token: whether to ask for log-probabilities of the first token. An endpoint that
            refuses such a request is asked without them.
        max_tokens: of the answer; None: the endpoint's own limit.

    Raises:
        ChatError: there is no answer; the message says why.
    """
    body: dict[str, Any] = {
        "model": endpoint.model,
        "messages": [{"role": "user", "content": _content(question)}],
    }
    if max_tokens is not None:
        body["max_tokens"] = max_tokens
    extra = {"temperature": 0, "logprobs": True, "top_logprobs": TOP} if first_token else {}
    status, content = _until_free(client, endpoint, body | extra)
    if extra and status in (400, 422):  # it knows no log-probabilities
        status, content = _until_free(client, endpoint, body | {"temperature": 0})
    if status in (401, 403):
        raise _failed(endpoint, f"refuses the key ({status}): set the right one", content)
    if status != 200:
        raise _failed(
            endpoint, f"answers {status}: check URL and model {endpoint.model!r}", content
        )
    return _answer(endpoint, content)


def _content(question: str | Sequence[Part]) -> Any:
    if isinstance(question, str):
        return question
    return [
        {"type": "text", "text": part}
        if isinstance(part, str)
        else {"type": "image_url", "image_url": {"url": data_url(part)}}
        for part in question
    ]


def data_url(image_HWC: np.ndarray, max_side: int = MAX_SIDE) -> str:
    """Return a picture, RGB uint8 (H, W, 3), as a PNG in a data URL, shrunk to `max_side`."""
    small = shrink(image_HWC, max_side)
    _, coded = cv2.imencode(".png", np.ascontiguousarray(small[:, :, ::-1]))
    return "data:image/png;base64," + base64.b64encode(coded.tobytes()).decode()


def _until_free(
    client: httpx.Client, endpoint: Endpoint, body: dict[str, Any]
) -> tuple[int, bytes]:
    """Return status and content of the first answer that is not busy."""
    deadline, wait = time.monotonic() + endpoint.limit_s, endpoint.wait_s
    while True:
        status, headers, content = _post(client, endpoint, body, deadline)
        if status not in BUSY and status < 500:
            return status, content
        asked = headers.get("retry-after", "")
        pause = min(float(asked) if asked.isdecimal() else wait, LONGEST_WAIT_S)
        if time.monotonic() + pause > deadline:
            raise _failed(endpoint, f"answers {status} for {endpoint.limit_s:g} s", content)
        time.sleep(pause)
        wait *= 2


def _post(
    client: httpx.Client, endpoint: Endpoint, body: dict[str, Any], deadline: float
) -> tuple[int, httpx.Headers, bytes]:
    content = b""
    try:
        with client.stream("POST", endpoint.address, json=body) as response:
            for part in response.iter_bytes():
                content += part
                if len(content) > LARGEST_ANSWER:
                    raise _failed(endpoint, f"answers more than {LARGEST_ANSWER} bytes")
                if time.monotonic() > deadline:
                    raise _failed(endpoint, f"took more than {endpoint.limit_s:g} s for an answer")
    except httpx.TimeoutException as error:
        raise _failed(endpoint, f"said nothing for {endpoint.silence_s:g} s") from error
    except httpx.HTTPError as error:
        raise _failed(endpoint, f"cannot be reached: {error}") from error
    return response.status_code, response.headers, content


def _answer(endpoint: Endpoint, content: bytes) -> Answer:
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise _failed(endpoint, "answers something that is not JSON: check the URL", content) from (
            error
        )
    try:
        choice = found["choices"][0]
        text = choice["message"]["content"]
    except (KeyError, IndexError, TypeError) as error:
        raise _failed(endpoint, "answers JSON without `choices[0].message.content`", content) from (
            error
        )
    if not isinstance(text, str) or not text.strip():
        raise _failed(endpoint, f"answers nothing: try another model than {endpoint.model}")
    return Answer(text, _first_token(choice))


def _first_token(choice: dict[str, Any]) -> dict[str, float]:
    """Return the log-probabilities of an answer's first token; none where the form is another."""
    try:
        rows = choice["logprobs"]["content"][0]["top_logprobs"]
        found = {str(row["token"]): float(row["logprob"]) for row in rows}
    except (KeyError, IndexError, TypeError, ValueError):
        return {}
    return {token: value for token, value in found.items() if value <= 0}


def _failed(endpoint: Endpoint, what: str, content: bytes = b"") -> ChatError:
    """Return the error with the beginning of an answer, from which the key is removed."""
    said = content.decode("utf-8", "replace")
    said = flat(said.replace(endpoint.key, "(key)") if endpoint.key else said)
    return ChatError(
        f"the language model at {endpoint.host} {what}" + (f"; it says {said!r}" if said else "")
    )


def flat(text: object) -> str:
    """Return the beginning of a text as one line."""
    return " ".join(str(text).split())[:200]
